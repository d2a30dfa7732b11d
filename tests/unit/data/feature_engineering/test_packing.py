import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunetrail.data.feature_engineering.packing import packing_plan

LENGTHS = st.lists(st.integers(0, 40), max_size=60)


def loads(packs: tuple[tuple[int, ...], ...], lengths: list[int]) -> list[int]:
    return [sum(lengths[row] for row in pack) for pack in packs]


def best_fit_decreasing(lengths: list[int], capacity: int) -> int:
    """The textbook's way: look at every open pack for every row."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [number for number, room in enumerate(rooms) if room >= length]
        if not fitting:
            rooms.append(capacity - length)
            continue
        rooms[min(fitting, key=lambda number: rooms[number])] -= length
    return len(rooms)


@given(LENGTHS, st.integers(1, 45))
def test_packing_plan_places_every_row_once_and_never_above_the_capacity(
    lengths: list[int], capacity: int
) -> None:
    plan = packing_plan(np.array(lengths, dtype=np.int64), capacity)
    placed = [row for pack in plan.packs for row in pack]
    assert sorted([*placed, *plan.too_long]) == list(range(len(lengths)))
    assert list(plan.too_long) == [row for row, length in enumerate(lengths) if length > capacity]
    assert all(
        pack and load <= capacity
        for pack, load in zip(plan.packs, loads(plan.packs, lengths), strict=True)
    )


@given(LENGTHS, st.integers(1, 45))
def test_packing_plan_is_as_full_as_best_fit_decreasing(lengths: list[int], capacity: int) -> None:
    fitting = [length for length in lengths if length <= capacity]
    plan = packing_plan(np.array(lengths, dtype=np.int64), capacity)
    assert len(plan.packs) == best_fit_decreasing(fitting, capacity)
    assert len(plan.packs) >= -(-sum(fitting) // capacity)
    assert plan.fill == pytest.approx(
        sum(fitting) / (len(plan.packs) * capacity) if plan.packs else 0.0
    )
    two_emptiest = sorted(loads(plan.packs, lengths))[:2]
    assert (
        len(two_emptiest) < 2 or sum(two_emptiest) > capacity
    )  # no two sequences could have been one


@settings(max_examples=20)
@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=40), st.integers(1, 10**9))
def test_packing_plan_reads_any_capacity(lengths: list[int], capacity: int) -> None:
    plan = packing_plan(np.array(lengths, dtype=np.int64), capacity)
    assert len(plan.packs) == best_fit_decreasing(
        [length for length in lengths if length <= capacity], capacity
    )


def test_packing_plan_of_a_worked_example() -> None:
    plan = packing_plan(np.array([2, 5, 4, 7, 1, 3, 8, 11]), 10, batch_size=2)
    assert plan.packs == ((6, 0), (3, 5), (1, 2, 4))
    assert (plan.tokens, plan.fill, plan.too_long) == (30, 1.0, (7,))
    # 8 7 | 5 4 | 3 2 | 1: padded to 16 + 10 + 6 + 1 positions
    assert plan.padding_without == pytest.approx(1 - 30 / 33)
    found = json.loads(json.dumps(plan.to_dict(), allow_nan=False))
    assert (found["packs"], found["capacity"], found["too_long"]) == (3, 10, 1)


@pytest.mark.parametrize(
    ("lengths", "packs"), [([], ()), ([0, 0], ((0, 1),)), ([3], ()), ([2, 0], ((0, 1),))]
)
def test_packing_plan_of_nearly_nothing(
    lengths: list[int], packs: tuple[tuple[int, ...], ...]
) -> None:
    plan = packing_plan(np.array(lengths, dtype=np.int64), 2)
    assert plan.packs == packs
    assert plan.padding_without in (0.0, 0.5)


@pytest.mark.parametrize(
    ("lengths", "capacity", "batch_size"), [([1], 0, 1), ([-1], 4, 1), ([1], 4, 0)]
)
def test_packing_plan_refuses_what_is_no_length(
    lengths: list[int], capacity: int, batch_size: int
) -> None:
    with pytest.raises(ValueError, match="must be at least 1 and lengths at least 0"):
        packing_plan(np.array(lengths), capacity, batch_size)


def test_packing_plan_takes_seconds_for_many_rows_of_many_lengths() -> None:
    lengths = np.random.default_rng(0).integers(1, 30_000, size=100_000)
    plan = packing_plan(lengths, 32_768)
    assert plan.fill > 0.95
