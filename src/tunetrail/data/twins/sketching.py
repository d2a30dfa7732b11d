"""Computes the sketches of rows, chunk by chunk."""

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.data.rows import content_columns, plain_records
from tunetrail.data.twins.boilerplate import Boilerplate
from tunetrail.data.twins.row_parts import (
    TEXTS_PER_ROW,
    RowParts,
    hash_of,
    identity,
    numbers_of,
    parts_of,
)
from tunetrail.data.twins.shingles import (
    Integers,
    Ragged,
    character_shingles,
    encoded,
    normalized,
    one_word_masks,
    signatures,
    smallest,
    spaced,
    text_hash,
    word_hashes,
    word_shingles,
)
from tunetrail.data.twins.sketches import TEXT_FIELDS, RowSketches, TextSketches
from tunetrail.samples import GROUP_COLUMN

# The kinds overlap from 16 to 32 words, so that a short text and a slightly longer one have a
# kind of sketch in common.
_LONG_FROM_WORDS = 16
_SHORT_UP_TO_WORDS = 32
# In a shorter text one word matters too much.
#
# "how do I lock my card" and "how do I track my card" would be twins.
_MASKED_FROM_WORDS = 7
_CHARACTERS_AT_ONCE = 1 << 21


class _AddedText(NamedTuple):
    """A text of a row.

    Attributes:
        linked: Indices of the texts that connect it: without boilerplate, perhaps as a whole, too.
        key: The hash of the whole text.
        normalized: The whole text, normalised.
        form: A hash of the boilerplate, 0 if it has none.
    """

    linked: tuple[int, ...]
    key: int
    normalized: str
    form: int = 0

    @property
    def compared(self) -> int:
        """Index of the text that it is compared by."""
        return self.linked[0]


class _TextTable:
    """The distinct normalised texts of a chunk, indexed in the order in which they come."""

    def __init__(self, boilerplate: Boilerplate | None = None) -> None:
        self.texts: list[str] = []
        self.keys: list[int] = []
        self._boilerplate = boilerplate
        self._added: dict[str, _AddedText] = {}
        self._index_of: dict[str, int] = {}

    def add(self, raw: str) -> _AddedText:
        """Return a text, which is normalised once and stored without its boilerplate."""
        # Normalising is slow, so a text is first looked up as it came.
        if raw not in self._added:
            text = normalized(raw)
            key = text_hash(text)
            own = None if self._boilerplate is None else self._boilerplate.own_text(text, key)
            if own is None:
                self._added[raw] = _AddedText((self.add_normalized(text),), key, text)
            else:
                linked = [own.text, text] if own.is_mixed else [own.text]
                indices = tuple(map(self.add_normalized, linked))
                self._added[raw] = _AddedText(indices, key, text, own.form)
        return self._added[raw]

    def add_normalized(self, text: str) -> int:
        """Return the index of a text that is normalised already."""
        if text not in self._index_of:
            self._index_of[text] = len(self.texts)
            self.texts.append(text)
            self.keys.append(text_hash(text))
        return self._index_of[text]


