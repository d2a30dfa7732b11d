"""The text that several tokenizers all read, so that their models are scored on the same bytes.

At the same maximum length, a tokenizer of short tokens reads less of a long text than another one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tunetrail.config.language_model import KEEP
from tunetrail.errors import SampleError
from tunetrail.learning.tokens.chat import (
    IGNORED,
    LabelledText,
    TokenizedExample,
    label_record,
    labeller,
    record_messages,
    tokenize_record,
    unlearnable_example,
)
from tunetrail.samples.messages import THOUGHTS_BEGIN

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
"""Begin and end in the characters of a content: a document, or an assistant's turn."""


def tokenize_shared(
    tokenizers: "Sequence[PreTrainedTokenizerBase]",
    record: Mapping[str, Any],
    max_length: int,
    thoughts: str = KEEP,
) -> list[TokenizedExample]:
    """Return a record tokenised by each tokenizer, with labels on the text that all of them read.

    The labelled tokens of all tokenizers spell the same characters of the record's own contents.
    The end of a turn keeps its label if every tokenizer labels one. A record has no tokens if one
    of the chat templates has no form for it.

    Args:
        tokenizers: The tokenizers, with their chat templates.
        record: A record that isn't a preference.
        max_length: Tokens that each of the models reads.
        thoughts: What becomes of the thoughts in answers.
    """
    try:
        wholes = [label_record(tokenizer, record, thoughts) for tokenizer in tokenizers]
    except SampleError:
        return [unlearnable_example()] * len(tokenizers)

    turns, contents = _learned_contents(record, wholes)
    located = []
    for tokenizer, whole in zip(tokenizers, wholes, strict=True):
        narrowed = _narrowed(whole, turns)
        located.append(_locate_tokens(tokenizer, narrowed, contents, max_length))
    spans_of_turn, has_end = [], []
    for turn, content in enumerate(contents):
        spans_of_turn.append(_shared_spans(located, turn, content))
        has_end.append(all(tokens.ends[turn] for tokens in located))

    shared_bytes = 0
    for content, spans in zip(contents, spans_of_turn, strict=True):
        shared_bytes += sum(len(content[begin:end].encode()) for begin, end in spans)
    examples = [
        tokenize_record(tokenizer, record, max_length, thoughts, whole)
        for tokenizer, whole in zip(tokenizers, wholes, strict=True)
    ]
    read_bytes = max(example.supervised_bytes for example in examples)

    limited = []
    for example, tokens in zip(examples, located, strict=True):
        labels = [IGNORED] * len(example.labels)
        for position in tokens.positions_within(spans_of_turn, has_end):
            labels[position] = example.labels[position]
        unshared_bytes = max(read_bytes - shared_bytes, 0)
        limited.append(
            replace(
                example,
                labels=labels,
                supervised_bytes=shared_bytes,
                unshared_bytes=unshared_bytes,
            )
        )
    return limited


class _LocatedTokens:
    """Where in a record's contents its labelled tokens are.

    Args:
        turns: Number of contents.

    Attributes:
        text: For each content, the span of each token that spells text, by the token's position.
        unread: For each content, the spans of tokens that aren't scored.
        ends: For each content, the positions of its special tokens.
    """

    def __init__(self, turns: int) -> None:
        self.text: list[dict[int, Span]] = [{} for _ in range(turns)]
        self.unread: list[list[Span]] = [[] for _ in range(turns)]
        self.ends: list[list[int]] = [[] for _ in range(turns)]

    def positions_within(
        self, spans_of_turn: Sequence[Sequence[Span]], has_end: Sequence[bool]
    ) -> list[int]:
        """Return the positions of tokens within the spans of their content, and of its end."""
        positions: list[int] = []
        for turn, spans in enumerate(spans_of_turn):
            for position, (begin, end) in self.text[turn].items():
                if any(start <= begin and end <= stop for start, stop in spans):
                    positions.append(position)
            positions += self.ends[turn] if has_end[turn] else []
        return positions


