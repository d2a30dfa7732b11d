"""Finds pairs of similar sketches among many by locality-sensitive hashing.

Signatures are cut into bands. Sketches with an equal band share a bucket, and only they are
compared (Indyk and Motwani 1998; Broder 1997). If a bucket is too large to compare all of its
pairs, its neighbours in sorted order are compared.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tunetrail.data.twins.shingles import (
    LARGEST_SAMPLE,
    PERMUTATIONS,
    Hashes,
    Integers,
    begins_run,
    combined,
    in_shared_run,
    spans,
)

Mask = npt.NDArray[np.bool_]
Pairs = tuple[Integers, Integers]

# Share of the pairs at the threshold that some band has to bring into one bucket.
_MINIMUM_RECALL = 0.98
# Block sizes: they bound the memory of a comparison, whatever the number of pairs.
_PAIRS_AT_ONCE = 1 << 15
_EXACT_AT_ONCE = 1 << 12
_ENTRIES_AT_ONCE = 1 << 16
# Probability that slots of 8 bits are equal although the shingles differ.
_CHANCE = 1.0 / 256.0
PAIRS_PASSED_AT_THE_COST_OF_ONE = 8
"""Skipping this many pairs of a bucket takes as long as comparing one pair."""


@dataclass(kw_only=True)
class StoredSketches:
    """Sketches of texts, one entry for each text; the arrays usually lie on disk.

    Attributes:
        signature: MinHash signatures, 8 bits a slot, [entries, `PERMUTATIONS`].
        shingles: The smallest shingle hashes of each text, sorted, one text after the other.
        counts: Number of shingles of each text, [entries].
        pairs_left: Number of pairs that a search may compare; the largest buckets skip the others.
        exact_left: Number of pairs that may be compared exactly. Afterwards, pairs that need an
            exact comparison count as not similar.
        starts: Position of each text's first shingle, [entries].
    """

    signature: npt.NDArray[np.uint8]
    shingles: npt.NDArray[np.uint32]
    counts: npt.NDArray[np.int32]
    pairs_left: int = 0
    exact_left: int = 0
    starts: Integers = field(init=False)

    def __post_init__(self) -> None:
        self.starts = np.cumsum(self.counts, dtype=np.int64) - self.counts

    def similar(self, first: Integers, second: Integers, similarity: float) -> Mask:
        """Tell whether the Jaccard index of each pair of entries is at least `similarity`.

        The signatures' estimate rules out pairs that are 2.5 standard deviations below the
        threshold. The shingles decide on the others: exactly for texts with fewer than 1,024
        shingles, and by a sample of 1,024 for longer ones (standard error at most 0.016), which
        pass if a pair at the threshold would pass in 19 of 20 cases. Once `exact_left` is used up,
        only pairs whose estimate is three standard deviations above the threshold pass.
        """
        variance = similarity * (1.0 - similarity)
        deviation = (variance / PERMUTATIONS) ** 0.5
        # 1.645 standard errors: the one-sided 95 % quantile of the normal distribution.
        sample_margin = 1.645 * (variance / LARGEST_SAMPLE) ** 0.5

        is_similar = np.zeros(len(first), dtype=bool)
        for start in range(0, len(first), _PAIRS_AT_ONCE):
            block = slice(start, start + _PAIRS_AT_ONCE)
            left, right, passes = first[block], second[block], is_similar[block]

            estimate = self._estimates(left, right)
            likely = np.flatnonzero(estimate >= similarity - 2.5 * deviation)
            # Comparing shingles is expensive; once its budget is used up, the estimate decides.
            exact, unverified = likely[: self.exact_left], likely[self.exact_left :]
            self.exact_left -= len(exact)
            passes[unverified] = estimate[unverified] >= min(1.0, similarity + 3.0 * deviation)

            for pairs in np.split(exact, range(_EXACT_AT_ONCE, len(exact), _EXACT_AT_ONCE)):
                jaccard, is_sample = self._jaccard(left[pairs], right[pairs])
                passes[pairs] = jaccard >= similarity - np.where(is_sample, sample_margin, 0.0)

        return is_similar

    def _estimates(self, first: Integers, second: Integers) -> npt.NDArray[np.float64]:
        is_equal = self.signature[first] == self.signature[second]
        # Counting bits of whole words is many times faster than a sum of booleans.
        equal_words = np.packbits(is_equal, axis=1).view(np.uint64)
        share = np.bitwise_count(equal_words).sum(axis=1) / PERMUTATIONS
        # Some slots agree by chance: share = jaccard + (1 - jaccard) * _CHANCE.
        return np.asarray((share - _CHANCE) / (1.0 - _CHANCE), dtype=np.float64)

    def _jaccard(self, first: Integers, second: Integers) -> tuple[npt.NDArray[np.float64], Mask]:
        """Return each pair's Jaccard index, and whether it comes from a bottom-k sample."""
        # The pair in the upper half of each key sorts the shingles of both texts together.
        pair = np.arange(len(first), dtype=np.uint64) << np.uint64(32)
        keys_of_sides = []
        for entries in (first, second):
            counts = self.counts[entries]
            shingles = self.shingles[spans(self.starts[entries], counts.astype(np.int64))]
            keys_of_sides.append(np.repeat(pair, counts) | shingles)
        keys = np.sort(np.concatenate(keys_of_sides))

        # A shingle that both texts have stands in two neighbouring keys.
        distinct = np.flatnonzero(begins_run(keys))
        pair_of_key = (keys[distinct] >> np.uint64(32)).astype(np.int64)
        is_shared = np.diff(distinct, append=len(keys)) == 2
        union = np.bincount(pair_of_key, minlength=len(first))
        # The rank of each distinct shingle within its pair, the smallest hash first.
        rank = np.arange(len(pair_of_key)) - np.repeat(np.cumsum(union) - union, union)

        is_sample = np.maximum(self.counts[first], self.counts[second]) == LARGEST_SAMPLE
        # Only the k smallest of a union are a fair sample; two whole texts have fewer than 2k.
        limit = np.where(is_sample, LARGEST_SAMPLE, 2 * LARGEST_SAMPLE)
        is_counted = is_shared & (rank < limit[pair_of_key])
        common = np.bincount(pair_of_key[is_counted], minlength=len(first))
        return np.asarray(common / np.minimum(union, limit), dtype=np.float64), is_sample


