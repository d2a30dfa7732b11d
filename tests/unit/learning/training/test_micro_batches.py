from dataclasses import dataclass
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunetrail.learning.training.batching import SeededBatchSampler
from tunetrail.learning.training.micro_batches import MicroBatchLoader, MicroBatchSampler


@dataclass(frozen=True)
class Rows:
    """A micro-batch that holds nothing except the indices of its rows."""

    rows: tuple[int, ...]

    @property
    def weight(self) -> float:
        return float(len(self.rows))


def build(rows: list[int]) -> Rows:
    return Rows(rows=tuple(rows))


def sampler(rows: int, batch_size: int = 2, **settings: int) -> MicroBatchSampler:
    return MicroBatchSampler(SeededBatchSampler([1] * rows, batch_size, seed=1), **settings)


def loader(
    rows: int = 15, workers: int = 0, excluded_rows: tuple[int, ...] = (), **settings: int
) -> MicroBatchLoader:
    settings = {"accumulate": 3, **settings}
    return MicroBatchLoader(
        build, sampler(rows, **settings), workers=workers, excluded_rows=excluded_rows
    )


@given(
    rows=st.integers(0, 40),
    batch_size=st.integers(1, 5),
    accumulate=st.integers(1, 5),
    ranks=st.integers(1, 4),
    parts=st.integers(1, 3),
)
def test_ranks_and_parts_change_neither_steps_nor_their_rows(
    rows: int, batch_size: int, accumulate: int, ranks: int, parts: int
) -> None:
    """Micro-batches of all ranks hold the rows of one rank's, step by step."""

    def steps_of(rank: int, ranks: int, parts: int) -> list[list[int]]:
        shared = MicroBatchLoader(
            build,
            sampler(rows, batch_size, accumulate=accumulate, parts=parts, rank=rank, ranks=ranks),
        )
        assert len(list(shared)) == len(shared)
        steps: list[list[int]] = [[]]
        for batch in shared:
            steps[-1] += batch.share.rows
            if batch.ends_window:
                steps.append([])
        return steps

    alone = steps_of(0, 1, 1)
    of_ranks = [steps_of(rank, ranks, parts) for rank in range(ranks)]
    together = [sorted(chain.from_iterable(shares)) for shares in zip(*of_ranks, strict=True)]
    assert together == list(map(sorted, alone))


def test_an_epochs_last_window_may_have_fewer_micro_batches() -> None:
    batches = list(loader())
    assert [batch.ends_window for batch in batches] == [
        False, False, True, False, False, True, False, True,
    ]  # fmt: skip
    assert [batch.window_weight for batch in batches] == [6.0] * 6 + [3.0] * 2


def test_parts_may_be_empty() -> None:
    parts = [batch.batch.rows for batch in loader(rows=3, parts=2, accumulate=1)]
    assert sorted(map(len, parts)) == [0, 1, 1, 1]


def test_excluded_rows_leave_the_other_rows_where_they_were() -> None:
    whole = [batch.batch.rows for batch in loader()]

    batches = list(loader(excluded_rows=(3, 8)))

    expected = [tuple(row for row in rows if row not in (3, 8)) for rows in whole]
    assert [batch.batch.rows for batch in batches] == expected
    assert sum(batch.window_weight for batch in batches if batch.ends_window) == 13.0


def test_ranks_share_the_batches_of_a_validation() -> None:
    ranks = [
        list(MicroBatchLoader(build, sampler(9, rank=rank, ranks=2, share_batches=True)))
        for rank in range(2)
    ]
    # The fifth batch has no counterpart: the second rank gets an empty one.
    assert [len(batches) for batches in ranks] == [3, 3]
    rows = sorted(row for batches in ranks for batch in batches for row in batch.batch.rows)
    assert rows == list(range(9))
    assert ranks[1][-1].batch.rows == ()


def test_another_epoch_has_another_order() -> None:
    micro_batches = sampler(40)
    first = list(micro_batches)
    micro_batches.set_epoch(1)
    assert list(micro_batches) != first
    micro_batches.set_epoch(0)
    assert list(micro_batches) == first


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("done", [0, 1, 3, 6])
def test_loader_continues_after_what_was_handed_out_and_then_from_the_beginning(
    workers: int, done: int
) -> None:
    expected = loader()
    expected.batches.set_epoch(4)
    rows = [batch.batch.rows for batch in expected]

    resumed = loader(workers=workers)
    resumed.load_state_dict({"epoch": 4, "done": done})

    assert len(resumed) == 8  # of the whole epoch: Lightning adds what is done
    assert [batch.batch.rows for batch in resumed] == rows[done:]
    assert [batch.batch.rows for batch in resumed] == rows


def test_loader_tells_how_many_it_has_handed_out() -> None:
    batches = loader()
    for handed_out, _ in enumerate(batches, start=1):
        assert batches.state_dict() == {"epoch": 0, "done": handed_out % 8}


def test_loader_knows_the_indices_that_rows_have_in_the_records() -> None:
    assert loader().record_indices([2, 0]) == [2, 0]
    indexed = MicroBatchLoader(build, sampler(3), indices=[5, 7, 9])
    assert (indexed.record_indices([2, 0]), indexed.rows) == ([9, 5], 3)