def _learned_contents(
    record: Mapping[str, Any], wholes: Sequence[LabelledText]
) -> tuple[list[int], list[str]]:
    """Return the turns that every tokenizer labels, and their contents; or the document."""
    messages = record_messages(record)
    if messages is None:
        return [0], [record["text"]]

    shared = set(wholes[0].turns).intersection(*(whole.turns for whole in wholes[1:]))
    turns = sorted(shared)
    # Some prompts have opened the thoughts already, so that the tag isn't learned.
    contents = [
        messages[turn]["content"].removeprefix(THOUGHTS_BEGIN).lstrip("\n") for turn in turns
    ]
    return turns, contents


def _narrowed(whole: LabelledText, turns: Sequence[int]) -> LabelledText:
    """Return the text with labels on these turns only."""
    if whole.turns == turns:
        return whole

    spans = [span for span, turn in zip(whole.spans, whole.turns, strict=True) if turn in turns]
    labels = list(map(labeller(spans), whole.input_ids, whole.offsets))
    labels[:1] = [IGNORED] * len(labels[:1])
    return replace(whole, spans=spans, turns=list(turns), labels=labels)


def _locate_tokens(
    tokenizer: "PreTrainedTokenizerBase",
    whole: LabelledText,
    contents: Sequence[str],
    max_length: int,
) -> _LocatedTokens:
    """Return where the labelled tokens are that the maximum length leaves, and all others."""
    special_ids = set(tokenizer.all_special_ids)
    starts = _content_starts(whole, contents)
    tokens = _LocatedTokens(len(contents))
    turn, last_end = 0, 0
    if not contents:
        return tokens

    for position, (label, (begin, end)) in enumerate(zip(whole.labels, whole.offsets, strict=True)):
        while turn < len(contents) - 1 and begin >= whole.spans[turn][1]:
            turn, last_end = turn + 1, 0
        is_scored = position < max_length and label != IGNORED
        if is_scored and label in special_ids:
            tokens.ends[turn].append(position)
            continue

        length = len(contents[turn])
        begin, end = begin - starts[turn], end - starts[turn]
        # What a template adds to a turn is no content of the record.
        is_inside = begin >= 0 and end <= length
        if is_scored and is_inside:
            # Many tokenizers leave the space before a word out of its offsets.
            has_gap = contents[turn][last_end:begin].isspace()
            tokens.text[turn][position] = (last_end if has_gap else begin, end)
            last_end = end
        elif begin < length and end > 0:
            tokens.unread[turn].append((max(begin, 0), end))
    return tokens


def _content_starts(whole: LabelledText, contents: Sequence[str]) -> list[int]:
    """Return where each content begins in the rendered text, whose template may have stripped it.

    It is counted as if the white space at its beginning were there, so the index may be too low.
    """
    starts = []
    for (begin, _), content in zip(whole.spans, contents, strict=True):
        stripped = content.strip()
        start = max(whole.text.find(stripped, begin), begin)
        starts.append(start - content.find(stripped))
    return starts


def _shared_spans(located: Sequence[_LocatedTokens], turn: int, content: str) -> list[Span]:
    """Return the spans of a content that the tokens of each tokenizer fill from border to border.

    Args:
        located: The tokens of each tokenizer.
        turn: Index of the content.
        content: The content.
    """
    is_read = np.ones(len(content), dtype=bool)
    is_border = np.ones(len(content) + 1, dtype=bool)
    for tokens in located:
        read, border = np.zeros_like(is_read), np.zeros_like(is_border)
        for begin, end in tokens.text[turn].values():
            read[begin:end] = True
            border[[begin, end]] = True
        for begin, end in tokens.text[turn].values():
            # A border within a token is none, and two tokens may overlap in one character.
            border[begin + 1 : end] = False
        for begin, end in tokens.unread[turn]:
            # One byte of a character is not enough.
            read[begin:end] = False
        is_read &= read
        is_border &= border

    # Where reading begins and ends, in turn.
    changes = np.flatnonzero(np.diff(np.concatenate([[False], is_read, [False]])))
    spans = []
    for start, stop in changes.reshape(-1, 2).tolist():
        borders = start + np.flatnonzero(is_border[start : stop + 1])
        if len(borders) > 1:
            spans.append((int(borders[0]), int(borders[-1])))
    return spans
