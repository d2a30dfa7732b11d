"""Turns LLM records into tokens with the model's own chat template, and labels what is learned.

A model learns the output of a completion, the assistant's turns of a chat, all of a document, both
answers of a preference, and always the end-of-sequence token after them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from tunetrail.errors import SampleError

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
    """

    input_ids: list[int]
    labels: list[int]
    supervised_bytes: int
    truncated: bool
    weight: float = 1.0
    unshared_bytes: int = 0

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


def record_messages(record: Mapping[str, Any]) -> list[dict[str, str]] | None:
    """Return the record as chat messages, or None for a document."""
    if record.get("messages") is not None:
        return list(record["messages"])
    if record.get("output") is not None:
        return [
            {"role": "user", "content": record["input"]},
            {"role": "assistant", "content": record["output"]},
        ]
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledText:
    """One record as text, with all of its tokens.

    Attributes:
        text: The rendered text.
        spans: Begin and end of what is learned, in characters: the assistant's turns, or all of a
            document.
        input_ids: Token ids.
        labels: The same ids for tokens that are learned, `IGNORED` for all others.
        offsets: Begin and end of each token in the text, in characters.
    """

    text: str
    spans: list[tuple[int, int]]
    input_ids: list[int]
    labels: list[int]
    offsets: list[tuple[int, int]]


def tokenize_record(
    tokenizer: PreTrainedTokenizerBase, record: Mapping[str, Any], max_length: int
) -> TokenizedExample:
    """Render, tokenise and label one record that isn't a preference; cut it at `max_length` tokens.

    Raises:
        SampleError: The chat template drops text that should be learned.
    """
    whole = label_record(tokenizer, record)
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
    )


def label_record(tokenizer: PreTrainedTokenizerBase, record: Mapping[str, Any]) -> LabelledText:
    """Render, tokenise and label one record that isn't a preference, of any length.

    Raises:
        SampleError: The chat template drops text that should be learned.
    """
    messages = record_messages(record)
    if messages is None:
        text, spans = record["text"], [(0, len(record["text"]))]
    else:
        text, spans = _rendered(tokenizer, messages)

    # A chat template has written the special tokens as text already.
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    input_ids, offsets = list(encoded["input_ids"]), list(encoded["offset_mapping"])
    labels = list(map(_labeller(spans), input_ids, offsets))
    # No model can predict the first token.
    labels[:1] = [IGNORED] * len(labels[:1])
    if messages is None:
        # No template ends a document. The end has no characters, so it adds no bytes.
        input_ids.append(tokenizer.eos_token_id)
        labels.append(tokenizer.eos_token_id)
        offsets.append((len(text), len(text)))

    return LabelledText(text=text, spans=spans, input_ids=input_ids, labels=labels, offsets=offsets)


def _labeller(spans: list[tuple[int, int]]) -> Callable[[int, tuple[int, int]], int]:
    """Return a function that labels a token if its characters lie within one of the spans."""

    def label(token: int, offset: tuple[int, int]) -> int:
        begin, end = offset
        # A token across a border isn't learned: some of its characters belong to another turn.
        is_learned = any(start <= begin < end <= stop for start, stop in spans)
        return token if is_learned else IGNORED

    return label


def last_answer(record: Mapping[str, Any]) -> tuple[list[dict[str, str]], str] | None:
    """Return the messages before a record's last answer, and the answer.

    None if it has no answer to a prompt, as a document or a preference.
    """
    messages = [] if is_preference(record) else record_messages(record) or []
    for index in range(len(messages) - 1, 0, -1):
        if messages[index]["role"] == "assistant":
            return messages[:index], messages[index]["content"]
    return None


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, record: Mapping[str, Any]) -> list[int]:
    """Return the tokens after which a model learns to write the last answer of a record.

    They are rendered with the record's answers, as in training, and cut where the last one begins.

    Raises:
        SampleError: The chat template drops text that should be learned.
    """
    text, spans = _rendered(tokenizer, record_messages(record) or [])
    # The text and not the tokens: a token that reaches into the answer would give it away.
    prompt = text[: spans[-1][0]]
    return list(tokenizer(prompt, add_special_tokens=False)["input_ids"])


def end_tokens(
    tokenizer: PreTrainedTokenizerBase, examples: Iterable[TokenizedExample]
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


def completions_of(record: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a preference as two examples, the chosen answer first, with its weight."""
    chosen, rejected = record["chosen"], record["rejected"]
    if record.get("prompt_messages") is None:
        shared = {"input": record["prompt"], "weight": record.get("weight")}
        return {**shared, "output": chosen}, {**shared, "output": rejected}

    # Earlier answers belong to the prompt: only the two that are compared are learnt.
    prompt = list(map(_as_context, record["prompt_messages"]))
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


def _rendered(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]
) -> tuple[str, list[tuple[int, int]]]:
    """Return the conversation's text and the spans of the assistant's turns."""
    render = _render if tokenizer.chat_template else _render_plainly
    return render(tokenizer, messages)


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]
) -> tuple[str, list[tuple[int, int]]]:
    """Return the conversation's text and the spans of the assistant's turns.

    A span includes the turn's end-of-sequence token.
    """

    def render(turns: int, *, prompt: bool) -> str:
        rendered = tokenizer.apply_chat_template(
            messages[:turns], tokenize=False, add_generation_prompt=prompt
        )
        return str(rendered)

    text = render(len(messages), prompt=False)
    spans = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue

        # The turn begins where the prompt for it ends; many templates can't render no turns.
        so_far = render(index + 1, prompt=False)
        if index:
            # A prompt may end in what the turn lacks, such as an opening tag for reasoning.
            start = _common_prefix_length(render(index, prompt=True), so_far)
        else:
            start = max(so_far.find(message["content"].strip()), 0)
        # What a template writes after it, such as a line break, is never generated.
        end_token = so_far.rfind(tokenizer.eos_token, start)
        end = len(so_far.rstrip("\n"))
        if end_token >= 0:
            end = end_token + len(tokenizer.eos_token)

        # Some templates rewrite earlier turns once another follows: they drop the reasoning, say.
        tail = message["content"].strip()[-40:]
        if not text.startswith(so_far[:end]) or tail not in so_far[start:end]:
            raise SampleError(
                f"messages[{index}] (assistant) is changed or dropped by the model's chat "
                "template, so it can't be learned. Use another model, or a template that keeps "
                "earlier turns."
            )
        spans.append((start, end))
    return text, spans


def _common_prefix_length(first: str, second: str) -> int:
    for index, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return index
    return min(len(first), len(second))


def _render_plainly(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]
) -> tuple[str, list[tuple[int, int]]]:
    """Return each turn on lines of its own, for a model without a chat template."""
    text, spans = "", []
    for message in messages:
        # An end that is learned needs a token; the other turns only need a break.
        is_answer = message["role"] == "assistant"
        start = len(text)
        text += message["content"] + (tokenizer.eos_token if is_answer else "\n")
        if is_answer:
            spans.append((start, len(text)))
    return text, spans


def _join_spans(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join touching and overlapping spans, so that a character of several tokens counts once."""
    joined: list[tuple[int, int]] = []
    for begin, end in spans:
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return joined
