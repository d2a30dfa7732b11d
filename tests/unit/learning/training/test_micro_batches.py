from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as lightning
import torch
from hypothesis import given
from hypothesis import strategies as st

from tunetrail.config import BatchesConfig
from tunetrail.learning.training.batching import SeededBatchSampler
from tunetrail.learning.training.micro_batches import (
    MicroBatchData,
    MicroBatchLoader,
    MicroBatchSampler,
    SharedBatch,
)

Position = tuple[int, list[list[int]]]


@dataclass(frozen=True)
class Rows:
    """A micro-batch that holds nothing but its rows; each weighs one more than its index."""

    rows: tuple[int, ...]

    @property
    def weight(self) -> float:
        return sum(1.0 + row for row in self.rows)


def build(rows: list[int]) -> Rows:
    return Rows(rows=tuple(rows))


def batches(rows: int, batch_size: int = 2) -> SeededBatchSampler:
    return SeededBatchSampler([1] * rows, batch_size, seed=1)


def sampler(rows: int, batch_size: int = 2, **settings: Any) -> MicroBatchSampler:
    return MicroBatchSampler(batches(rows, batch_size), **settings)


def loader(
    rows: int = 15, workers: int = 0, excluded_rows: Sequence[int] = (), **settings: Any
) -> MicroBatchLoader:
    return MicroBatchLoader(
        build, sampler(rows, **settings), workers=workers, excluded_rows=excluded_rows
    )


def windows_of(positions: Sequence[Position]) -> list[list[list[int]]]:
    """Return the windows of an epoch, each of which comes once per micro-batch."""
    return [window for index, window in positions if index == 0]


def rows_of(shared_batches: Sequence[SharedBatch]) -> list[tuple[int, ...]]:
    return [shared.batch.rows for shared in shared_batches]


sizes = {"rows": st.integers(0, 40), "batch_size": st.integers(1, 5)}


@given(accumulate=st.integers(1, 5), **sizes)
def test_windows_are_micro_batches_in_a_row(rows: int, batch_size: int, accumulate: int) -> None:
    whole = sampler(rows, batch_size, accumulate=accumulate)

    positions = list(whole)

    windows = windows_of(positions)
    assert [rows for window in windows for rows in window] == list(batches(rows, batch_size))
    assert all(len(window) == accumulate for window in windows[:-1])
    assert all(1 <= len(window) <= accumulate for window in windows[-1:])
    assert positions == [(index, window) for window in windows for index in range(len(window))]
    assert len(whole) == len(positions)


def test_the_last_window_of_an_epoch_may_have_fewer_micro_batches() -> None:
    assert list(map(len, windows_of(list(sampler(15, accumulate=3))))) == [3, 3, 2]
    assert [shared.ends_window for shared in loader(accumulate=3)] == [
        *(False, False, True),
        *(False, False, True),
        *(False, True),
    ]


def test_another_epoch_has_another_order() -> None:
    whole = sampler(40)

    first = list(whole)
    whole.set_epoch(1)
    second = list(whole)
    whole.set_epoch(0)

    assert second != first
    assert list(whole) == first


@given(accumulate=st.integers(1, 4), parts=st.integers(1, 5), **sizes)
def test_parts_are_cut_evenly_and_every_micro_batch_has_all_of_them(
    rows: int, batch_size: int, accumulate: int, parts: int
) -> None:
    undivided = windows_of(list(sampler(rows, batch_size, accumulate=accumulate)))

    cut = sampler(rows, batch_size, accumulate=accumulate, parts=parts)

    expected = []
    for window in undivided:
        pieces: list[list[int]] = []
        for micro_batch in window:
            pieces += [piece.tolist() for piece in np.array_split(micro_batch, parts)]
        expected.append([list(map(int, piece)) for piece in pieces])
    assert windows_of(list(cut)) == expected
    assert len(cut) == parts * len(batches(rows, batch_size)) == len(list(cut))


def test_a_micro_batch_of_fewer_rows_than_parts_has_empty_parts() -> None:
    ((_, window), *_) = sampler(2, 2, parts=3)

    assert list(map(len, window)) == [1, 1, 0]
    *_, empty = loader(rows=2, parts=3)
    assert (empty.batch.rows, empty.share.rows, empty.is_divided) == ((), (), False)
    assert empty.ends_window and empty.window_weight == 3.0


