"""LLM records made into tokens: the model's own chat template, and a label only where the model should learn.

What is learnt: the output of a completion, the assistant's turns of a chat, all of a document, both answers of a
preference; and always the end-of-sequence token behind them. Knows nothing of batches or of training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from tunetrail.errors import SampleError

IGNORED = -100
"""The label of a token from which nothing is learnt."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizedExample:
    """One record in tokens.

    Attributes:
        input_ids: Token ids.
        labels: The same ids where the model should learn, `IGNORED` elsewhere.
        supervised_bytes: UTF-8 bytes of the text behind the labels, special tokens not counted.
        truncated: Whether tokens were cut off at the maximum length.
        weight: What each of its supervised tokens counts in training.
    """

    input_ids: list[int]
    labels: list[int]
    supervised_bytes: int
    truncated: bool
    weight: float = 1.0

    @property
    def supervised_tokens(self) -> int:
        """Tokens that are predicted: those with a label, but for a first one, before which nothing stands."""
        first = bool(self.labels) and self.labels[0] != IGNORED
        return len(self.labels) - self.labels.count(IGNORED) - first


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


def tokenize_record(
    tokenizer: PreTrainedTokenizerBase, record: Mapping[str, Any], max_length: int
) -> TokenizedExample:
    """Render, tokenise and label one record, but for a preference; tokens past `max_length` are cut off.

    Raises:
        SampleError: The chat template drops what should be learnt.
    """
    messages = record_messages(record)
    if messages is None:
        text, spans = record["text"], [(0, len(record["text"]))]
    elif tokenizer.chat_template:
        text, spans = _render(tokenizer, messages)
    else:
        text, spans = _render_plainly(tokenizer, messages)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    input_ids, offsets = list(encoded["input_ids"]), list(encoded["offset_mapping"])
    labels = [
        token
        if any(start <= begin and end <= stop for start, stop in spans) and end > begin
        else IGNORED
        for token, (begin, end) in zip(input_ids, offsets, strict=True)
    ]
    labels[:1] = [
        IGNORED for _ in labels[:1]
    ]  # nothing stands before the first token, so no model can predict it
    if messages is None:
        input_ids.append(tokenizer.eos_token_id)
        labels.append(tokenizer.eos_token_id)
        offsets.append((len(text), len(text)))
    special = set(tokenizer.all_special_ids)
    kept = [
        (begin, end)
        for label, (begin, end) in zip(labels[:max_length], offsets[:max_length], strict=True)
        if label != IGNORED and label not in special
    ]
    return TokenizedExample(
        input_ids=input_ids[:max_length],
        labels=labels[:max_length],
        supervised_bytes=sum(len(text[begin:end].encode()) for begin, end in _merged(kept)),
        truncated=len(input_ids) > max_length,
        weight=weight_of(record),
    )


def is_preference(record: Mapping[str, Any]) -> bool:
    """Whether a record has two answers to choose from, instead of a text to learn."""
    return record.get("chosen") is not None and record.get("rejected") is not None


def completions_of(record: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a preference as two completions, the chosen answer's first; both keep its weight."""
    shared = {"input": record["prompt"], "weight": record.get("weight")}
    return {**shared, "output": record["chosen"]}, {**shared, "output": record["rejected"]}


def weight_of(record: Mapping[str, Any]) -> float:
    """Return what a record counts in training, 1 where it doesn't say."""
    weight = record.get("weight")
    return 1.0 if weight is None else float(weight)


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]
) -> tuple[str, list[tuple[int, int]]]:
    """Return the conversation's text and the spans of the assistant's turns, each with its end-of-sequence token."""

    def rendered(count: int, prompt: bool) -> str:
        return str(
            tokenizer.apply_chat_template(
                messages[:count], tokenize=False, add_generation_prompt=prompt
            )
        )

    text = rendered(len(messages), prompt=False)
    spans = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        turn = rendered(number + 1, prompt=False)
        if number:
            start = _shared_prefix(rendered(number, prompt=True), turn)
        else:  # many templates can't render nothing
            start = max(turn.find(message["content"].strip()), 0)
        end_token = turn.rfind(tokenizer.eos_token, start)
        end = end_token + len(tokenizer.eos_token) if end_token >= 0 else len(turn.rstrip("\n"))
        tail = message["content"].strip()[-40:]
        if not text.startswith(turn[:end]) or tail not in turn[start:end]:
            raise SampleError(
                f"messages[{number}] (assistant) is changed or dropped by the model's chat template, "
                "so it can't be learnt. Use another model, or a template that keeps earlier turns."
            )
        spans.append((start, end))
    return text, spans


def _shared_prefix(first: str, second: str) -> int:
    if second.startswith(first):
        return len(first)
    pairs = enumerate(zip(first, second, strict=False))
    return next(
        (number for number, (one, other) in pairs if one != other), min(len(first), len(second))
    )


def _render_plainly(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]
) -> tuple[str, list[tuple[int, int]]]:
    """Return turns on lines of their own, for a model without a chat template."""
    text, spans = "", []
    for message in messages:
        start = len(text)
        text += message["content"] + (
            tokenizer.eos_token if message["role"] == "assistant" else "\n"
        )
        if message["role"] == "assistant":
            spans.append((start, len(text)))
    return text, spans


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join touching and overlapping spans, so that a character of several tokens counts once."""
    joined: list[tuple[int, int]] = []
    for begin, end in spans:
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return joined
