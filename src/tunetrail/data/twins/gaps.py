"""Gaps in boilerplate: the places of a text that each row fills with words of its own."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tunetrail.data.twins.shingles import (
    Integers,
    Ragged,
    mixed,
    spans,
    word_shingles,
)

FEWEST_TEXTS = 10
"""Fewer texts than this have no boilerplate; the limit of large clusters in `sides` is the same."""
# Few texts have boilerplate, and the words around their gaps are few again.
_SLOT_BITS = 18
# Words that say where a gap is; boilerplate is in runs of at least as many.
_CONTEXT = 4
Mask = npt.NDArray[np.bool_]


def bits_of(table: npt.NDArray[Any]) -> int:
    """Return the number of bits that name a bucket of the table."""
    return len(table).bit_length() - 1


def shingle_buckets(words: Ragged, bits: int) -> tuple[Integers, Integers]:
    """Return the bucket and the text of each shingle."""
    shingles = word_shingles(words)
    buckets = (shingles.values >> np.uint64(64 - bits)).astype(np.int64)
    return buckets, np.repeat(np.arange(len(words.counts)), shingles.counts)


@dataclass(frozen=True, kw_only=True)
class CoveredWords:
    """Which words of some texts are boilerplate: `is_covered`, one value for each word."""

    words: Ragged
    text: Integers
    is_covered: Mask

    @classmethod
    def of(cls, words: Ragged, is_common: Mask) -> "CoveredWords":
        """Return which words lie in runs of common shingles."""
        buckets, text = shingle_buckets(words, bits_of(is_common))
        common = is_common[buckets]
        in_run = np.zeros(len(common), dtype=bool)
        follows = common[1:] & common[:-1] & (text[1:] == text[:-1])
        in_run[1:] |= follows
        in_run[:-1] |= follows

        shingle_counts = np.maximum(words.counts - 2, 0)
        first_word = spans(words.starts[:-1], shingle_counts)[in_run]
        is_covered = np.zeros(len(words.values), dtype=bool)
        for offset in range(3):
            is_covered[first_word + offset] = True
        all_texts = np.repeat(np.arange(len(words.counts)), words.counts)
        return cls(words=words, text=all_texts, is_covered=is_covered)

    def begins_gap(self) -> Mask:
        """Return a mask of the words that begin a gap in the boilerplate."""
        goes_on = (~self.is_covered[:-1]) & (self.text[1:] == self.text[:-1])
        return np.asarray(~self.is_covered & ~np.append(False, goes_on), dtype=bool)


class Slots:
    """Counts how often the same four words of boilerplate stand before, or after, a gap.

    An edit in the last words before a gap makes it begin too early. So gaps are also counted up to
    four words away from the context: a copy's early gap is known by where the others' gaps begin.
    """

    def __init__(self) -> None:
        self._all = np.zeros(1 << _SLOT_BITS, dtype=np.int64)
        # By distance, then before a gap and after one.
        self._with_gap = np.zeros((_CONTEXT + 1, 2, 1 << _SLOT_BITS), dtype=np.int64)

    def count(self, covered: CoveredWords) -> None:
        """Add the texts of a block."""
        buckets, is_context = _contexts(covered)
        self._all += np.bincount(buckets[is_context], minlength=1 << _SLOT_BITS)
        after, before = _gaps_of_contexts(covered)
        after, before = after & is_context, before & is_context
        for counts in self._with_gap:
            for side, has_gap in enumerate((after, before)):
                counts[side] += np.bincount(buckets[has_gap], minlength=1 << _SLOT_BITS)
            # The next context is one word nearer to the gap.
            after = _shifted(after, 1) & is_context
            before = np.append(False, before[:-1]) & is_context

    def words_in_slots(self, covered: CoveredWords) -> tuple[Mask, Mask]:
        """Return the words in gaps that most rows with the same boilerplate have.

        Returns:
            A mask of the words that fill the gaps, and one of edited boilerplate next to them.
        """
        buckets, is_context = _contexts(covered)
        after, before = _gaps_of_contexts(covered)
        is_usual = (self._with_gap >= FEWEST_TEXTS) & (2 * self._with_gap >= self._all)

        # Both ends of a gap stand for all of its words.
        begins = covered.begins_gap()
        gap = np.where(covered.is_covered, 0, np.cumsum(begins))
        length = np.bincount(gap)
        is_slot = np.zeros(len(length), dtype=bool)
        edited_before, edited_after = np.zeros((2, len(length)), dtype=np.int64)
        # A context at i covers the words up to i + 3: a gap begins after it, or ends before it.
        first = np.flatnonzero(is_context & after)
        last = np.flatnonzero(is_context & before)
        # The nearest usual place decides, so it comes last.
        for distance in reversed(range(_CONTEXT + 1)):
            opened = gap[first[is_usual[distance, 0][buckets[first]]] + _CONTEXT]
            closed = gap[last[is_usual[distance, 1][buckets[last]]] - 1]
            is_slot[opened] = is_slot[closed] = True
            edited_before[opened], edited_after[closed] = distance, distance
        is_slot[0] = False

        position = np.arange(len(gap))
        rank = position - np.maximum.accumulate(np.where(begins, position, 0))
        is_own = (rank >= edited_before[gap]) & (rank < (length - edited_after)[gap])
        return is_slot[gap] & is_own, is_slot[gap] & ~is_own


def _contexts(covered: CoveredWords) -> tuple[Integers, Mask]:
    """Return the bucket of the four words from each word on, and whether all are boilerplate."""
    size = len(covered.is_covered)
    hashes, is_context = np.zeros(size, dtype=np.uint64), np.ones(size, dtype=bool)
    for offset in range(_CONTEXT):
        hashes = mixed(hashes + _shifted(covered.words.values, offset))
        is_context &= _shifted(covered.is_covered, offset)
        is_context &= _shifted(covered.text + 1, offset) == covered.text + 1
    return (hashes >> np.uint64(64 - _SLOT_BITS)).astype(np.int64), is_context


def _gaps_of_contexts(covered: CoveredWords) -> tuple[Mask, Mask]:
    """Tell for the four words from each on whether a gap follows them, or comes before them."""
    is_gap = ~covered.is_covered
    same_after = _shifted(covered.text + 1, _CONTEXT) == covered.text + 1
    same_before = np.append(False, covered.text[1:] == covered.text[:-1])
    gap_after = _shifted(is_gap, _CONTEXT) & same_after
    gap_before = np.append(False, is_gap[:-1]) & same_before
    return gap_after, gap_before


def _shifted(values: npt.NDArray[Any], offset: int) -> npt.NDArray[Any]:
    """Return the value `offset` positions later at each position, 0 after the end."""
    shifted = np.zeros_like(values)
    shifted[: len(values) - offset] = values[offset:]
    return shifted
