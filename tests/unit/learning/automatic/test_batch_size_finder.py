from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from tunetrail.errors import ConfigError
from tunetrail.learning.automatic.batch_size_finder import (
    BatchSearch,
    BatchSizeResult,
    divide_step,
    find_batch_size,
    typical_rows,
)

LENGTHS = [10 * (number % 10 + 1) for number in range(200)]
"""Of 10 to 100 tokens."""


@dataclass
class Machine:
    """A device of so many bytes that takes some per token at once and reaches its speed with so many tokens."""

    memory_bytes: int = 10**9
    per_token: float = 1000.0
    saturated_at: int = 500
    second_pass: float = 4.0 / 3.0
    lengths: list[int] = field(default_factory=lambda: list(LENGTHS))
    most: int = 0
    tried: list[tuple[int, int]] = field(default_factory=list)

    def memory(self, rows: Sequence[int], mini_batch_size: int) -> int | None:
        taken = int(
            self.per_token * sum(self.lengths[row] for row in rows[: mini_batch_size or None])
        )
        self.tried.append((len(rows), mini_batch_size))
        self.most = max(self.most, taken)
        return taken if taken <= self.memory_bytes else None

    def speed(self, rows: Sequence[int], mini_batch_size: int) -> float:
        tokens = sum(self.lengths[row] for row in rows[: mini_batch_size or None])
        reached = 1000.0 * min(tokens / self.saturated_at, 1.0)
        return reached / self.second_pass if mini_batch_size else reached


def search(
    rows: int = 64, *, in_mini_batches: bool = False, fixed: int = 0, limit: int = 10**9
) -> BatchSearch:
    return BatchSearch(
        rows=rows,
        in_mini_batches=in_mini_batches,
        by_length=False,
        fixed_bytes=fixed,
        limit_bytes=limit,
    )


def test_the_smallest_of_the_fastest_is_chosen_and_the_step_keeps_its_rows() -> None:
    found = find_batch_size(search(), Machine(saturated_at=800))
    assert (found.batch_size, found.accumulate, found.mini_batch_size) == (16, 4, 0)
    assert [each.rows for each in found.measured] == [1, 2, 4, 8, 16, 32, 64]
    assert found.memory_bytes == 16 * 100 * 1000


def test_the_search_ends_when_larger_batches_are_no_faster() -> None:
    found = find_batch_size(search(rows=1024), Machine(saturated_at=100, lengths=LENGTHS * 6))
    assert [each.rows for each in found.measured][-1] == 8
    assert found.batch_size == 2


def test_what_does_not_fit_is_never_tried() -> None:
    machine = Machine(saturated_at=10**6)
    found = find_batch_size(search(fixed=200_000, limit=1_000_000), machine)
    assert (found.batch_size, found.accumulate) == (8, 8)
    assert machine.most == 800_000
    assert [each.fits for each in found.measured] == [True] * 4 + [False]
    assert found.measured[-1].memory_bytes == 200_000 + 16 * 100 * 1000


def test_a_device_that_runs_out_of_memory_ends_the_search() -> None:
    found = find_batch_size(search(), Machine(memory_bytes=900_000, saturated_at=10**6))
    assert (found.batch_size, found.measured[-1].rows, found.measured[-1].fits) == (8, 16, False)


@pytest.mark.parametrize("fixed", [10**6, 400_000])
def test_no_room_for_one_row_is_said_before_it_is_tried(fixed: int) -> None:
    machine = Machine(per_token=10_000.0)
    with pytest.raises(
        ConfigError, match=r"training\.batch_size must leave room for one row, got 'auto'"
    ) as caught:
        find_batch_size(search(fixed=fixed, limit=900_000), machine)
    assert "max_length" in str(caught.value)
    assert machine.most + fixed <= 900_000 or not machine.tried


def test_a_batch_whose_rows_are_compared_stays_whole_where_it_fits() -> None:
    machine = Machine(saturated_at=100)
    found = find_batch_size(search(in_mini_batches=True), machine)
    assert (found.batch_size, found.accumulate, found.mini_batch_size) == (64, 1, 0)
    assert machine.tried[-1] == (64, 0)
    assert len(found.measured) < 7  # larger pieces brought nothing, so that the whole came next


def test_a_batch_whose_rows_are_compared_goes_in_pieces_where_it_does_not_fit() -> None:
    machine = Machine(saturated_at=10**6)
    found = find_batch_size(search(in_mini_batches=True, limit=1_700_000), machine)
    assert (found.batch_size, found.accumulate, found.mini_batch_size) == (64, 1, 16)
    assert machine.most == 1_600_000