@given(ranks=st.integers(1, 4), accumulate=st.integers(1, 3), **sizes)
def test_all_ranks_get_the_same_micro_batches_and_each_its_share(
    rows: int, batch_size: int, ranks: int, accumulate: int
) -> None:
    alone = list(MicroBatchLoader(build, sampler(rows, batch_size, accumulate=accumulate)))

    of_ranks = []
    for rank in range(ranks):
        shared_by = sampler(rows, batch_size, accumulate=accumulate, rank=rank, ranks=ranks)
        of_ranks.append(list(MicroBatchLoader(build, shared_by)))

    for rank, shared_batches in enumerate(of_ranks):
        assert rows_of(shared_batches) == rows_of(alone)
        assert [batch.window_weight for batch in shared_batches] == [
            batch.window_weight for batch in alone
        ]
        for batch in shared_batches:
            shares = np.array_split(batch.batch.rows, ranks)
            assert batch.share.rows == tuple(shares[rank].astype(int))
            assert batch.is_divided == (len(batch.batch.rows) >= ranks)


@given(accumulate=st.integers(1, 5), ranks=st.integers(1, 4), parts=st.integers(1, 3), **sizes)
def test_ranks_and_parts_change_neither_steps_nor_their_rows(
    rows: int, batch_size: int, accumulate: int, ranks: int, parts: int
) -> None:
    def steps_of(rank: int, ranks: int, parts: int) -> list[list[int]]:
        whole = sampler(
            rows, batch_size, accumulate=accumulate, parts=parts, rank=rank, ranks=ranks
        )
        steps: list[list[int]] = [[]]
        for batch in MicroBatchLoader(build, whole):
            steps[-1] += batch.share.rows
            if batch.ends_window:
                steps.append([])
        return steps

    alone = steps_of(0, 1, 1)

    of_ranks = [steps_of(rank, ranks, parts) for rank in range(ranks)]

    together = [sorted(chain.from_iterable(shares)) for shares in zip(*of_ranks, strict=True)]
    assert together == list(map(sorted, alone))


@given(ranks=st.integers(1, 5), **sizes)
def test_validation_deals_out_whole_micro_batches_and_fills_up_with_empty_ones(
    rows: int, batch_size: int, ranks: int
) -> None:
    expected = list(batches(rows, batch_size))

    of_ranks = []
    for rank in range(ranks):
        dealt = sampler(rows, batch_size, rank=rank, ranks=ranks, share_batches=True)
        windows = windows_of(list(dealt))
        # One micro-batch each: a validation accumulates nothing.
        of_ranks.append([micro_batch for (micro_batch,) in windows])
        assert len(windows) == len(dealt)

    in_turn = [micro_batch for turn in zip(*of_ranks, strict=True) for micro_batch in turn]
    assert in_turn[: len(expected)] == expected
    padding = in_turn[len(expected) :]
    assert len(padding) < ranks and not any(padding)


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_gives_the_micro_batches_of_an_epoch(workers: int) -> None:
    shared_batches = list(loader(workers=workers, accumulate=3))

    rows = rows_of(shared_batches)
    assert rows == list(map(tuple, batches(15)))
    assert sorted(row for micro_batch in rows for row in micro_batch) == list(range(15))


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("workers", [0, 2])
def test_each_micro_batch_has_the_weight_of_its_whole_window(workers: int, parts: int) -> None:
    windows = windows_of(list(sampler(15, accumulate=3)))

    shared_batches = loader(workers=workers, accumulate=3, parts=parts)

    expected = []
    for window in windows:
        weight = sum(build(rows).weight for rows in window)
        expected += [weight] * (len(window) * parts)
    assert [shared.window_weight for shared in shared_batches] == expected


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_excluded_rows_leave_their_micro_batches_as_they_are(workers: int, accumulate: int) -> None:
    windows = windows_of(list(sampler(15, accumulate=accumulate)))
    excluded = (0, 7, *windows[1][0])

    shared_batches = list(loader(workers=workers, accumulate=accumulate, excluded_rows=excluded))

    expected, weights = [], []
    for window in windows:
        remaining = [tuple(row for row in rows if row not in excluded) for rows in window]
        expected += remaining
        weights += [sum(Rows(rows).weight for rows in remaining) or 1.0] * len(window)
    assert rows_of(shared_batches) == expected and () in expected
    assert [shared.window_weight for shared in shared_batches] == weights