def sketch_rows(rows: pd.DataFrame, boilerplate: Boilerplate | None = None) -> RowSketches:
    """Return the sketches of rows; the sketch of a row doesn't depend on the other rows.

    Args:
        rows: The rows.
        boilerplate: What the texts share with many other rows: rows are compared without it, but
            keep their keys. None if the texts are compared as they are.
    """
    table = _TextTable(boilerplate)
    records = plain_records(rows[["shape", *content_columns(rows)]])
    sketched_rows, links = [], []
    for row, (record, group) in enumerate(zip(records, rows[GROUP_COLUMN], strict=True)):
        sketched = _sketch_row(record, group, table)
        sketched_rows.append(sketched)
        links += [(row, text) for text in dict.fromkeys(sketched.twins)]

    link_row, link_text = np.array(links, dtype=np.int32).reshape(-1, 2).T
    joined_hashes = b"".join(sketched.hashes for sketched in sketched_rows)
    # 80 bytes a row: six keys of 8 bytes and the row's name of 32 (see `_SketchedRow`).
    hashes = np.frombuffer(joined_hashes, dtype=np.uint8).reshape(-1, 80)
    keys = np.ascontiguousarray(hashes[:, :48]).view("<u8").astype(np.uint64)
    compared = np.array([sketched.compared for sketched in sketched_rows], dtype=np.int32)

    return RowSketches(
        row_id=rows["row_id"].to_numpy(dtype=np.int64),
        row_key=keys[:, :2],
        input_key=keys[:, 2],
        target_key=keys[:, 3],
        match_key=keys[:, 4],
        group_key=keys[:, 5],
        own_key=hashes[:, 48:],
        row_text=compared.reshape(-1, TEXTS_PER_ROW),
        whole_text=np.array([sketched.whole for sketched in sketched_rows], dtype=np.int32),
        link_row=link_row,
        link_text=link_text,
        text_key=np.array(table.keys, dtype=np.uint64),
        **_text_arrays(table.texts, masked=np.unique(link_text)),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _SketchedRow:
    """One row's texts, as indices, and its hashes.

    The 80 bytes of `hashes` are the row key (16), the input, target, match and group key (8 each)
    and the own key (32).
    """

    twins: Sequence[int]
    compared: Sequence[int]
    whole: int
    hashes: bytes


_NO_KEY = bytes(8)


def _sketch_row(record: dict[Any, Any], group: str | None, table: _TextTable) -> _SketchedRow:
    """Add the row's texts to the table and return its sketch."""
    row_parts = parts_of(record)
    # A row without a text that connects it is named by the empty text.
    twins = list(map(table.add, row_parts.twins)) or [table.add("")]
    texts, added, compared = [], [], []
    for text in row_parts.compared:
        if text is None:
            compared.append(-1)
            continue
        texts.append(text)
        added.append(table.add(text))
        compared.append(added[-1].compared)

    if row_parts.whole is not None:
        whole = table.add(row_parts.whole).compared
    elif len(added) == 1:
        whole = added[0].compared
    else:
        whole = table.add_normalized(" ".join(table.texts[entry.compared] for entry in added))

    # Rows with other numbers, or with other boilerplate, say something else.
    numbers = [numbers_of(text) for text in texts]
    forms = [entry.form for entry in added]
    # The prefix keeps a group from having the key of a text of the same words.
    name = f"text:{twins[0].normalized}" if group is None else f"group:{group}"
    text_keys = []
    for entry, text_numbers in zip(added, numbers, strict=True):
        key = entry.key.to_bytes(8, "little")
        text_keys.append(hash_of([key, text_numbers]) if text_numbers else key)
    hashes = (
        identity(record),
        *_input_and_target_keys(row_parts, text_keys),
        hash_of([*row_parts.setting, row_parts.answer, f"{numbers} {forms}"]),
        _NO_KEY if group is None else text_hash(group).to_bytes(8, "little"),
        hashlib.sha256(encoded(name)).digest(),
    )
    padded = compared + [-1] * (TEXTS_PER_ROW - len(compared))
    twin_indices = list(chain.from_iterable(text.linked for text in twins))
    return _SketchedRow(twins=twin_indices, compared=padded, whole=whole, hashes=b"".join(hashes))


def _input_and_target_keys(row_parts: RowParts, text_keys: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Return the keys of a row's question and answer.

    Two sentences, or two answers to choose from, are the same question in either order. Sorting the
    little-endian keys as numbers keeps their order in stored sketches.
    """
    as_number = functools.partial(int.from_bytes, byteorder="little")
    if row_parts.answered_by_text and len(text_keys) == 2:
        question, answer = text_keys
        return hash_of([*row_parts.setting, question]), answer

    if row_parts.answered_by_choice and len(text_keys) == 3:
        prompt, *answers = text_keys
        input_key = hash_of([*row_parts.setting, prompt, *sorted(answers, key=as_number)])
        return input_key, answers[0]

    if row_parts.answer is not None:
        input_key = hash_of([*row_parts.setting, *sorted(text_keys, key=as_number)])
        return input_key, hash_of([row_parts.answer])

    return _NO_KEY, _NO_KEY


def _text_arrays(texts: Sequence[str], masked: npt.NDArray[np.int32]) -> dict[str, Any]:
    """Return the sketches and masks of texts; only the texts in `masked` have masks."""
    is_masked = np.zeros(len(texts), dtype=bool)
    is_masked[masked] = True

    short_sketches, long_sketches, masks, spaced_words = [], [], [], []
    # All shingles at once would take many times as much memory as the texts.
    for start, stop in _blocks(texts):
        block = texts[start:stop]
        words = word_hashes(block)
        spaced_block = list(map(spaced, block))
        spaced_words.append(words if spaced_block == block else word_hashes(spaced_block))

        short = np.flatnonzero(words.counts <= _SHORT_UP_TO_WORDS)
        short_shingles = character_shingles([block[text] for text in short.tolist()])
        short_sketches.append(_sketch_texts(short + start, short_shingles))
        long = np.flatnonzero(words.counts >= _LONG_FROM_WORDS)
        long_sketches.append(_sketch_texts(long + start, word_shingles(words.of(long))))

        linked = np.flatnonzero(is_masked[start:stop])
        key, text, position = one_word_masks(words.of(linked), _MASKED_FROM_WORDS)
        masks.append((key, (linked[text] + start).astype(np.int32), position))

    key, text, position = map(np.concatenate, zip(*masks, strict=True))
    # The upper half of a hash, as of shingles: enough to tell the words of two texts apart.
    word = np.concatenate([words.values for words in spaced_words]) >> np.uint64(32)
    return {
        "word": word.astype(np.uint32),
        "word_count": np.concatenate([words.counts for words in spaced_words]).astype(np.int32),
        "mask_key": key,
        "mask_text": text,
        "mask_position": position,
        "short": _join_sketches(short_sketches),
        "long": _join_sketches(long_sketches),
    }


def _sketch_texts(texts: Integers, shingles: Ragged) -> TextSketches:
    """Return the sketches of texts from their shingles."""
    sample = smallest(shingles)
    return TextSketches(
        text=texts.astype(np.int32),
        signature=signatures(shingles),
        shingles=sample.values.astype(np.uint32),
        counts=sample.counts.astype(np.int32),
    )


def _join_sketches(blocks: Sequence[TextSketches]) -> TextSketches:
    joined = {}
    for name in TEXT_FIELDS:
        joined[name] = np.concatenate([getattr(block, name) for block in blocks])
    return TextSketches(**joined)


def _blocks(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of blocks of texts that together take little memory; at least one."""
    start, characters = 0, 0
    for position, text in enumerate(texts, start=1):
        characters += len(text)
        if characters > _CHARACTERS_AT_ONCE:
            yield start, position
            start, characters = position, 0
    if start < len(texts) or start == 0:
        yield start, len(texts)
