"""Sketches of rows: the hashes from which duplicates are found, computed chunk by chunk.

They are small, plain arrays, so that another process can compute them and a file can store them.
"""

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.data.rows import content_columns
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
    Hashes,
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
from tunetrail.samples import GROUP_COLUMN

KINDS = ("short", "long")

# The kinds overlap from 16 to 32 words, so that a short text and a slightly longer one have a
# kind of sketch in common.
_LONG_FROM_WORDS = 16
_SHORT_UP_TO_WORDS = 32
_MASKED_FROM_WORDS = 7
"""In a shorter text one word matters too much.

"how do I lock my card" and "how do I track my card" would be twins.
"""
_CHARACTERS_AT_ONCE = 1 << 21


@dataclass(frozen=True, kw_only=True)
class TextSketches:
    """MinHash signatures over one kind of shingles, of the texts that are compared by it.

    Attributes:
        text: The text of each signature, [s].
        signature: [s, `PERMUTATIONS`], 8 bits of each slot.
        shingles: The smallest shingle hashes of each text, sorted, one text after the other.
        counts: Number of shingles of each text, [s].
    """

    text: npt.NDArray[np.int32]
    signature: npt.NDArray[np.uint8]
    shingles: npt.NDArray[np.uint32]
    counts: npt.NDArray[np.int32]


_TEXT_FIELDS = tuple(field.name for field in fields(TextSketches))


@dataclass(frozen=True, kw_only=True)
class RowSketches:
    """Sketches of n rows and of their t distinct normalised texts.

    Attributes:
        row_id: [n].
        row_key: 128 bits of the hash of the shape and the unchanged content, [n, 2].
        input_key: Hash of the row's question, 0 if several answers may be right, [n].
        target_key: Hash of its answer, [n].
        match_key: Hash of everything that must be equal for one of two similar rows to be
            dispensable: shape, label, score, vector, the system's turns and the roles, [n].
        group_key: Hash of the group, 0 for none, [n].
        own_key: SHA-256 of the group, or of the text that names the row if it has none, [n, 32].
        row_text: The texts that a row is compared by, -1 for none, [n, `TEXTS_PER_ROW`].
        whole_text: The text that joins all of them, [n].
        link_row: Row of each link between a row and a text that connects it to other rows.
        link_text: Text of each link.
        text_key: Hash of each text, [t].
        word: Hashes of the words of each text in their order, one text after the other; letters of
            scripts without blanks count as words.
        word_count: Number of words of each text, [t].
        mask_key: One-word masks of linked texts (see `one_word_masks`).
        mask_text: Text of each mask.
        mask_position: Position of the word that a mask leaves out.
        short: Sketches of texts of up to 32 words, over character 5-shingles.
        long: Sketches of texts of 16 words and more, over word 3-shingles.
    """

    row_id: Integers
    row_key: Hashes
    input_key: Hashes
    target_key: Hashes
    match_key: Hashes
    group_key: Hashes
    own_key: npt.NDArray[np.uint8]
    row_text: npt.NDArray[np.int32]
    whole_text: npt.NDArray[np.int32]
    link_row: npt.NDArray[np.int32]
    link_text: npt.NDArray[np.int32]
    text_key: Hashes
    word: npt.NDArray[np.uint32]
    word_count: npt.NDArray[np.int32]
    mask_key: Hashes
    mask_text: npt.NDArray[np.int32]
    mask_position: npt.NDArray[np.uint8]
    short: TextSketches
    long: TextSketches

    def __len__(self) -> int:
        return len(self.row_id)

    def save(self, path: Path) -> None:
        """Write all arrays to one .npz file."""
        arrays: dict[str, Any] = dict(self.arrays())
        np.savez(path, **arrays)

    @classmethod
    def load(cls, path: Path) -> "RowSketches":
        """Read what `save` wrote."""
        # Without pickle, a damaged or forged file can't run code.
        with np.load(path, allow_pickle=False) as archive:
            arrays: dict[str, Any] = dict(archive)
        for kind in KINDS:
            sketches = {name: arrays.pop(f"{kind}.{name}") for name in _TEXT_FIELDS}
            arrays[kind] = TextSketches(**sketches)
        return cls(**arrays)

    def arrays(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """Yield all arrays with their names; texts have names such as `short.signature`."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, TextSketches):
                yield field.name, value
                continue
            for name in _TEXT_FIELDS:
                yield f"{field.name}.{name}", getattr(value, name)


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
    records = rows[["shape", *content_columns(rows)]].to_dict("records")
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
    texts = [text for text in row_parts.compared if text is not None]
    added = list(map(table.add, texts))
    indices = iter(text.compared for text in added)
    compared = [-1 if text is None else next(indices) for text in row_parts.compared]

    if row_parts.whole is not None:
        whole = table.add(row_parts.whole).compared
    elif len(added) == 1:
        whole = added[0].compared
    else:
        whole = table.add_normalized(" ".join(table.texts[text.compared] for text in added))

    # Rows with other numbers, or with other boilerplate, say something else.
    numbers = [numbers_of(text) for text in texts]
    forms = [text.form for text in added]
    # The prefix keeps a group from having the key of a text of the same words.
    name = f"text:{twins[0].normalized}" if group is None else f"group:{group}"
    text_keys = []
    for text, text_numbers in zip(added, numbers, strict=True):
        key = text.key.to_bytes(8, "little")
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
    for name in _TEXT_FIELDS:
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
