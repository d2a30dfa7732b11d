"""Group micro-batches into optimizer steps, share them out over ranks, and resume within an epoch.

Knows row indices only; a function that is passed in builds a micro-batch from them.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from tunetrail.learning.training.batching import MergedBatchSampler, SeededBatchSampler
from tunetrail.learning.training.module import MicroBatch, StepBatch


class StepSampler(Sampler[list[list[int]]]):
    """Gives the steps of this rank, each as the row indices of its micro-batches.

    Args:
        batches: Gives an epoch's micro-batches, in an order that seed and epoch decide.
        accumulate: Micro-batches per step and rank; the last step of an epoch may have fewer.
        rank: This rank.
        ranks: Number of ranks. The last micro-batches of an epoch are dropped if they are too few
            for all ranks.
    """

    def __init__(
        self,
        batches: SeededBatchSampler | MergedBatchSampler,
        *,
        accumulate: int = 1,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.batches = batches
        self.accumulate = accumulate
        self.rank = rank
        self.ranks = ranks
        self.skipped = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this."""
        self.batches.set_epoch(epoch)

    def __len__(self) -> int:
        # Rounded up: the last step of an epoch may have fewer micro-batches.
        return -(-(len(self.batches) // self.ranks) // self.accumulate)

    def __iter__(self) -> Iterator[list[list[int]]]:
        batches = list(self.batches)

        # Every rank gets the same number of micro-batches, or one would wait for the others.
        shared = len(batches) // self.ranks * self.ranks
        batches_of_rank = batches[:shared][self.rank :: self.ranks]

        starts = range(self.skipped * self.accumulate, len(batches_of_rank), self.accumulate)
        return (batches_of_rank[start : start + self.accumulate] for start in starts)


Build = Callable[[list[int]], MicroBatch]
"""Takes row indices and returns the micro-batch of these rows."""


class _Steps(Dataset[StepBatch]):
    def __init__(self, build: Build) -> None:
        self.build = build

    def __getitem__(self, step: list[list[int]]) -> StepBatch:
        return StepBatch([self.build(rows) for rows in step])


class StepLoader(DataLoader[Any]):
    """Gives one `StepBatch` per optimizer step, and resumes in the middle of an epoch.

    Args:
        build: Builds a micro-batch.
        sampler: The steps of an epoch.
        workers: Number of processes that build micro-batches.
        indices: The index of each row in the records, if some records are not among the rows; None
            if all are.

    Attributes:
        build: Builds a micro-batch.
        steps: The steps of an epoch.
        done: Number of steps that the next iteration leaves out: the training has finished them.
    """

    def __init__(
        self,
        build: Build,
        sampler: StepSampler,
        *,
        workers: int = 0,
        indices: Sequence[int] | None = None,
    ) -> None:
        super().__init__(
            _Steps(build),
            sampler=sampler,  # not batch_sampler: Lightning looks for set_epoch here only
            # A step comes as it is: nothing is left to batch or to collate.
            batch_size=None,
            collate_fn=_as_it_is,  # type: ignore[arg-type]
            num_workers=workers,
            # The loader's own draws: the global generator belongs to dropout.
            generator=torch.Generator(),
        )
        self.build = build
        self.steps = sampler
        self.indices = indices
        self.done = 0

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.steps.batches.lengths)

    def record_indices(self, rows: Sequence[int]) -> list[int]:
        """Return the indices that rows have in the records."""
        return list(rows) if self.indices is None else [self.indices[row] for row in rows]

    def __iter__(self) -> Any:
        # Only the epoch in which a training resumes leaves out steps.
        self.steps.skipped, self.done = self.done, 0
        return super().__iter__()

    def state_dict(self) -> dict[str, int]:
        """Return the position for `load_state_dict`; checkpoints store the training's instead."""
        return {"epoch": self.steps.batches.epoch, "done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after the finished steps of an epoch.

        Sets the epoch as well: workers fetch rows before Lightning says which epoch it is.
        """
        self.done = state["done"]
        self.steps.set_epoch(state["epoch"])


def _as_it_is(step: StepBatch) -> StepBatch:
    return step