def components(first: Integers, second: Integers, size: int) -> npt.NDArray[np.int32]:
    """Return the label of each node's connected component, [size]."""
    # Imported late: a prepared session in the cache needs no graph.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    weights = np.ones(len(first), dtype=np.int8)
    graph = coo_array((weights, (first, second)), shape=(size, size))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int32)


def connecting_pairs(
    sketches: StoredSketches, entries: Integers, labels: Integers, similarity: float
) -> Pairs:
    """Return enough pairs of similar sketches, as positions in `entries`, to connect similar rows.

    Sketches with equal labels are connected already and are not compared again, so that the time
    for a large set of twins doesn't grow with its square. Each band has a limit of comparisons,
    which may leave a crowded one unconnected.
    """
    # `_merge_labels` uses labels as nodes of a graph, so they have to count from 0.
    labels = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    pairs: list[Pairs] = []

    for members, bucket, allowed in bands(sketches, entries, None, similarity):
        positions, lag, merged_pairs = np.arange(len(members)), 1, len(pairs)
        while allowed > 0:
            # Sorted neighbours are the likeliest pairs: the first lags connect most of a large set
            # of twins. So labels are merged after lags 1, 2, 4, ..., and finished buckets left out.
            if lag & (lag - 1) == 0:
                labels, merged_pairs = _merge_labels(labels, pairs[merged_pairs:]), len(pairs)
                positions = positions[is_mixed(bucket, labels[members])[positions]]
            positions = with_lag(positions, bucket, lag)
            if len(positions) == 0:
                break

            first, second = members[positions], members[positions + lag]
            is_open = labels[first] != labels[second]
            first, second = first[is_open], second[is_open]
            # Skipping connected pairs takes time as well, so it uses up a little of the limit.
            allowed -= len(first) + len(positions) // PAIRS_PASSED_AT_THE_COST_OF_ONE
            is_similar = sketches.similar(entries[first], entries[second], similarity)
            pairs.append((first[is_similar], second[is_similar]))
            lag += 1

        labels = _merge_labels(labels, pairs[merged_pairs:])

    return join_pairs(pairs)


