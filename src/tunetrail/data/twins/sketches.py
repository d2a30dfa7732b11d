"""Sketches of rows: the numbers from which duplicates are found, made of one chunk of rows by itself.

They are small, plain arrays, so that another process can make them and a file can keep them. Compares no rows.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.data.rows import content_columns
from tunetrail.data.twins.row_parts import TEXTS_PER_ROW, RowParts, hash_of, identity, parts_of
from tunetrail.data.twins.shingles import (
    Hashes,
    Integers,
    character_shingles,
    encoded,
    normalized,
    one_word_masks,
    signatures,
    smallest,
    text_hash,
    word_hashes,
    word_shingles,
)
from tunetrail.samples import GROUP_COLUMN

KINDS = ("short", "long")

_LONG_FROM_WORDS = 16
_SHORT_UP_TO_WORDS = 32
_MASKED_FROM_WORDS = 7
"""One word of fewer is too much: "how do I lock my card" and "how do I track my card" would be twins."""
_CHARACTERS_AT_ONCE = 1 << 21


@dataclass(frozen=True, kw_only=True)
class TextSketches:
    """MinHash signatures over one kind of shingles, of those texts that are compared by it.

    Attributes:
        text: The text of each signature, [s].
        signature: [s, `PERMUTATIONS`], 8 bits of each slot.
        shingles: The smallest shingle hashes of each text, sorted, one text behind the other.
        counts: How many of them each text has, [s].
    """

    text: npt.NDArray[np.int32]
    signature: npt.NDArray[np.uint8]
    shingles: npt.NDArray[np.uint32]
    counts: npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class RowSketches:
    """What is known of n rows and of their t distinct normalised texts.

    Attributes:
        row_id: [n].
        row_key: 128 bits of the hash of shape and whole content, as it is written, [n, 2].
        input_key: Hash of what a row asks, and 0 where several answers may be right, [n].
        target_key: Hash of what it answers, [n].
        match_key: Hash of what must be equal for one of two similar rows to be dispensable: shape, label, score,
            vector, the system's turns and the roles, [n].
        group_key: Hash of the group, 0 for none, [n].
        own_key: SHA-256 of the group or else of the text that names the row, [n, 32].
        row_text: The texts that a row is compared by, -1 for none, [n, `TEXTS_PER_ROW`].
        whole_text: The one text of all of them, [n].
        link_row: Row of each link between a row and a text that connects it to others.
        link_text: Text of each link.
        text_key: Hash of each text, [t].
        mask_key: One-word masks of linked texts (see `one_word_masks`).
        mask_text: Text of each mask.
        mask_position: Place of the word that a mask leaves out.
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
        with np.load(path, allow_pickle=False) as archive:
            plain = {name: archive[name] for name in archive.files}
        of_texts: dict[str, Any] = {
            kind: TextSketches(
                **{each.name: plain.pop(f"{kind}.{each.name}") for each in fields(TextSketches)}
            )
            for kind in KINDS
        }
        return cls(**plain, **of_texts)

    def arrays(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """Yield the name and the array of everything; those of texts are named `short.signature` and so on."""
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, TextSketches):
                yield from (
                    (f"{each.name}.{inner.name}", getattr(value, inner.name))
                    for inner in fields(value)
                )
            else:
                yield each.name, value


