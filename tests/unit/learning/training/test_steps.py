from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tunetrail.learning.training.steps import StepLoader, StepSampler

from tunetrail.learning.training.batching import SeededBatchSampler


@dataclass(frozen=True)
class Rows:
    """A micro-batch that holds nothing but its rows' numbers."""

    rows: tuple[int, ...]
    weight: float = 1.0


def build(rows: list[int]) -> Rows:
    return Rows(rows=tuple(rows))


def sampler(rows: int, batch_size: int = 2, **shares: int) -> StepSampler:
    return StepSampler(SeededBatchSampler([1] * rows, batch_size, seed=1), **shares)


def loader(rows: int = 15, workers: int = 0, accumulate: int = 3) -> StepLoader:
    return StepLoader(build, sampler(rows, accumulate=accumulate), workers=workers)


@given(
    rows=st.integers(0, 40),
    batch_size=st.integers(1, 5),
    accumulate=st.integers(1, 5),
    ranks=st.integers(1, 4),
)
def test_steps_of_all_ranks_are_those_of_one_that_accumulates_as_much(
    rows: int, batch_size: int, accumulate: int, ranks: int
) -> None:
    of_ranks = [
        sampler(rows, batch_size, accumulate=accumulate, rank=rank, ranks=ranks)
        for rank in range(ranks)
    ]
    alone = sampler(rows, batch_size, accumulate=accumulate * ranks)
    steps = [list(each) for each in of_ranks]
    assert {len(each) for each in steps} == {len(of_ranks[0])} == {len(steps[0])}
    together = [
        [batch for micro in zip(*step, strict=True) for batch in micro]
        for step in zip(*steps, strict=True)
    ]
    expected = list(alone)
    assert together[:-1] == expected[: max(len(together) - 1, 0)]
    if together:
        last = expected[len(together) - 1]
        assert together[-1] == last[: len(last) // ranks * ranks]
    left_out = sum(map(len, expected)) - sum(map(len, together))
    assert 0 <= left_out < ranks


def test_an_epochs_last_step_may_have_fewer_micro_batches() -> None:
    assert [len(step) for step in sampler(15, accumulate=3)] == [3, 3, 2]
    assert len(sampler(15, accumulate=3)) == 3


def test_another_epoch_has_another_order() -> None:
    steps = sampler(40)
    first = list(steps)
    steps.set_epoch(1)
    assert list(steps) != first
    steps.set_epoch(0)
    assert list(steps) == first


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_gives_steps_of_micro_batches(workers: int) -> None:
    found = [step.rows for step in loader(workers=workers)]
    assert found == [[row for batch in step for row in batch] for step in sampler(15, accumulate=3)]
    assert sorted(row for rows in found for row in rows) == list(range(15))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("done", [0, 1, 2, 3])
def test_loader_goes_on_behind_the_steps_that_are_done_and_then_from_the_beginning(
    workers: int, done: int
) -> None:
    expected = loader()
    expected.steps.set_epoch(4)
    steps = [step.rows for step in expected]
    resumed = loader(workers=workers)
    resumed.load_state_dict({"epoch": 4, "done": done})
    assert resumed.state_dict() == {"epoch": 4, "done": done}
    assert len(resumed) == 3  # of the whole epoch: Lightning adds what is done
    assert [step.rows for step in resumed] == steps[done:]
    assert [step.rows for step in resumed] == steps


def test_loader_knows_the_numbers_that_rows_have_in_the_records() -> None:
    assert loader().record_indices([2, 0]) == [2, 0]
    numbered = StepLoader(build, sampler(3), indices=[5, 7, 9])
    assert (numbered.record_indices([2, 0]), numbered.rows) == ([9, 5], 3)
