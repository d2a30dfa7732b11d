"""Turns LLM records into tokens with the model's own chat template, and labels what is learned.

A model learns the output of a completion, the assistant's turns of a chat, all of a document, both
answers of a preference, the answer of a verdict, and always the end-of-sequence token after them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunetrail.config.language_model import KEEP
from tunetrail.errors import SampleError
from tunetrail.learning.tokens.markers import FILLER, markers_of
from tunetrail.learning.tokens.rendered_tokens import encode_rendered
from tunetrail.learning.tokens.rendering import RenderedChat, render_chat, served_prompt
from tunetrail.samples.messages import is_learnt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The value that torch's cross-entropy leaves out by default.
IGNORED = -100
"""The label of a token from which nothing is learned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizedExample:
    """One record in tokens.

    Attributes:
        input_ids: Token ids.
        labels: The same ids for tokens that are learned, `IGNORED` for all others.
        supervised_bytes: Number of UTF-8 bytes of the labelled text, without special tokens.
        truncated: Whether tokens were cut off at the maximum length.
        weight: Weight of each of its supervised tokens in training.
        unshared_bytes: Number of bytes of its text that not all compared tokenizers read, so that
            nothing of it is labelled; see `shared_text`.
        context_answers: Number of its answers that are context only; see `RenderedChat`.
    """

    input_ids: list[int]
    labels: list[int]
    supervised_bytes: int
    truncated: bool
    weight: float = 1.0
    unshared_bytes: int = 0
    context_answers: int = 0

    @property
    def supervised_positions(self) -> list[int]:
        """Positions of the tokens with a label, except the first token."""
        labels = enumerate(self.labels)
        return [position for position, label in labels if position and label != IGNORED]

    @property
    def supervised_tokens(self) -> int:
        """Number of tokens with a label, except the first token, which can't be predicted."""
        return len(self.labels[1:]) - self.labels[1:].count(IGNORED)


def example_lengths(examples: Iterable[TokenizedExample]) -> list[int]:
    """Return the number of tokens of each example."""
    return [len(example.input_ids) for example in examples]


def supervised_counts(examples: Iterable[TokenizedExample]) -> list[int]:
    """Return the number of supervised tokens of each example."""
    return [example.supervised_tokens for example in examples]


