"""Text index: the distinct texts of all chunks, each with its sketches, and which of them are alike. Knows no rows.

Texts are numbered in the order of their hashes, so numbers depend on no order of rows or chunks.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from tunetrail.data.twins.near_pairs import Mask, Pairs, StoredSketches
from tunetrail.data.twins.shingles import WHOLE, Hashes, Integers, in_shared_run
from tunetrail.data.twins.sketches import KINDS

_FORM_FROM_TEXTS = 10
"""Texts that are equal but for one place: from so many on it is a form."""
_MASKS_AT_ONCE = 1 << 22
_EXACT_PAIRS = 500_000
_EXACT_PAIRS_PER_TEXT = 5
_PAIRS = 20_000_000
_PAIRS_PER_TEXT = 100


class TextIndex:
    """Numbers for the texts of chunks added one behind the other.

    Attributes:
        number_of: Number of each text that was added; equal for equal texts.
        size: How many distinct ones there are.
        stored: Sketches by kind.
        entry_of: Sketch of each distinct text by kind, -1 for none.
    """

    def __init__(self, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Number the texts of `arrays`, named as `RowSketches.arrays` names them."""
        distinct, number_of = np.unique(arrays["text_key"], return_inverse=True)
        self.number_of: npt.NDArray[np.int32] = number_of.astype(np.int32)
        self.size = len(distinct)
        self.stored: dict[str, StoredSketches] = {}
        self.entry_of: dict[str, npt.NDArray[np.int32]] = {}
        for kind in KINDS:
            entries = np.full(self.size, -1, dtype=np.int32)
            texts = self.number_of[arrays[f"{kind}.text"]]
            entries[texts] = np.arange(len(texts), dtype=np.int32)
            self.entry_of[kind] = entries
            self.stored[kind] = StoredSketches(
                signature=arrays[f"{kind}.signature"].view(np.uint8),
                shingles=arrays[f"{kind}.shingles"].view(np.uint32),
                counts=arrays[f"{kind}.counts"].view(np.int32),
            )
        self._age = np.full(self.size, np.iinfo(np.int64).max)
        linked = self.number_of[arrays["link_text"]]
        np.minimum.at(
            self._age, linked, np.asarray(arrays["row_id"])[arrays["link_row"]].astype(np.int64)
        )
        self._masks = (
            arrays["mask_key"].view(np.uint64),
            arrays["mask_text"],
            arrays["mask_position"].view(np.uint8),
        )

    def allow_comparisons(self, texts: int, share: float = 1.0) -> None:
        """Set how many pairs of each kind the next search among `texts` may compare; usual sessions need far fewer."""
        for stored in self.stored.values():
            stored.pairs_left = int(share * (_PAIRS + _PAIRS_PER_TEXT * texts))
            stored.exact_left = int(share * (_EXACT_PAIRS + _EXACT_PAIRS_PER_TEXT * texts))

    def are_similar(self, first: Integers, second: Integers, similarity: float) -> Mask:
        """Whether two texts each are equal or similar in some kind of shingles; -1, no text, is like itself only."""
        alike: Mask = np.equal(first, second)
        for kind, stored in self.stored.items():
            one, other = self.entry_of[kind][first], self.entry_of[kind][second]
            open_pairs = np.flatnonzero(
                ~alike & (first >= 0) & (second >= 0) & (one >= 0) & (other >= 0)
            )
            alike[open_pairs] = stored.similar(one[open_pairs], other[open_pairs], similarity)
        return alike

    def one_word_pairs(self, is_wanted: Mask) -> Iterator[Pairs]:
        """Yield pairs of wanted texts that differ by one word, enough of them to connect those that do.

        Where more than a few texts differ in the same place, that is a form filled in again and again: the oldest are
        connected, and the others aren't twins of one another for that.
        """
        keys, texts, positions = self._masks
        parts = max(1, -(-len(keys) // _MASKS_AT_ONCE))
        for part in range(parts):
            chosen = [
                start
                + np.flatnonzero(_part_of(keys[start : start + _MASKS_AT_ONCE], parts) == part)
                for start in range(0, len(keys), _MASKS_AT_ONCE)
            ]
            if not chosen:
                return
            places = np.concatenate(chosen)
            number = self.number_of[texts[places]]
            places, number = places[is_wanted[number]], number[is_wanted[number]]
            yield from _pairs_of_masks(keys[places], number, positions[places], self._age[number])


def _part_of(keys: Hashes, parts: int) -> Integers:
    """Return a number below `parts` that is equal for equal keys, and about as often each."""
    return ((keys >> np.uint64(32)) * np.uint64(parts) >> np.uint64(32)).astype(np.int64)


def _pairs_of_masks(
    keys: Hashes,
    texts: npt.NDArray[np.int32],
    positions: npt.NDArray[np.uint8],
    ages: npt.NDArray[np.int64],
) -> Iterator[Pairs]:
    order = np.argsort(keys, kind="stable")
    order = order[in_shared_run(keys[order])]
    order = order[np.lexsort((texts[order], ages[order], positions[order], keys[order]))]
    keys, numbers, positions = keys[order], texts[order].astype(np.int64), positions[order]
    if len(keys) == 0:
        return
    follows = keys[1:] == keys[:-1]
    substituted = follows & (positions[1:] == positions[:-1])
    begins = np.flatnonzero(np.append(True, ~substituted))
    rank = np.arange(len(keys)) - np.repeat(begins, np.diff(np.append(begins, len(keys))))
    substituted &= rank[1:] < _FORM_FROM_TEXTS
    yield numbers[:-1][substituted], numbers[1:][substituted]
    # whole texts stand last: those without one of their words that are equal to one have a word more
    last = np.flatnonzero(np.append(~follows, True))
    last = np.repeat(last, np.diff(last, prepend=-1))
    inserted = (positions[last] == WHOLE) & (positions != WHOLE) & (rank < _FORM_FROM_TEXTS)
    yield numbers[inserted], numbers[last[inserted]]
