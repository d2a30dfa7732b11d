"""Near pairs: finds similar sketches among many by locality-sensitive hashing. Knows nothing of rows or texts.

Signatures are cut into bands; those with an equal band share a bucket, and only they are compared (Indyk and Motwani
1998; Broder 1997). Where a bucket is so large that its pairs can't all be compared, its neighbours in sorted order are.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

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

_WANTED_RECALL = 0.98
_PAIRS_AT_ONCE = 1 << 15
_EXACT_AT_ONCE = 1 << 12
_ENTRIES_AT_ONCE = 1 << 16
_CHANCE = 1.0 / 256.0
PAIRS_PASSED_AT_THE_COST_OF_ONE = 8
"""Pairs of a bucket that need no comparison and take the time of one that does."""


@dataclass(kw_only=True)
class StoredSketches:
    """Sketches of texts, one entry each, most likely on disk.

    Attributes:
        signature: MinHash signatures, 8 bits a slot, [entries, `PERMUTATIONS`].
        shingles: The smallest shingle hashes of each text, sorted, one text behind the other.
        counts: How many each has, [entries].
        pairs_left: How many pairs may be compared in a search; more are passed over in the largest buckets.
        exact_left: How many of them may be compared exactly; after that, those that need it count as not similar.
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
        """Whether the Jaccard index of each pair of entries is at least `similarity`.

        The estimate rules out what is 2.5 standard deviations below. The shingles decide on the rest: exactly for texts
        of fewer than 1,024 of them; longer ones are judged by so many, with a standard error of at most 0.016, and pass
        where a pair at the threshold would in 19 of 20 cases. Once `exact_left` is used up, only pairs with an estimate
        of three standard deviations above the threshold pass.
        """
        deviation = (similarity * (1.0 - similarity) / PERMUTATIONS) ** 0.5
        margin = 1.645 * (similarity * (1.0 - similarity) / LARGEST_SAMPLE) ** 0.5
        found = np.zeros(len(first), dtype=bool)
        for start in range(0, len(first), _PAIRS_AT_ONCE):
            one, other = (
                first[start : start + _PAIRS_AT_ONCE],
                second[start : start + _PAIRS_AT_ONCE],
            )
            estimate = self._estimates(one, other)
            likely = np.flatnonzero(estimate >= similarity - 2.5 * deviation)
            exact, rest = likely[: self.exact_left], likely[self.exact_left :]
            self.exact_left -= len(exact)
            passes = found[start : start + _PAIRS_AT_ONCE]
            passes[rest] = estimate[rest] >= min(1.0, similarity + 3.0 * deviation)
            for part in np.split(exact, range(_EXACT_AT_ONCE, len(exact), _EXACT_AT_ONCE)):
                index, is_sample = self._jaccard(one[part], other[part])
                passes[part] = index >= similarity - np.where(is_sample, margin, 0.0)
        return found

    def _estimates(self, first: Integers, second: Integers) -> npt.NDArray[np.float64]:
        equal = np.packbits(self.signature[first] == self.signature[second], axis=1).view(np.uint64)
        share = np.bitwise_count(equal).sum(axis=1) / PERMUTATIONS
        return np.asarray((share - _CHANCE) / (1.0 - _CHANCE), dtype=np.float64)

    def _jaccard(self, first: Integers, second: Integers) -> tuple[npt.NDArray[np.float64], Mask]:
        """Return the index of each pair, and whether it is that of the smallest shingles of the union (bottom-k)."""
        pair = np.arange(len(first), dtype=np.uint64) << np.uint64(32)
        keys = np.sort(
            np.concatenate(
                [
                    np.repeat(pair, self.counts[side])
                    | self.shingles[spans(self.starts[side], self.counts[side].astype(np.int64))]
                    for side in (first, second)
                ]
            )
        )
        distinct = np.flatnonzero(begins_run(keys))
        owner = (keys[distinct] >> np.uint64(32)).astype(np.int64)
        shared = np.diff(distinct, append=len(keys)) == 2
        union = np.bincount(owner, minlength=len(first))
        rank = np.arange(len(owner)) - np.repeat(np.cumsum(union) - union, union)
        is_sample = np.maximum(self.counts[first], self.counts[second]) == LARGEST_SAMPLE
        limit = np.where(is_sample, LARGEST_SAMPLE, 2 * LARGEST_SAMPLE)
        common = np.bincount(owner[shared & (rank < limit[owner])], minlength=len(first))
        return np.asarray(common / np.minimum(union, limit), dtype=np.float64), is_sample