def record_messages(record: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return the record as chat messages, or None for a document."""
    if record.get("messages") is not None:
        return list(record["messages"])
    if record.get("output") is not None:
        return [
            {"role": "user", "content": record["input"]},
            {"role": "assistant", "content": record["output"]},
        ]
    if record.get("completion") is not None:
        return [*_prompt_of(record), {"role": "assistant", "content": record["completion"]}]
    return None


def _prompt_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the messages before the answers that a record compares or judges.

    Earlier answers belong to the prompt: they aren't learnt.
    """
    if record.get("prompt_messages") is None:
        return [{"role": "user", "content": record["prompt"]}]
    return list(map(_as_context, record["prompt_messages"]))


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledText:
    """One record as text, with all of its tokens.

    Attributes:
        text: The rendered text.
        spans: Begin and end of what is learned, in characters: the assistant's turns, or all of a
            document.
        turns: The index of the message of each span; 0 for a document.
        context_answers: Number of answers that are context only; see `RenderedChat`.
        input_ids: Token ids.
        labels: The same ids for tokens that are learned, `IGNORED` for all others.
        offsets: Begin and end of each token in the text, in characters.
    """

    text: str
    spans: list[tuple[int, int]]
    turns: list[int]
    input_ids: list[int]
    labels: list[int]
    offsets: list[tuple[int, int]]
    context_answers: int = 0


def tokenize_record(
    tokenizer: "PreTrainedTokenizerBase",
    record: Mapping[str, Any],
    max_length: int,
    thoughts: str = KEEP,
    whole: LabelledText | None = None,
) -> TokenizedExample:
    """Render, tokenise and label one record that isn't a preference; cut it at `max_length` tokens.

    Args:
        tokenizer: The tokenizer, with its chat template.
        record: The record.
        max_length: Tokens that the model reads.
        thoughts: What becomes of the thoughts in answers.
        whole: What `label_record` has returned for the record, if it was called already.

    Raises:
        SampleError: The chat template refuses the record, or drops text that should be learned.
    """
    whole = whole or label_record(tokenizer, record, thoughts)
    # Special tokens are learned, but they are no text whose bytes could be counted.
    unsupervised = {IGNORED, *tokenizer.all_special_ids}
    supervised_spans = []
    for label, span in zip(whole.labels[:max_length], whole.offsets[:max_length], strict=True):
        if label not in unsupervised:
            supervised_spans.append(span)
    supervised_texts = [whole.text[begin:end] for begin, end in _join_spans(supervised_spans)]

    return TokenizedExample(
        input_ids=whole.input_ids[:max_length],
        labels=whole.labels[:max_length],
        supervised_bytes=len("".join(supervised_texts).encode()),
        truncated=len(whole.input_ids) > max_length,
        weight=weight_of(record),
        context_answers=whole.context_answers,
    )


def unlearnable_example() -> TokenizedExample:
    """Return the example of a record that its chat template has no form for: without a token."""
    return TokenizedExample(input_ids=[], labels=[], supervised_bytes=0, truncated=False)


def label_record(
    tokenizer: "PreTrainedTokenizerBase", record: Mapping[str, Any], thoughts: str = KEEP
) -> LabelledText:
    """Render, tokenise and label one record that isn't a preference, of any length.

    Raises:
        SampleError: The chat template refuses the record, or drops text that should be learned.
    """
    messages = record_messages(record)
    if messages is None:
        document = markers_of(tokenizer).shielded_text(record["text"])
        rendered = RenderedChat(text=document, spans=[(0, len(document))], turns=[0])
    else:
        rendered = render_chat(tokenizer, messages, record.get("tools"), thoughts)

    # Only the last answer is cut off from its prompt before tokenising, as when a model is served:
    # the answers before it are part of the prompt then.
    start = None if messages is None else rendered.spans[-1][0]
    input_ids, offsets = encode_rendered(tokenizer, rendered.text, start)
    text, spans = rendered.text, rendered.spans
    if FILLER in text:
        spans = [(_clean_position(text, begin), _clean_position(text, end)) for begin, end in spans]
        text = text.replace(FILLER, "")
    labels = list(map(labeller(spans), input_ids, offsets))
    # No model can predict the first token.
    labels[:1] = [IGNORED] * len(labels[:1])
    if messages is None:
        # No template ends a document. The end has no characters, so it adds no bytes.
        input_ids.append(tokenizer.eos_token_id)
        labels.append(tokenizer.eos_token_id)
        offsets.append((len(text), len(text)))

    return LabelledText(
        text=text,
        spans=spans,
        turns=rendered.turns,
        input_ids=input_ids,
        labels=labels,
        offsets=offsets,
        context_answers=rendered.context_answers,
    )


def _clean_position(text: str, position: int) -> int:
    return position - text.count(FILLER, 0, position)


def labeller(spans: list[tuple[int, int]]) -> Callable[[int, tuple[int, int]], int]:
    """Return a function that labels a token if its characters lie within one of the spans."""

    def label(token: int, offset: tuple[int, int]) -> int:
        begin, end = offset
        # A token across a border isn't learned: some of its characters belong to another turn.
        is_learned = any(start <= begin < end <= stop for start, stop in spans)
        return token if is_learned else IGNORED

    return label


def last_answer(record: Mapping[str, Any]) -> tuple[list[dict[str, Any]], str] | None:
    """Return the messages before a record's last answer in text, and the answer.

    None if it has no answer to a prompt, as a document or a preference, or only a rejected one.
    """
    has_none = is_preference(record) or record.get("accepted") is False
    messages = [] if has_none else record_messages(record) or []
    for index in range(len(messages) - 1, 0, -1):
        is_blank_completion = record.get("output") is not None
        is_text = is_learnt(messages[index]) and not messages[index].get("tool_calls")
        if messages[index]["role"] == "assistant" and (is_text or is_blank_completion):
            return messages[:index], messages[index]["content"]
    return None


def prompt_tokens(tokenizer: "PreTrainedTokenizerBase", record: Mapping[str, Any]) -> list[int]:
    """Return the tokens after which a model learns to write the last answer of a record.

    Raises:
        SampleError: The record has no answer in text, or the chat template refuses its messages.
    """
    conversation = last_answer(record)
    if conversation is None:
        raise SampleError("messages must have an answer in text, got none.")
    messages, _ = conversation
    prompt = served_prompt(tokenizer, messages, record.get("tools"))
    return encode_rendered(tokenizer, prompt)[0]


def end_tokens(
    tokenizer: "PreTrainedTokenizerBase", examples: Iterable[TokenizedExample]
) -> set[int]:
    """Return the tokens by which examples teach a model to end an answer.

    Many chat templates end a turn with a token of their own instead of the end of the sequence.
    """
    last_labels = set()
    for example in examples:
        # What a template writes after the end, such as a line break, isn't learned.
        learned = [label for label in example.labels if label != IGNORED]
        if learned and not example.truncated:
            last_labels.add(learned[-1])

    # Only special tokens: a template that ends turns with a word must not end answers by it.
    added = tokenizer.added_tokens_decoder
    ends = {label for label in last_labels if label in added and added[label].special}
    return ends | {int(tokenizer.eos_token_id)}


def is_preference(record: Mapping[str, Any]) -> bool:
    """Tell whether a record has two answers to choose from instead of a text to learn."""
    return record.get("chosen") is not None and record.get("rejected") is not None


def is_judged(record: Mapping[str, Any]) -> bool:
    """Tell whether a record has an answer with the verdict on it."""
    return record.get("completion") is not None and record.get("accepted") is not None


def completions_of(record: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a preference as two examples, the chosen answer first, with its weight."""
    chosen, rejected = record["chosen"], record["rejected"]
    if record.get("prompt_messages") is None:
        shared = {"input": record["prompt"], "weight": record.get("weight")}
        return {**shared, "output": chosen}, {**shared, "output": rejected}

    prompt = _prompt_of(record)
    shared = {"weight": record.get("weight"), "tools": record.get("tools")}

    def completion(answer: str) -> dict[str, Any]:
        return {"messages": [*prompt, {"role": "assistant", "content": answer}], **shared}

    return completion(chosen), completion(rejected)


def _as_context(message: Mapping[str, Any]) -> dict[str, Any]:
    return {**message, "weight": 0.0} if message["role"] == "assistant" else dict(message)


def weight_of(record: Mapping[str, Any]) -> float:
    """Return the weight of a record in training; 1 if it has none."""
    weight = record.get("weight")
    return 1.0 if weight is None else float(weight)


def _join_spans(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join touching and overlapping spans, so that a character of several tokens counts once."""
    joined: list[tuple[int, int]] = []
    for begin, end in spans:
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return joined
