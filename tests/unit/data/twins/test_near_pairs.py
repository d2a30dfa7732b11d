import numpy as np
import pytest

from tunetrail.data.twins.near_pairs import (
    Mask,
    StoredSketches,
    bands,
    components,
    connecting_pairs,
    is_mixed,
    rows_per_band,
    with_lag,
)
from tunetrail.data.twins.shingles import LARGEST_SAMPLE, Integers, ragged, signatures, smallest

PLENTY = 10**9


def stored(sets: list[Integers], exact: int = PLENTY) -> StoredSketches:
    shingles = ragged(
        np.concatenate(sets).astype(np.uint64), np.array([len(hashes) for hashes in sets])
    )
    sample = smallest(shingles)
    return StoredSketches(
        signature=signatures(shingles),
        shingles=sample.values.astype(np.uint32),
        counts=sample.counts.astype(np.int32),
        pairs_left=PLENTY,
        exact_left=exact,
    )


def overlapping(pairs: int, size: int, index: float, seed: int = 0) -> list[Integers]:
    """Return pairs of sets of `size` hashes each, the first of all pairs, then the second ones."""
    shared = round(2 * size * index / (1 + index))
    hashes = np.random.default_rng(seed).integers(0, 2**63, (pairs, 2 * size - shared))
    return [*hashes[:, :size], *hashes[:, size - shared :]]


@pytest.mark.parametrize("size", [20, 100, 900, 3000])
@pytest.mark.parametrize(
    ("index", "similar"), [(0.0, False), (0.5, False), (0.75, False), (0.82, True), (0.95, True)]
)
def test_similar_is_right_near_the_threshold(size: int, index: float, similar: bool) -> None:
    pairs = 300 if size < LARGEST_SAMPLE else 100
    sketches = stored(overlapping(pairs, size, index))
    is_similar = sketches.similar(np.arange(pairs), np.arange(pairs) + pairs, 0.8)
    assert np.mean(is_similar == similar) >= 0.97


def test_similar_without_exact_comparisons_passes_only_what_is_beyond_doubt() -> None:
    pairs = np.arange(200)

    for index, low, high in [(0.7, 0.0, 0.0), (0.8, 0.0, 0.05), (0.97, 0.95, 1.0)]:
        assert (
            low
            <= stored(overlapping(200, 100, index), exact=0).similar(pairs, pairs + 200, 0.8).mean()
            <= high
        )

    half = stored(overlapping(200, 100, 0.82), exact=100)
    assert half.similar(pairs, pairs + 200, 0.8)[:95].all() and half.exact_left == 0


def test_similar_of_no_pair() -> None:
    nothing = np.empty(0, dtype=np.int64)
    assert stored(overlapping(1, 9, 0.5)).similar(nothing, nothing, 0.8).tolist() == []


def test_equal_sets_are_similar_at_similarity_1() -> None:
    sketches = stored(overlapping(5, 50, 1.0) + overlapping(5, 200, 0.985, seed=3))
    first = np.array([0, 1, 2, 3, 4, 10, 11, 12, 13, 14])
    assert sketches.similar(first, first + 5, 1.0).tolist() == [True] * 5 + [False] * 5


def test_rows_per_band_find_nearly_all_pairs_at_the_threshold() -> None:
    assert [rows_per_band(similarity) for similarity in (0.01, 0.5, 0.8, 1.0)] == [1, 3, 7, 32]


def test_components_number_what_is_connected() -> None:
    labels = components(np.array([0, 3]), np.array([2, 4]), 6)
    assert labels[0] == labels[2] and labels[3] == labels[4] and len(set(labels.tolist())) == 4


def test_buckets() -> None:
    bucket = np.array([0, 0, 0, 2, 2])

    assert is_mixed(bucket, np.array([1, 1, 1, 1, 3])).tolist() == [False] * 3 + [True] * 2
    assert is_mixed(bucket[:0], bucket[:0]).tolist() == []
    assert with_lag(np.arange(5), bucket, 1).tolist() == [0, 1, 3] and with_lag(
        np.arange(5), bucket, 2
    ).tolist() == [0]


def test_bands_compare_only_what_has_an_equal_salt() -> None:
    sketches = stored([np.arange(50)] * 4)
    salts = np.array([7, 8, 7, 9], dtype=np.uint64)
    for members, bucket, _ in bands(sketches, np.arange(4), salts, 0.8):
        assert members.tolist() == [0, 2] and bucket.tolist() == [0, 0]


def test_connecting_pairs_connect_what_is_similar_and_only_that() -> None:
    sketches = stored(overlapping(500, 60, 0.85))
    first, second = connecting_pairs(sketches, np.arange(1000), np.arange(1000), 0.8)

    similar_pairs = {frozenset(pair) for pair in zip(first.tolist(), second.tolist(), strict=True)}
    assert (
        similar_pairs <= {frozenset((index, index + 500)) for index in range(500)}
        and len(similar_pairs) >= 495
    )

    connected = np.arange(1000) % 500
    assert len(connecting_pairs(sketches, np.arange(1000), connected, 0.8)[0]) == 0


class Counted(StoredSketches):
    compared = 0

    def similar(self, first: Integers, second: Integers, similarity: float) -> Mask:
        self.compared += len(first)
        return super().similar(first, second, similarity)


@pytest.mark.parametrize("pairs_left", [0, 50_000])
def test_connecting_pairs_of_a_template_compares_only_so_many(pairs_left: int) -> None:
    own_hashes = np.random.default_rng(5).integers(1000, 2**63, (2000, 11))
    hashes = (
        np.column_stack((np.tile(np.arange(40), (2000, 1)), own_hashes)).astype(np.uint64).ravel()
    )
    shingles = ragged(hashes, np.full(2000, 51))
    sample = smallest(shingles)
    sketches = Counted(
        signature=signatures(shingles),
        shingles=sample.values.astype(np.uint32),
        counts=sample.counts.astype(np.int32),
        pairs_left=pairs_left,
    )
    connecting_pairs(sketches, np.arange(2000), np.arange(2000), 0.8)

    one_lag_of_each_band = 2000 * (128 // rows_per_band(0.8))

    assert pairs_left // 2 < sketches.compared + 1 <= pairs_left + one_lag_of_each_band
