"""Steps: micro-batches put together to optimizer steps, shared out over ranks, and taken up again after a stop.

Knows numbers of rows only; what a micro-batch is made of comes in as a function.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from tunetrail.learning.training.batching import MergedBatchSampler, SeededBatchSampler
from tunetrail.learning.training.module import MicroBatch, StepBatch


class StepSampler(Sampler[list[list[int]]]):
    """Each item is one step of this rank: the row numbers of its micro-batches.

    Args:
        batches: Gives an epoch's micro-batches, in an order that only its seed and the epoch decide.
        accumulate: Micro-batches per step and rank; an epoch's last step may have fewer.
        rank: Which rank this is.
        ranks: How many there are. An epoch's last micro-batches that don't go round are left out.
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
        return -(-(len(self.batches) // self.ranks) // self.accumulate)

    def __iter__(self) -> Iterator[list[list[int]]]:
        own = list(self.batches)
        own = own[: len(own) // self.ranks * self.ranks][self.rank :: self.ranks]
        steps = [
            own[start : start + self.accumulate] for start in range(0, len(own), self.accumulate)
        ]
        return iter(steps[self.skipped :])


Build = Callable[[list[int]], MicroBatch]
"""Takes row numbers and returns the micro-batch of these rows."""


class _Steps(Dataset[StepBatch]):
    def __init__(self, build: Build) -> None:
        self.build = build

    def __getitem__(self, step: list[list[int]]) -> StepBatch:
        return StepBatch([self.build(rows) for rows in step])


class StepLoader(DataLoader[Any]):
    """Gives one `StepBatch` per optimizer step, and goes on in the middle of an epoch after a stop.

    Args:
        build: Makes a micro-batch.
        sampler: The steps of an epoch.
        workers: Processes that build micro-batches.
        numbers: The rows' numbers in the records, where some records are no rows; None: their own.

    Attributes:
        build: Makes a micro-batch of row numbers.
        steps: The steps of an epoch.
        done: Steps that the next run through them leaves out: the training has finished them.
    """

    def __init__(
        self,
        build: Build,
        sampler: StepSampler,
        *,
        workers: int = 0,
        numbers: Sequence[int] | None = None,
    ) -> None:
        super().__init__(
            _Steps(build),
            sampler=sampler,  # not batch_sampler: Lightning looks for set_epoch here only
            batch_size=None,
            collate_fn=_as_it_is,  # type: ignore[arg-type]
            num_workers=workers,
            generator=torch.Generator(),  # the loader's own draws: the global generator belongs to dropout
        )
        self.build = build
        self.steps = sampler
        self.numbers = numbers
        self.done = 0

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.steps.batches.lengths)

    def numbers_of(self, rows: Sequence[int]) -> list[int]:
        """Return the numbers that rows have in the records."""
        return list(rows) if self.numbers is None else [self.numbers[row] for row in rows]

    def __iter__(self) -> Any:
        self.steps.skipped, self.done = self.done, 0
        return super().__iter__()

    def state_dict(self) -> dict[str, int]:
        """Return what `load_state_dict` takes; in a checkpoint, what `position` knows takes its place."""
        return {"epoch": self.steps.batches.epoch, "done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on behind the steps that were done; workers fetch before Lightning says which epoch it is."""
        self.done = state["done"]
        self.steps.set_epoch(state["epoch"])


def _as_it_is(step: StepBatch) -> StepBatch:
    return step
