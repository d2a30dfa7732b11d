from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunetrail.learning.training.batching import SeededBatchSampler


def epoch(sampler: SeededBatchSampler, number: int) -> list[list[int]]:
    sampler.set_epoch(number)
    return [list(batch) for batch in sampler]


def clashes(batch: list[int], keys: list[frozenset[object]]) -> int:
    counted = Counter(key for row in batch for key in keys[row])
    return sum(count - 1 for count in counted.values())


def separable(keys: list[int], batch_size: int) -> bool:
    """Gale and Ryser: rows of one key each fit into batches without a repeated key."""
    sizes = [len(keys[start : start + batch_size]) for start in range(0, len(keys), batch_size)]
    counts = Counter(keys).values()
    return all(
        sum(sizes[:number]) <= sum(min(count, number) for count in counts)
        for number in range(1, len(sizes) + 1)
    )


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(1, 50)), max_size=60),
    batch_size=st.integers(1, 12),
    seed=st.integers(0, 3),
    shuffle=st.booleans(),
    drop_single=st.booleans(),
    by=st.sampled_from(["nothing", "keys", "labels"]),
)
def test_sampler_gives_each_row_once_and_knows_its_length(
    rows: list[tuple[int, int, int]],
    batch_size: int,
    seed: int,
    shuffle: bool,
    drop_single: bool,
    by: str,
) -> None:
    sampler = SeededBatchSampler(
        [length for *_, length in rows],
        batch_size,
        seed=seed,
        keys=[frozenset(pair) for *pair, _ in rows] if by == "keys" else None,
        labels=[str(first) for first, *_ in rows] if by == "labels" else None,
        shuffle=shuffle,
        drop_single=drop_single,
    )
    batches = epoch(sampler, 0)
    given_rows = [row for batch in batches for row in batch]
    dropped = int(
        drop_single and batch_size > 1 and len(rows) > batch_size and len(rows) % batch_size == 1
    )
    assert len(sampler) == len(batches)
    assert len(given_rows) == len(set(given_rows)) == len(rows) - dropped
    assert set(given_rows) <= set(range(len(rows)))
    assert sorted(len(batch) for batch in batches)[1:] == [batch_size] * (len(batches) - 1)
    assert batches == epoch(sampler, 0)


@settings(deadline=None, max_examples=300)
@given(
    keys=st.lists(st.integers(0, 9), max_size=50),
    batch_size=st.integers(1, 8),
    seed=st.integers(0, 3),
)
def test_sampler_keeps_equal_keys_apart_wherever_rows_suffice(
    keys: list[int], batch_size: int, seed: int
) -> None:
    keys = keys[
        : len(keys) // batch_size * batch_size
    ]  # full batches only: the ragged one has a test of its own
    sets = [frozenset([key]) for key in keys]
    batches = epoch(SeededBatchSampler([1] * len(keys), batch_size, seed=seed, keys=sets), 0)
    assert not separable(keys, batch_size) or sum(clashes(batch, sets) for batch in batches) == 0


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("count", [32, 37, 64, 101])
def test_sampler_separates_repeated_texts_of_pairs(count: int, shuffle: bool) -> None:
    keys = [frozenset([f"question {row // 3}", f"answer {row % 40}"]) for row in range(count)]
    batches = epoch(SeededBatchSampler([1] * count, 8, keys=keys, shuffle=shuffle), 0)
    assert sum(clashes(batch, keys) for batch in batches) == 0


def test_sampler_takes_equal_keys_together_when_there_are_no_others() -> None:
    keys = [frozenset(["same"])] * 200_000
    batches = epoch(SeededBatchSampler([1] * len(keys), 32, keys=keys), 0)
    assert len(batches) == 6250
    assert sum(map(len, batches)) == len(keys)


def test_sampler_order_is_a_function_of_seed_and_epoch() -> None:
    lengths = list(np.random.default_rng(0).integers(1, 99, size=200))
    first, again, other_seed = (SeededBatchSampler(lengths, 8, seed=seed) for seed in (1, 1, 2))
    epoch(first, 5)  # what was drawn before doesn't matter
    assert epoch(first, 1) == epoch(again, 1)
    assert epoch(first, 0) != epoch(first, 1)
    assert epoch(first, 0) != epoch(other_seed, 0)


def test_sampler_without_shuffling_keeps_the_rows_order_in_every_epoch() -> None:
    sampler = SeededBatchSampler([3, 9, 1, 4, 7], 2, shuffle=False)
    assert epoch(sampler, 0) == epoch(sampler, 1) == [[0, 1], [2, 3], [4]]


def test_sampler_sorts_by_length_so_that_little_is_padded() -> None:
    lengths = np.random.default_rng(0).integers(1, 500, size=2000)
    batches = epoch(SeededBatchSampler(list(lengths), 16), 0)
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    unsorted = SeededBatchSampler([1] * len(lengths), 16)
    padded_unsorted = sum(len(batch) * lengths[batch].max() for batch in epoch(unsorted, 0))
    assert padded / lengths.sum() < 1.15 < 1.6 < padded_unsorted / lengths.sum()


def test_sampler_length_sorting_still_mixes_company() -> None:
    sampler = SeededBatchSampler(list(range(1, 401)), 8)
    met = {
        frozenset(pair)
        for number in range(2)
        for batch in epoch(sampler, number)
        for pair in pairwise(sorted(batch))
    }
    assert len(met) > 500  # of 700 neighbours in two epochs, most are new


@pytest.mark.parametrize("batch_size", [2, 4, 6, 5, 7])
@pytest.mark.parametrize("shuffle", [True, False])
def test_sampler_gives_rows_of_a_label_a_partner_in_their_batch(
    batch_size: int, shuffle: bool
) -> None:
    labels = [f"label {row % 9}" for row in range(90)] + [f"alone {row}" for row in range(30)]
    batches = epoch(SeededBatchSampler([1] * 120, batch_size, labels=labels, shuffle=shuffle), 0)
    for batch in batches:
        counted = Counter(labels[row] for row in batch)
        assert all(counted[label] >= 2 for label in counted if label.startswith("label"))


def test_sampler_drops_a_last_single_row_only() -> None:
    assert [len(batch) for batch in SeededBatchSampler([1] * 9, 4, drop_single=True)] == [4, 4]
    assert sorted(len(batch) for batch in SeededBatchSampler([1] * 9, 4)) == [1, 4, 4]
    assert [len(batch) for batch in SeededBatchSampler([1], 4, drop_single=True)] == [1]


def test_sampler_orders_a_large_file() -> None:
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 500, size=200_000)
    keys = [
        frozenset([int(key), -int(other)])
        for key, other in generator.integers(1, 50_000, size=(200_000, 2))
    ]
    batches = epoch(SeededBatchSampler(lengths.tolist(), 32, keys=keys), 0)
    assert len(batches) == 6250
    assert sum(clashes(batch, keys) for batch in batches) == 0
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    assert padded / lengths.sum() < 1.2
