"""Hand out micro-batches by accumulation windows, share them out over ranks, resume in an epoch.

A window is the micro-batches of one optimizer step. Knows row indices only; a function that is
passed in builds a micro-batch from them.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

import numpy as np
import pytorch_lightning as lightning
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from tunetrail.config import BatchesConfig
from tunetrail.learning.training.batching import MergedBatchSampler, SeededBatchSampler


class MicroBatch(Protocol):
    """The rows of one forward and backward pass."""

    @property
    def rows(self) -> Sequence[int]:
        """Indices of the rows in the training records."""

    @property
    def weight(self) -> float:
        """Divisor of the summed loss: rows or supervised tokens, each with its own weight."""


class SharedBatch:
    """A micro-batch, and what each rank computes of it.

    Neither a collection nor a dataclass, so that Lightning hands it on unchanged.

    Attributes:
        batch: The rows of all ranks.
        shares: The rows of each rank, rank by rank, in the order of `batch`.
        rank: This rank.
        window_weight: Sum of the weights of all micro-batches of the optimizer step.
        ends_window: Whether the optimizer takes its step after this micro-batch.
    """

    def __init__(
        self,
        batch: Any,
        shares: Sequence[Any] = (),
        *,
        rank: int = 0,
        window_weight: float | None = None,
        ends_window: bool = True,
    ) -> None:
        self.batch = batch
        self.shares = tuple(shares) or (batch,)
        self.rank = rank
        # A window whose rows were all left out has a loss of 0, whatever divides it.
        self.window_weight = (batch.weight if window_weight is None else window_weight) or 1.0
        self.ends_window = ends_window

    @property
    def share(self) -> Any:
        """The rows of this rank."""
        return self.shares[self.rank]

    @property
    def is_divided(self) -> bool:
        """Whether every rank has a row of it."""
        return all(share.rows for share in self.shares)


class MicroBatchSampler(DistributedSampler[Any]):
    """Gives the micro-batches of an epoch, each with the rows of its whole window.

    All ranks get the same micro-batches, so the number of ranks changes neither batches nor steps.
    A `DistributedSampler`, so that a Trainer doesn't put one of its own in its place.

    Args:
        batches: Gives an epoch's micro-batches, in an order that seed and epoch decide.
        accumulate: Micro-batches per window, before they are cut; the last window of an epoch may
            have fewer.
        parts: Number of parts into which each micro-batch is cut; each is a micro-batch of its own.
        rank: This rank.
        ranks: Number of ranks.
        share_batches: Give each rank whole micro-batches in turn instead of a share of each; ranks
            that would have one fewer get an empty one.
    """

    def __init__(
        self,
        batches: SeededBatchSampler | MergedBatchSampler,
        *,
        accumulate: int = 1,
        parts: int = 1,
        rank: int = 0,
        ranks: int = 1,
        share_batches: bool = False,
    ) -> None:
        # The base class only wants the number of rows; all else of it is overridden.
        super().__init__(batches.lengths, num_replicas=ranks, rank=rank)  # type: ignore[arg-type]
        self.batches = batches
        self.accumulate = accumulate
        self.parts = parts
        self.ranks = ranks
        self.share_batches = share_batches
        self.skipped = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this."""
        self.batches.set_epoch(epoch)

    def __len__(self) -> int:
        if self.share_batches:
            return -(-len(self.batches) // self.ranks)
        return len(self.batches) * self.parts

    def __iter__(self) -> Iterator[tuple[int, list[list[int]]]]:
        """Yield (index within the window, the rows of each micro-batch of the window)."""
        batches = list(self.batches)
        if self.share_batches:
            batches = batches[self.rank :: self.ranks]
            batches += [[]] * (len(self) - len(batches))

        windows = []
        for start in range(0, len(batches), self.accumulate):
            windows.append(self._cut(batches[start : start + self.accumulate]))

        positions = ((index, window) for window in windows for index in range(len(window)))
        # Only now: a loader with workers asks for two iterators, and uses the second.
        skipped, self.skipped = self.skipped, 0
        yield from islice(positions, skipped, None)

    def _cut(self, window: list[list[int]]) -> list[list[int]]:
        if self.parts == 1:
            return window

        # A part may be empty: every micro-batch has the same number of parts.
        cut: list[list[int]] = []
        for rows in window:
            cut += [part_rows.tolist() for part_rows in _split(rows, self.parts)]
        return cut


Build = Callable[[list[int]], MicroBatch]
"""Takes row indices and returns the micro-batch of these rows."""


class _SharedBatches(Dataset[SharedBatch]):
    def __init__(self, build: Build, rank: int, ranks: int, excluded_rows: Collection[int]) -> None:
        self.build = build
        self.rank = rank
        self.ranks = ranks
        self.excluded_rows = excluded_rows
        # The micro-batches of a window come one after the other: it is weighed once.
        self._weighed: tuple[list[list[int]], float] = ([], 0.0)

    def __getitem__(self, position: tuple[int, list[list[int]]]) -> SharedBatch:
        index, window = position
        rows = self._remaining(window[index])
        batch = self.build(rows)
        if self.ranks == 1:
            shares = [batch]
        else:
            shares = [self.build(share.tolist()) for share in _split(rows, self.ranks)]

        return SharedBatch(
            batch,
            shares,
            rank=self.rank,
            window_weight=batch.weight if len(window) == 1 else self._weigh(window),
            ends_window=index == len(window) - 1,
        )

    def _remaining(self, rows: Sequence[int]) -> list[int]:
        return [row for row in rows if row not in self.excluded_rows]

    def _weigh(self, window: list[list[int]]) -> float:
        weighed_window, weight = self._weighed
        if weighed_window != window:
            weight = sum(self.build(self._remaining(rows)).weight for rows in window)
            self._weighed = (window, weight)
        return weight


class MicroBatchLoader(DataLoader[Any]):
    """Gives one `SharedBatch` per micro-batch, and resumes in the middle of an epoch.

    Args:
        build: Builds a micro-batch.
        sampler: The micro-batches of an epoch.
        workers: Number of processes that build micro-batches.
        indices: The index of each row in the records, if some records are not among the rows; None
            if all are.
        excluded_rows: Rows that are left out of their micro-batches, which otherwise stay the same.

    Attributes:
        build: Builds a micro-batch.
        batches: Gives the rows of an epoch's micro-batches before these are shared out.
    """

    def __init__(
        self,
        build: Build,
        sampler: MicroBatchSampler,
        *,
        workers: int = 0,
        indices: Sequence[int] | None = None,
        excluded_rows: Collection[int] = (),
    ) -> None:
        super().__init__(
            _SharedBatches(build, sampler.rank, sampler.ranks, frozenset(excluded_rows)),
            sampler=sampler,  # not batch_sampler: Lightning looks for set_epoch here only
            batch_size=None,  # a micro-batch comes as it is
            num_workers=workers,
            # The loader's own draws: the global generator belongs to dropout.
            generator=torch.Generator(),
        )
        self.build = build
        self.batches = sampler.batches
        self.indices = indices
        self._sampler = sampler
        self._handed_out = 0

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.batches.lengths)

    def record_indices(self, rows: Sequence[int]) -> list[int]:
        """Return the indices that rows have in the records."""
        return list(rows) if self.indices is None else [self.indices[row] for row in rows]

    def __iter__(self) -> Any:
        # Only the epoch in which a training resumes leaves out micro-batches.
        self._handed_out = self._sampler.skipped
        for batch in super().__iter__():
            self._handed_out += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the epoch, and how many of its micro-batches were handed out."""
        return {"epoch": self.batches.epoch, "done": self._handed_out % max(len(self), 1)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after the micro-batches that were handed out.

        Sets the epoch as well: workers fetch rows before Lightning says which epoch it is.
        """
        self._sampler.skipped = state["done"]
        self._sampler.set_epoch(state["epoch"])