class _TextTable:
    """Numbers the distinct normalised texts of a chunk, in the order in which they come."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.keys: list[int] = []
        self._number_of_raw: dict[str, int] = {}
        self._number_of: dict[str, int] = {}

    def add(self, raw: str) -> int:
        number = self._number_of_raw.get(raw)
        if number is None:
            number = self._number_of_raw[raw] = self.add_normalized(normalized(raw))
        return number

    def add_normalized(self, text: str) -> int:
        number = self._number_of.get(text)
        if number is None:
            number = self._number_of[text] = len(self.texts)
            self.texts.append(text)
            self.keys.append(text_hash(text))
        return number


def sketch_rows(rows: pd.DataFrame) -> RowSketches:
    """Return the sketches of rows; what they say of a row doesn't depend on the other rows."""
    table = _TextTable()
    lines = [
        _line(record, group, table)
        for record, group in zip(
            rows[["shape", *content_columns(rows)]].to_dict("records"),
            rows[GROUP_COLUMN],
            strict=True,
        )
    ]
    links = [
        (number, text) for number, line in enumerate(lines) for text in dict.fromkeys(line.twins)
    ]
    link_row, link_text = np.array(links, dtype=np.int32).reshape(-1, 2).T
    hashes = np.frombuffer(b"".join(line.hashes for line in lines), dtype=np.uint8).reshape(-1, 80)
    keys = np.ascontiguousarray(hashes[:, :48]).view("<u8").astype(np.uint64)
    masked = np.unique(link_text)
    return RowSketches(
        row_id=rows["row_id"].to_numpy(dtype=np.int64),
        row_key=keys[:, :2],
        input_key=keys[:, 2],
        target_key=keys[:, 3],
        match_key=keys[:, 4],
        group_key=keys[:, 5],
        own_key=hashes[:, 48:],
        row_text=np.array([line.compared for line in lines], dtype=np.int32).reshape(
            -1, TEXTS_PER_ROW
        ),
        whole_text=np.array([line.whole for line in lines], dtype=np.int32),
        link_row=link_row,
        link_text=link_text,
        text_key=np.array(table.keys, dtype=np.uint64),
        **_text_arrays(table.texts, masked),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    """One row's part of the arrays; `hashes` are 80 bytes: identity, five keys of 8 bytes, and the own key."""

    twins: Sequence[int]
    compared: Sequence[int]
    whole: int
    hashes: bytes


_NONE = bytes(8)


def _line(record: dict[Any, Any], group: str | None, table: _TextTable) -> _Line:
    parts = parts_of(record)
    twins = [table.add(text) for text in parts.twins] or [table.add("")]
    compared = [-1 if text is None else table.add(text) for text in parts.compared]
    present = [number for number in compared if number >= 0]
    if parts.whole is not None:
        whole = table.add(parts.whole)
    elif len(present) == 1:
        whole = present[0]
    else:
        whole = table.add_normalized(" ".join(table.texts[number] for number in present))
    named = f"text:{table.texts[twins[0]]}" if group is None else f"group:{group}"
    hashes = (
        identity(record),
        *_asked_and_answered(parts, [table.keys[number] for number in present]),
        hash_of([*parts.setting, parts.answer]),
        _NONE if group is None else text_hash(group).to_bytes(8, "little"),
        hashlib.sha256(encoded(named)).digest(),
    )
    padding = [-1] * (TEXTS_PER_ROW - len(compared))
    return _Line(twins=twins, compared=compared + padding, whole=whole, hashes=b"".join(hashes))


def _asked_and_answered(parts: RowParts, keys: Sequence[int]) -> tuple[bytes, bytes]:
    """Return the keys of both sides; two sentences, or two answers to choose from, ask the same in either order."""
    if parts.answered_by_text and len(keys) == 2:
        return hash_of([*parts.setting, keys[0].to_bytes(8, "little")]), keys[1].to_bytes(
            8, "little"
        )
    if parts.answered_by_choice and len(keys) == 3:
        asked = (keys[0], *sorted(keys[1:]))
        return hash_of([*parts.setting, *(key.to_bytes(8, "little") for key in asked)]), keys[
            1
        ].to_bytes(8, "little")
    if parts.answer is not None:
        return hash_of(
            [*parts.setting, *(key.to_bytes(8, "little") for key in sorted(keys))]
        ), hash_of([parts.answer])
    return _NONE, _NONE


def _text_arrays(texts: Sequence[str], masked: npt.NDArray[np.int32]) -> dict[str, Any]:
    """Return the sketches and masks of texts; only those in `masked` have masks."""
    is_masked = np.zeros(len(texts), dtype=bool)
    is_masked[masked] = True
    kinds: dict[str, list[TextSketches]] = {kind: [] for kind in KINDS}
    masks = []
    for start, stop in _blocks(texts):
        block = texts[start:stop]
        words = word_hashes(block)
        short = np.flatnonzero(words.counts <= _SHORT_UP_TO_WORDS)
        long = np.flatnonzero(words.counts >= _LONG_FROM_WORDS)
        for kind, chosen in (("short", short), ("long", long)):
            chosen_texts = [block[number] for number in chosen.tolist()]
            shingles = (
                character_shingles(chosen_texts)
                if kind == "short"
                else word_shingles(words.of(chosen))
            )
            kept = smallest(shingles)
            kinds[kind].append(
                TextSketches(
                    text=(chosen + start).astype(np.int32),
                    signature=signatures(shingles),
                    shingles=kept.values.astype(np.uint32),
                    counts=kept.counts.astype(np.int32),
                )
            )
        linked = np.flatnonzero(is_masked[start:stop])
        key, text, position = one_word_masks(words.of(linked), _MASKED_FROM_WORDS)
        masks.append((key, (linked[text] + start).astype(np.int32), position))
    key, text, position = (np.concatenate(column) for column in zip(*masks, strict=True))
    joined = {
        kind: TextSketches(
            **{
                each.name: np.concatenate([getattr(part, each.name) for part in parts])
                for each in fields(TextSketches)
            }
        )
        for kind, parts in kinds.items()
    }
    return {"mask_key": key, "mask_text": text, "mask_position": position, **joined}


def _blocks(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of blocks of texts that together take little memory; at least one block."""
    start, characters = 0, 0
    for number, text in enumerate(texts):
        characters += len(text)
        if characters > _CHARACTERS_AT_ONCE:
            yield start, number + 1
            start, characters = number + 1, 0
    if start < len(texts) or start == 0:
        yield start, len(texts)
