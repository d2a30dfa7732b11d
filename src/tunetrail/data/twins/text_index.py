"""The distinct texts of all chunks, each with its sketches, and the similar ones among them.

Texts are numbered in the order of their hashes, so the numbers depend on no order of rows or
chunks.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tunetrail.data.twins.boilerplate import TextWords
from tunetrail.data.twins.near_pairs import Mask, Pairs, StoredSketches
from tunetrail.data.twins.shingles import WHOLE, Hashes, Integers, in_shared_run
from tunetrail.data.twins.sketches import KINDS

# From this many texts that differ only in one place, they are a form that was filled in.
_FORM_FROM_TEXTS = 10
# Masks are several times as many as rows, so they are sorted partition by partition.
_MASKS_AT_ONCE = 1 << 22
# Limits of a search: a constant that suits small sessions, and a term that grows with the texts.
_EXACT_PAIRS = 500_000
_EXACT_PAIRS_PER_TEXT = 5
_PAIRS = 20_000_000
_PAIRS_PER_TEXT = 100


class TextIndex:
    """Numbers the distinct texts of all chunks and compares them.

    Attributes:
        number_of: The number of each text that was added; equal texts have the same number.
        size: Number of distinct texts.
        stored: Sketches by kind.
        entry_of: Entry of each distinct text in the sketches of a kind, -1 for none.
        keys: Hash of each distinct text.
        words: Words of each distinct text.
    """

    def __init__(self, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Number the texts of `arrays`, which have the names of `RowSketches.arrays`."""
        distinct, number_of = np.unique(arrays["text_key"], return_inverse=True)
        self.number_of: npt.NDArray[np.int32] = number_of.astype(np.int32)
        self.size, self.keys = len(distinct), distinct
        self.words = _words_of_distinct(arrays, self.number_of, self.size)
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

        # A text is as old as the oldest row that it links.
        self._age = np.full(self.size, np.iinfo(np.int64).max)
        linked = self.number_of[arrays["link_text"]]
        row_ids = np.asarray(arrays["row_id"])[arrays["link_row"]].astype(np.int64)
        np.minimum.at(self._age, linked, row_ids)
        self._masks = (
            arrays["mask_key"].view(np.uint64),
            arrays["mask_text"],
            arrays["mask_position"].view(np.uint8),
        )

    def allow_comparisons(self, texts: int, share: float = 1.0) -> None:
        """Set the number of pairs that the next search among this many texts may compare.

        A usual session needs far fewer; the limit keeps a hostile one from running for hours.
        """
        for sketches in self.stored.values():
            sketches.pairs_left = int(share * (_PAIRS + _PAIRS_PER_TEXT * texts))
            sketches.exact_left = int(share * (_EXACT_PAIRS + _EXACT_PAIRS_PER_TEXT * texts))

    def are_similar(self, first: Integers, second: Integers, similarity: float) -> Mask:
        """Tell for each pair of texts whether they are equal or similar in some kind of shingles.

        -1 stands for no text, which equals only itself.
        """
        is_similar: Mask = np.equal(first, second)
        are_texts = (first >= 0) & (second >= 0)
        for kind, sketches in self.stored.items():
            left, right = self.entry_of[kind][first], self.entry_of[kind][second]
            # One kind is enough: a pair that is already similar isn't compared by the next kind.
            pairs = np.flatnonzero(~is_similar & are_texts & (left >= 0) & (right >= 0))
            is_similar[pairs] = sketches.similar(left[pairs], right[pairs], similarity)
        return is_similar

    def one_word_pairs(self, is_linked: Mask) -> Iterator[Pairs]:
        """Yield enough pairs of linked texts that differ by one word to connect all that do.

        If more than a few texts differ in the same place, they are a form that was filled in again
        and again: the oldest of them are connected, and the others aren't twins for that reason.
        """
        keys, texts, positions = self._masks
        starts = range(0, len(keys), _MASKS_AT_ONCE)

        # Equal keys are in the same partition, so each partition is compared by itself.
        for partition in range(len(starts)):
            members = []
            for start in starts:
                partitions = _partition_of(keys[start : start + _MASKS_AT_ONCE], len(starts))
                members.append(start + np.flatnonzero(partitions == partition))
            masks = np.concatenate(members)
            masks = masks[is_linked[self.number_of[texts[masks]]]]
            numbers = self.number_of[texts[masks]]
            yield from _pairs_of_masks(keys[masks], numbers, positions[masks], self._age[numbers])


def _words_of_distinct(
    arrays: Mapping[str, npt.NDArray[np.generic]], number_of: npt.NDArray[np.int32], size: int
) -> TextWords:
    """Return the words of each distinct text, wherever one of its copies lies."""
    counts = arrays["word_count"].view(np.int32).astype(np.int64)
    copy = np.empty(size, dtype=np.int64)
    copy[number_of] = np.arange(len(counts))
    starts = np.cumsum(counts) - counts
    return TextWords(
        values=arrays["word"].view(np.uint32), starts=starts[copy], counts=counts[copy]
    )


def _partition_of(keys: Hashes, partitions: int) -> Integers:
    """Return the partition of each key: equal for equal keys, and evenly distributed."""
    # Scales the upper half of the key, a fraction of 2**32, to the number of partitions.
    return ((keys >> np.uint64(32)) * np.uint64(partitions) >> np.uint64(32)).astype(np.int64)


def _pairs_of_masks(
    keys: Hashes,
    texts: npt.NDArray[np.signedinteger[Any]],
    positions: npt.NDArray[np.uint8],
    ages: npt.NDArray[np.int64],
) -> Iterator[Pairs]:
    """Yield the pairs of texts with an equal mask: first substituted words, then inserted ones."""
    order = np.argsort(keys, kind="stable")
    order = order[in_shared_run(keys[order])]
    # By mask, then position (`WHOLE` is the highest), then age; the text number breaks ties.
    order = order[np.lexsort((texts[order], ages[order], positions[order], keys[order]))]
    keys, positions = keys[order], positions[order]
    texts = texts[order].astype(np.int64)
    if len(keys) == 0:
        return

    # Neighbours with the same mask and position differ in a single word; the oldest come first.
    follows = keys[1:] == keys[:-1]
    substituted = follows & (positions[1:] == positions[:-1])
    begins = np.flatnonzero(np.append(True, ~substituted))
    rank = np.arange(len(keys)) - np.repeat(begins, np.diff(np.append(begins, len(keys))))
    substituted &= rank[1:] < _FORM_FROM_TEXTS
    yield texts[:-1][substituted], texts[1:][substituted]

    # A whole text comes last among equal masks; a text whose mask equals it has one word more.
    last = np.flatnonzero(np.append(~follows, True))
    last = np.repeat(last, np.diff(last, prepend=-1))
    inserted = (positions[last] == WHOLE) & (positions != WHOLE) & (rank < _FORM_FROM_TEXTS)
    yield texts[inserted], texts[last[inserted]]
