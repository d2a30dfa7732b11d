"""Decides which of similar rows stay: the oldest ones. Knows no shapes of samples."""

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
        match_key: Rows with different keys are not compared, [n].
        texts: Indices of the texts that must be similar one by one, -1 for none, [n, texts].
        whole: Index of the text that joins all of them, [n].
    """

    match_key: Hashes
    texts: Integers
    whole: Integers


def representatives(rows: ComparedRows, index: TextIndex, similarity: float) -> Integers:
    """Return which row stands for each row: itself, or an older similar row that stands for itself.

    A row that is similar only to rows that have to go stays itself. The search skips a row as soon
    as one older row is similar, and looks at it again if that older row turns out to go, until no
    such row is left.
    """
    search = _Search(rows, index, similarity)
    candidates, share = np.arange(len(rows.whole)), 1.0
    while True:
        # The limit halves from round to round, so all rounds together cost at most twice the first.
        index.allow_comparisons(len(rows.whole), share)
        was_compared = search.compare(candidates)

        # A row stays only if it was compared with its whole bucket, so skipped ones are compared.
        candidates, share = np.flatnonzero(~search.is_hit & search.has_met), share / 2.0
        if was_compared[candidates].all():
            return search.stands_for


class _Search:
    """The state of a search for similar rows.

    Attributes:
        stands_for: The row that stands for each row, as far as is known.
        is_hit: Whether an older row that stays is similar, as far as is known.
        has_met: Whether a row ever shared a bucket with another one.
        _pairs: All similar pairs (newer, older) so far.
        _was_skipped: Whether this pass left out a comparison of a row.
    """

    def __init__(self, rows: ComparedRows, index: TextIndex, similarity: float) -> None:
        size = len(rows.whole)
        self._rows, self._index, self._similarity = rows, index, similarity
        self._pairs = np.empty((0, 2), dtype=np.int64)
        self.stands_for: Integers = np.arange(size)
        self.is_hit = np.zeros(size, dtype=bool)
        self.has_met = np.zeros(size, dtype=bool)
        self._was_skipped = np.zeros(size, dtype=bool)

    def compare(self, candidates: Integers) -> Mask:
        """Compare candidates; return which rows were compared with all that share a bucket."""
        self._was_skipped[:] = True
        self._was_skipped[candidates] = False
        for kind in self._index.stored:
            self._compare_sketches(kind, candidates)
        return ~self._was_skipped

    def _compare_sketches(self, kind: str, candidates: Integers) -> None:
        """Compare the candidates that have a sketch of this kind, band by band."""
        entries = self._index.entry_of[kind][self._rows.whole[candidates]]
        candidates, entries = candidates[entries >= 0], entries[entries >= 0]
        # As a salt, the key keeps rows with different labels, scores or roles out of one bucket.
        salts = self._rows.match_key[candidates]
        sketches = self._index.stored[kind]

        for members, bucket, allowed in bands(sketches, entries, salts, self._similarity):
            nodes = candidates[members]
            self.has_met[nodes] = True
            pairs = self._similar_of_band(kind, nodes, bucket, allowed)
            # Settled after every band, because a hit row needs no comparisons in the next one.
            self._settle(np.concatenate([self._pairs, *pairs]))

    def _similar_of_band(
        self, kind: str, nodes: Integers, bucket: Integers, allowed: int
    ) -> list[Integers]:
        """Return similar pairs (newer, older) of nodes, which are sorted by bucket and age."""
        # A hit row leaves the band; if the row that stands for it goes, it is compared again.
        self._was_skipped[nodes[self.is_hit[nodes]]] = True
        is_open = ~self.is_hit[nodes]
        nodes, bucket = nodes[is_open], bucket[is_open]

        # If all rows of a bucket are similar, comparing each with the oldest settles the bucket.
        oldest = nodes[np.searchsorted(bucket, bucket)]
        is_newer = oldest != nodes
        similar_pairs = [self._similar(kind, oldest[is_newer], nodes[is_newer])[0]]

        positions, lag = np.arange(len(nodes)), 1
        while allowed > 0:
            # At lags 1, 2, 4, ... buckets with at most one row that isn't hit are dropped.
            if lag & (lag - 1) == 0:
                open_nodes = np.where(self.is_hit[nodes], -1, nodes)
                positions = positions[is_mixed(bucket, open_nodes)[positions]]
            positions = with_lag(positions, bucket, lag)
            if len(positions) == 0:
                break

            pairs, compared = self._similar(kind, nodes[positions], nodes[positions + lag])
            similar_pairs.append(pairs)
            allowed -= compared + len(positions) // PAIRS_PASSED_AT_THE_COST_OF_ONE
            lag += 1

        return similar_pairs

    def _similar(self, kind: str, older: Integers, newer: Integers) -> tuple[Integers, int]:
        """Return similar pairs (newer, older) and the number compared; mark newer rows as hit."""
        is_open = ~(self.is_hit[older] | self.is_hit[newer])
        older, newer = older[is_open], newer[is_open]

        entries, whole = self._index.entry_of[kind], self._rows.whole
        older_entries, newer_entries = entries[whole[older]], entries[whole[newer]]
        sketches = self._index.stored[kind]
        is_similar = sketches.similar(older_entries, newer_entries, self._similarity)
        # The single texts are compared only if the rows as a whole are similar.
        is_similar[is_similar] = self._have_similar_texts(older[is_similar], newer[is_similar])

        hits = newer[is_similar]
        self.is_hit[hits] = True
        self._was_skipped[hits] = True
        return np.column_stack((hits, older[is_similar])), len(older)

    def _have_similar_texts(self, older: Integers, newer: Integers) -> Mask:
        """Tell whether rows that are similar as a whole are similar text by text."""
        whole = self._rows.whole
        is_similar = np.ones(len(older), dtype=bool)
        for text in self._rows.texts.T:
            pairs = np.flatnonzero(is_similar)
            left, right = older[pairs], newer[pairs]

            # A row of one text was compared by it already.
            is_whole = (text[left] == whole[left]) & (text[right] == whole[right])
            pairs, left, right = pairs[~is_whole], left[~is_whole], right[~is_whole]
            is_similar[pairs] = self._index.are_similar(text[left], text[right], self._similarity)
        return is_similar

    def _settle(self, pairs: Integers) -> None:
        """Decide who stands for each row, given all similar pairs (newer, older) so far."""
        if len(pairs) == len(self._pairs):
            return

        self._pairs = np.unique(pairs, axis=0)
        stands_for = list(range(len(self.stands_for)))
        # Pairs are sorted by the newer row, so whether its older rows stay is already decided.
        for newer, older in self._pairs.tolist():
            if stands_for[newer] == newer and stands_for[older] == older:
                stands_for[newer] = older

        self.stands_for = np.array(stands_for, dtype=np.int64)
        self.is_hit = self.stands_for != np.arange(len(stands_for))