def test_a_window_whose_rows_are_all_excluded_can_be_divided_by_its_weight() -> None:
    (shared,) = loader(rows=2, excluded_rows=(0, 1))

    assert (shared.batch.rows, shared.window_weight, shared.ends_window) == ((), 1.0, True)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("done", [0, 1, 5, 8])
def test_loader_skips_what_is_done_and_then_begins_at_the_beginning(
    workers: int, done: int, parts: int
) -> None:
    expected = loader(accumulate=3, parts=parts)
    expected.batches.set_epoch(4)
    rows = rows_of(list(expected))
    resumed = loader(workers=workers, accumulate=3, parts=parts)

    resumed.load_state_dict({"epoch": 4, "done": done})
    first = list(resumed)
    second = list(resumed)

    assert len(resumed) == len(rows)  # of the whole epoch: Lightning adds what is done
    assert rows_of(first) == rows[done:]
    assert rows_of(second) == rows
    # The weight is that of the window, also if the training resumes within one.
    weights = [shared.window_weight for shared in expected]
    assert [shared.window_weight for shared in first] == weights[done:]


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_says_how_many_micro_batches_it_has_handed_out(workers: int) -> None:
    interrupted = loader(workers=workers, accumulate=3)
    interrupted.load_state_dict({"epoch": 4, "done": 2})
    states = []

    for _ in interrupted:
        states.append(interrupted.state_dict()["done"])

    assert states == [3, 4, 5, 6, 7, 0]
    assert interrupted.state_dict() == {"epoch": 4, "done": 0}


def test_loader_draws_from_a_generator_of_its_own() -> None:
    state = torch.get_rng_state()

    list(loader())

    assert torch.equal(torch.get_rng_state(), state)


def test_loader_knows_the_indices_that_rows_have_in_the_records() -> None:
    assert loader().record_indices([2, 0]) == [2, 0]

    indexed = MicroBatchLoader(build, sampler(3), indices=[5, 7, 9])

    assert (indexed.record_indices([2, 0]), indexed.rows) == ([9, 5], 3)


class Fifteen(MicroBatchData):
    """Data of fifteen rows."""

    def __init__(self) -> None:
        super().__init__()
        self.batch_size, self.batches = 2, BatchesConfig()

    def train_dataloader(self) -> MicroBatchLoader:
        return self.loader(build, batches(15))

    def val_dataloader(self) -> MicroBatchLoader:
        return self.validation_loader(build, batches(15))


def trainer(accumulate: int) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu",
        accumulate_grad_batches=accumulate,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@pytest.mark.parametrize("parts", [1, 2])
def test_data_has_the_windows_of_the_trainer_whose_parts_count_too(parts: int) -> None:
    data = Fifteen()
    data.parts, data.excluded_rows = parts, frozenset({3})
    data.trainer = trainer(accumulate=3 * parts)

    shared_batches = list(data.train_dataloader())

    ends = [index for index, shared in enumerate(shared_batches) if shared.ends_window]
    assert ends == [3 * parts - 1, 6 * parts - 1, 8 * parts - 1]
    rows = sorted(row for micro_batch in rows_of(shared_batches) for row in micro_batch)
    assert rows == sorted(set(range(15)) - {3})


def test_a_validation_has_all_rows_in_whole_micro_batches() -> None:
    data = Fifteen()
    data.parts, data.excluded_rows = 2, frozenset({3})
    data.trainer = trainer(accumulate=6)

    shared_batches = list(data.val_dataloader())

    assert rows_of(shared_batches) == list(map(tuple, batches(15)))
    assert all(shared.ends_window for shared in shared_batches)


def test_data_without_a_trainer_gives_windows_of_one_micro_batch() -> None:
    data = Fifteen()
    data.parts = 2

    shared_batches = list(data.train_dataloader())

    assert [shared.ends_window for shared in shared_batches] == [False, True] * 8