def join_pairs(pairs: Sequence[Pairs]) -> Pairs:
    """Return all pairs as one."""
    if not pairs:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    first, second = zip(*pairs, strict=True)
    return np.concatenate(first), np.concatenate(second)


def _merge_labels(labels: Integers, pairs: list[Pairs]) -> Integers:
    """Return the labels after connecting the pairs."""
    first, second = join_pairs(pairs)
    if len(first) == 0:
        return labels
    return np.asarray(components(labels[first], labels[second], len(labels))[labels])


def is_mixed(bucket: Integers, labels: Integers) -> Mask:
    """Tell for each member of sorted buckets whether its bucket holds several labels."""
    begins = begins_run(bucket)
    bucket_starts = np.flatnonzero(begins)
    lowest = np.minimum.reduceat(labels, bucket_starts)
    highest = np.maximum.reduceat(labels, bucket_starts)
    return np.asarray((lowest != highest)[np.cumsum(begins) - 1], dtype=bool)


def with_lag(positions: Integers, bucket: Integers, lag: int) -> Integers:
    """Return the positions whose bucket also holds the member `lag` positions later."""
    positions = positions[positions + lag < len(bucket)]
    return np.asarray(positions[bucket[positions] == bucket[positions + lag]])


def rows_per_band(similarity: float) -> int:
    """Return the widest band that still finds nearly every pair at the threshold.

    With p slots in bands of r, a pair of similarity s is found with the probability
    1 - (1 - s^r)^(p/r).
    """
    # The wider the band, the smaller its buckets and the fewer the comparisons.
    for width in range(32, 1, -1):
        recall = 1.0 - (1.0 - similarity**width) ** (PERMUTATIONS // width)
        if recall >= _MINIMUM_RECALL:
            return width
    return 1


def bands(
    sketches: StoredSketches, entries: Integers, salts: Hashes | None, similarity: float
) -> Iterator[tuple[Integers, Integers, int]]:
    """Yield the members, their buckets and the number of pairs allowed of each band.

    Members are positions in `entries` that share a bucket, sorted by bucket. Within a bucket they
    are in the order of `entries` if there are salts, which keep unequal sketches apart, and
    otherwise sorted by the slots after the band, so that similar ones are neighbours.
    """
    width = rows_per_band(similarity)
    starts = range(0, PERMUTATIONS - width + 1, width)
    # Equal shares: a crowded band can't use up the limit of all others.
    allowed = sketches.pairs_left // len(starts)

    for start in starts:
        keys = _slot_keys(sketches.signature, entries, slice(start, start + width))
        if salts is not None:
            keys ^= salts
        order = np.argsort(keys, kind="stable")
        members = order[in_shared_run(keys[order])]

        if salts is None:
            # The next eight slots of 8 bits make one sort key of 64 bits.
            following = np.arange(start + width, start + width + 8) % PERMUTATIONS
            next_slots = sketches.signature[entries[members, None], following].view(">u8").ravel()
            members = members[np.lexsort((next_slots, keys[members]))]

        bucket = np.cumsum(begins_run(keys[members])) - 1
        yield members, bucket, allowed


def _slot_keys(signature: npt.NDArray[np.uint8], entries: Integers, slots: slice) -> Hashes:
    keys = np.empty(len(entries), dtype=np.uint64)
    for start in range(0, len(entries), _ENTRIES_AT_ONCE):
        block = slice(start, start + _ENTRIES_AT_ONCE)
        keys[block] = combined(signature[entries[block], slots])
    return keys