def test_pieces_are_taken_where_the_whole_is_slower() -> None:
    class Thrashing(Machine):
        def speed(self, rows: Sequence[int], mini_batch_size: int) -> float:
            return super().speed(rows, mini_batch_size) * (1.0 if mini_batch_size else 0.1)

    found = find_batch_size(search(in_mini_batches=True), Thrashing(saturated_at=100))
    assert (found.batch_size, found.accumulate) == (64, 1)
    assert 0 < found.mini_batch_size < 64


def test_no_further_candidate_is_tried_once_the_time_is_over() -> None:
    seconds = iter([0.0, 1.0, 1e9])
    found = find_batch_size(search(), Machine(saturated_at=10**6), clock=lambda: next(seconds))
    assert [each.rows for each in found.measured] == [1, 2]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (1, [1]),
        (32, [1, 2, 4, 8, 16, 32]),
        (48, [1, 2, 3, 6, 12, 24, 48]),
        (50, [1, 2, 4, 7, 13, 25, 50]),
        (31, [1, 2, 4, 8, 16, 31]),
    ],
)
def test_candidates_halve_the_step_again_and_again(rows: int, expected: list[int]) -> None:
    assert search(rows).candidates() == expected


@pytest.mark.parametrize("rows", range(1, 200))
def test_no_candidate_changes_the_rows_of_a_step_by_much(rows: int) -> None:
    for candidate in search(rows).candidates():
        found = divide_step(rows, candidate, in_mini_batches=False)
        assert rows <= found.batch_size * found.accumulate < rows + found.accumulate


@pytest.mark.parametrize("devices", [1, 2, 3, 8])
@pytest.mark.parametrize("rows", [1, 7, 32, 50, 199])
def test_devices_share_a_step_and_none_takes_more_rows_than_it_has_tried(
    rows: int, devices: int
) -> None:
    tried = replace(search(rows), devices=devices)
    for candidate in tried.candidates():
        found = divide_step(rows, candidate, in_mini_batches=False, devices=devices)
        assert found.rows_at_once == candidate
        assert rows <= found.batch_size * found.accumulate < rows + found.accumulate

        whole = divide_step(rows, candidate, in_mini_batches=True, devices=devices)
        assert (whole.batch_size, whole.accumulate, whole.rows_at_once) == (rows, 1, candidate)


def test_a_search_for_several_devices_tries_what_one_of_them_computes() -> None:
    machine = Machine(saturated_at=10**6)
    found = find_batch_size(replace(search(limit=800_000), devices=4), machine)
    # Eight of the longest rows fit a device; it has sixteen rows of a step.
    assert (found.batch_size, found.accumulate, found.devices) == (32, 2, 4)
    assert found.rows_at_once == 8 and found.memory_bytes == machine.most == 800_000

    roomy = find_batch_size(replace(search(), devices=4), machine)
    assert (roomy.batch_size, roomy.accumulate) == (64, 1)
    assert max(rows for rows, _ in machine.tried) == 16


def test_a_share_that_fits_is_not_cut_even_if_the_whole_batch_would_be() -> None:
    machine = Machine(saturated_at=10**6)
    compared = search(in_mini_batches=True, limit=1_700_000)
    alone = find_batch_size(compared, machine)
    shared = find_batch_size(replace(compared, devices=4), machine)
    assert (alone.batch_size, alone.mini_batch_size) == (64, 16)
    assert (shared.batch_size, shared.accumulate, shared.mini_batch_size) == (64, 1, 0)


def test_typical_rows_are_of_all_lengths() -> None:
    lengths = np.array(LENGTHS)
    for count in (1, 2, 7, 64, 200):
        rows = typical_rows(LENGTHS, count, by_length=False)
        assert len(set(rows)) == count
        assert lengths[rows].mean() == pytest.approx(lengths.mean(), rel=0.15)


def test_typical_rows_of_like_length_are_about_the_median() -> None:
    rows = typical_rows([number**2 for number in range(100)], 11, by_length=True)
    assert sorted(rows) == list(range(44, 55))


def test_what_was_found_becomes_plain_values_and_back() -> None:
    found = find_batch_size(replace(search(), devices=2), Machine())
    assert BatchSizeResult.from_dict(found.to_dict()) == found


def test_a_result_of_an_earlier_version_is_for_one_device() -> None:
    plain = find_batch_size(search(), Machine()).to_dict()
    del plain["devices"]
    assert BatchSizeResult.from_dict(plain).devices == 1