def components(first: Integers, second: Integers, size: int) -> npt.NDArray[np.int32]:
    """Return the number of the connected component of each of `size` nodes."""
    graph = coo_array((np.ones(len(first), dtype=np.int8), (first, second)), shape=(size, size))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int32)


def connecting_pairs(
    sketches: StoredSketches, entries: Integers, labels: Integers, similarity: float
) -> Pairs:
    """Return pairs of positions in `entries` of similar sketches, enough of them to connect all that are.

    What has an equal label is connected already and needs no second proof; that keeps large sets of twins from costing
    their square.
    """
    labels = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    found: list[Pairs] = []
    for members, bucket, allowed in bands(sketches, entries, None, similarity):
        places, lag, merged = np.arange(len(members)), 1, len(found)
        while allowed > 0:
            if lag & (lag - 1) == 0:
                # sorted neighbours are the likeliest pairs: the first few lags connect most of a large set of twins
                labels, merged = _merged(labels, found[merged:]), len(found)
                places = places[is_mixed(bucket, labels[members])[places]]
            places = with_lag(places, bucket, lag)
            if len(places) == 0:
                break
            first, second = members[places], members[places + lag]
            new = labels[first] != labels[second]
            first, second = first[new], second[new]
            allowed -= len(first) + len(places) // PAIRS_PASSED_AT_THE_COST_OF_ONE
            similar = sketches.similar(entries[first], entries[second], similarity)
            found.append((first[similar], second[similar]))
            lag += 1
        labels = _merged(labels, found[merged:])
    return _joined(found)


def _joined(pairs: list[Pairs]) -> Pairs:
    if not pairs:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    return np.concatenate([first for first, _ in pairs]), np.concatenate(
        [second for _, second in pairs]
    )


def _merged(labels: Integers, pairs: list[Pairs]) -> Integers:
    first, second = _joined(pairs)
    if len(first) == 0:
        return labels
    return np.asarray(components(labels[first], labels[second], len(labels))[labels])


def is_mixed(bucket: Integers, labels: Integers) -> Mask:
    """Whether the bucket of each member, of sorted buckets, holds several labels."""
    begins = begins_run(bucket)
    firsts = np.flatnonzero(begins)
    mixed = np.minimum.reduceat(labels, firsts) != np.maximum.reduceat(labels, firsts)
    return np.asarray(mixed[np.cumsum(begins) - 1], dtype=bool)


def with_lag(places: Integers, bucket: Integers, lag: int) -> Integers:
    """Return the places that have another member of their bucket `lag` behind them."""
    places = places[places + lag < len(bucket)]
    return np.asarray(places[bucket[places] == bucket[places + lag]])


def rows_per_band(similarity: float) -> int:
    """Return the widest band that still finds nearly every pair at the threshold: recall 1 - (1 - s^r)^(p/r)."""
    for width in range(32, 1, -1):
        if 1.0 - (1.0 - similarity**width) ** (PERMUTATIONS // width) >= _WANTED_RECALL:
            return width
    return 1


def bands(
    sketches: StoredSketches, entries: Integers, salts: Hashes | None, similarity: float
) -> Iterator[tuple[Integers, Integers, int]]:
    """Yield, for each band, the positions that share a bucket, sorted by it, their buckets, and the pairs allowed.

    Inside a bucket positions with a salt are sorted by age, those without by the slots that follow the band.
    """
    width = rows_per_band(similarity)
    starts = range(0, PERMUTATIONS - width + 1, width)
    allowed = sketches.pairs_left // len(starts)
    for start in starts:
        keys = _slot_keys(sketches.signature, entries, slice(start, start + width))
        if salts is not None:
            keys ^= salts
        order = np.argsort(keys, kind="stable")
        members = order[in_shared_run(keys[order])]
        if salts is None:
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
