"""Sketches of rows: the hashes from which duplicates are found, computed chunk by chunk.

They are small, plain arrays, so that another process can compute them and a file can store them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tunetrail.data.twins.shingles import (
    Hashes,
    Integers,
)

KINDS = ("short", "long")


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


TEXT_FIELDS = tuple(field.name for field in fields(TextSketches))


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
            sketches = {name: arrays.pop(f"{kind}.{name}") for name in TEXT_FIELDS}
            arrays[kind] = TextSketches(**sketches)
        return cls(**arrays)

    def arrays(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """Yield all arrays with their names; texts have names such as `short.signature`."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, TextSketches):
                yield field.name, value
                continue
            for name in TEXT_FIELDS:
                yield f"{field.name}.{name}", getattr(value, name)
