"""Near-duplicates: of rows that are similar to one another, the oldest stay: finds which. Knows no shapes."""

from dataclasses import dataclass

import numpy as np

from tunetrail.data.twins.near_pairs import (
    PAIRS_PASSED_AT_THE_COST_OF_ONE,
    Mask,
    bands,
    is_mixed,
    with_lag,
)
from tunetrail.data.twins.shingles import Hashes, Integers
from tunetrail.data.twins.text_index import TextIndex


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedRows:
    """Rows by age, the oldest first.

    Attributes:
        match_key: Rows of unequal keys are not compared, [n].
        texts: Numbers of the texts that must be similar one by one, -1 for none, [n, texts].
        whole: Number of the text of all of them, [n].
    """

    match_key: Hashes
    texts: Integers
    whole: Integers


def representatives(rows: ComparedRows, index: TextIndex, similarity: float) -> Integers:
    """Return which row stands for each: itself, or an older similar one that stands for itself.

    A row that only those resemble that have gone stays. The search passes over a row as soon as some older one is
    similar, and comes again for those where that one turned out to go, until none is left to look at.
    """
    search = _Search(rows, index, similarity)
    candidates, share = np.arange(len(rows.whole)), 1.0
    while True:
        index.allow_comparisons(len(rows.whole), share)
        looked_at = search.look_at(candidates)
        candidates, share = np.flatnonzero(~search.is_hit & search.has_met), share / 2.0
        if looked_at[candidates].all():
            return search.stands_for


class _Search:
    """What is known so far.

    Attributes:
        stands_for: Which row stands for each, as far as is known.
        is_hit: Whether an older row that stays is similar, as far as is known.
        has_met: Whether a row ever shared a bucket with another one.
    """

    def __init__(self, rows: ComparedRows, index: TextIndex, similarity: float) -> None:
        size = len(rows.whole)
        self._rows, self._index, self._similarity = rows, index, similarity
        self._pairs = np.empty((0, 2), dtype=np.int64)
        self.stands_for: Integers = np.arange(size)
        self.is_hit = np.zeros(size, dtype=bool)
        self.has_met = np.zeros(size, dtype=bool)
        self._passed_over = np.zeros(size, dtype=bool)

    def look_at(self, candidates: Integers) -> Mask:
        """Compare candidates with one another; return which rows were compared with all that share a bucket."""
        self._passed_over[:] = True
        self._passed_over[candidates] = False
        for kind in self._index.stored:
            self._look_at(kind, candidates)
        return ~self._passed_over

    def _look_at(self, kind: str, candidates: Integers) -> None:
        entries = self._index.entry_of[kind][self._rows.whole[candidates]]
        candidates, entries = candidates[entries >= 0], entries[entries >= 0]
        salts = self._rows.match_key[candidates]
        for members, bucket, allowed in bands(
            self._index.stored[kind], entries, salts, self._similarity
        ):
            nodes = candidates[members]
            self.has_met[nodes] = True
            found = self._similar_of_band(kind, nodes, bucket, allowed)
            self._settle(np.concatenate([self._pairs, *found]))

    def _similar_of_band(
        self, kind: str, nodes: Integers, bucket: Integers, allowed: int
    ) -> list[Integers]:
        """Return similar pairs (newer, older) of nodes, which are sorted by bucket and age."""
        self._passed_over[nodes[self.is_hit[nodes]]] = True
        nodes, bucket = nodes[~self.is_hit[nodes]], bucket[~self.is_hit[nodes]]
        # where all are similar, comparing each with the oldest settles it
        oldest = nodes[np.searchsorted(bucket, bucket)]
        found = [self._similar(kind, oldest[oldest != nodes], nodes[oldest != nodes])[0]]
        places, lag = np.arange(len(nodes)), 1
        while allowed > 0:
            if lag & (lag - 1) == 0:
                places = places[is_mixed(bucket, np.where(self.is_hit[nodes], -1, nodes))[places]]
            places = with_lag(places, bucket, lag)
            if len(places) == 0:
                break
            pairs, compared = self._similar(kind, nodes[places], nodes[places + lag])
            found.append(pairs)
            allowed -= compared + len(places) // PAIRS_PASSED_AT_THE_COST_OF_ONE
            lag += 1
        return found

    def _similar(self, kind: str, older: Integers, newer: Integers) -> tuple[Integers, int]:
        """Return similar pairs (newer, older), and how many were compared; marks the newer ones as hit."""
        needed = ~(self.is_hit[older] | self.is_hit[newer])
        older, newer = older[needed], newer[needed]
        entries, whole = self._index.entry_of[kind], self._rows.whole
        similar = self._index.stored[kind].similar(
            entries[whole[older]], entries[whole[newer]], self._similarity
        )
        similar[similar] = self._are_alike(older[similar], newer[similar])
        self.is_hit[newer[similar]] = True
        self._passed_over[newer[similar]] = True
        return np.column_stack((newer[similar], older[similar])), len(older)

    def _are_alike(self, older: Integers, newer: Integers) -> Mask:
        """Whether the texts of rows that are similar as a whole are so one by one."""
        texts, whole = self._rows.texts, self._rows.whole
        alike = np.ones(len(older), dtype=bool)
        for number in range(texts.shape[1]):
            left = np.flatnonzero(alike)
            one, other = older[left], newer[left]
            # a row of one text was compared by it already
            is_whole = (texts[one, number] == whole[one]) & (texts[other, number] == whole[other])
            left, one, other = left[~is_whole], one[~is_whole], other[~is_whole]
            alike[left] = self._index.are_similar(
                texts[one, number], texts[other, number], self._similarity
            )
        return alike

    def _settle(self, pairs: Integers) -> None:
        """Find who stands for each row, given all similar pairs (newer, older) that are known."""
        if len(pairs) == len(self._pairs):
            return
        self._pairs = np.unique(pairs, axis=0)
        stands_for = list(range(len(self.stands_for)))
        for newer, older in self._pairs.tolist():
            if stands_for[newer] == newer and stands_for[older] == older:
                stands_for[newer] = older
        self.stands_for = np.array(stands_for, dtype=np.int64)
        self.is_hit = self.stands_for != np.arange(len(stands_for))