class MicroBatchData(lightning.LightningDataModule):
    """Data of a training, which may go on in smaller micro-batches and without some of its rows.

    Attributes:
        batch_size: Rows per micro-batch, over all ranks.
        batches: How rows become micro-batches. Their number per step is the Trainer's
            `accumulate_grad_batches`.
        parts: Number of parts into which each micro-batch is cut; the Trainer has to accumulate as
            many times more.
        excluded_rows: Rows that are left out of their micro-batches in training.
    """

    batch_size: int
    batches: BatchesConfig

    def __init__(self) -> None:
        super().__init__()
        self.parts = 1
        self.excluded_rows: frozenset[int] = frozenset()

    @property
    def judges(self) -> bool:
        """Whether the validation loss can change, so that it can choose weights and stop early."""
        return True

    def loader(
        self,
        build: Build,
        batches: SeededBatchSampler | MergedBatchSampler,
        *,
        indices: Sequence[int] | None = None,
    ) -> MicroBatchLoader:
        """Return a loader for training: each rank computes a share of every micro-batch."""
        accumulate = self.trainer.accumulate_grad_batches if self.trainer else self.parts
        rank, ranks = self._rank_and_ranks()

        sampler = MicroBatchSampler(
            batches,
            accumulate=max(accumulate // self.parts, 1),
            parts=self.parts,
            rank=rank,
            ranks=ranks,
        )
        return MicroBatchLoader(
            build,
            sampler,
            workers=self.batches.workers,
            indices=indices,
            excluded_rows=self.excluded_rows,
        )

    def validation_loader(
        self, build: Build, batches: SeededBatchSampler | MergedBatchSampler
    ) -> MicroBatchLoader:
        """Return a loader for validation: each rank computes some of the micro-batches."""
        rank, ranks = self._rank_and_ranks()
        return MicroBatchLoader(
            build, MicroBatchSampler(batches, rank=rank, ranks=ranks, share_batches=True)
        )

    def _rank_and_ranks(self) -> tuple[int, int]:
        if not self.trainer:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size


def _split(rows: Sequence[int], count: int) -> list[Any]:
    return np.array_split(np.asarray(rows, dtype=np.int64), count)
