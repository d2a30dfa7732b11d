"""The search for a batch size on a module: real rows forwards and backwards, without an optimizer step."""

import gc
import statistics
import time
from collections.abc import Sequence

import pytorch_lightning as lightning
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException

from tunetrail.config import TrainingConfig
from tunetrail.learning.automatic.batch_size_finder import (
    USABLE_SHARE,
    BatchSearch,
    BatchSizeResult,
    agreed,
    find_batch_size,
)
from tunetrail.learning.automatic.memory_meter import (
    free_memory,
    held_memory,
    peak_memory,
    release_memory,
)
from tunetrail.learning.training.console import progress_bar
from tunetrail.learning.training.module import TrainedModule
from tunetrail.learning.training.out_of_memory import is_out_of_memory
from tunetrail.learning.training.steps import StepLoader

_REPETITIONS = 5
_SECONDS = 2.0
_STATES = {"adamw": 2.0, "adam": 2.0, "sgd": 1.0, "adafactor": 0.1}
"""Numbers that an optimizer keeps per weight; Adafactor's are sums over rows and columns."""


class BatchSizeTrial(lightning.Callback):
    """Looks for the batch size where a training would begin, and ends the training before its first step.

    Args:
        training: The training to come.
        rows: Rows of a step on each rank.
        in_mini_batches: Whether a step has to stay one batch.
        limit_bytes: What may be taken beside the model; None: a share of what is free.

    Attributes:
        found: The result.
    """

    def __init__(
        self,
        training: TrainingConfig,
        *,
        rows: int,
        in_mini_batches: bool,
        limit_bytes: int | None = None,
    ) -> None:
        self.training = training
        self.rows = rows
        self.in_mini_batches = in_mini_batches
        self.limit_bytes = limit_bytes
        self.found: BatchSizeResult | None = None

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Search."""
        assert isinstance(pl_module, TrainedModule) and isinstance(
            trainer.train_dataloader, StepLoader
        )
        gc.collect()
        release_memory(pl_module.device)
        gradients, state = state_bytes(pl_module, self.training)
        if self.limit_bytes is None:
            self.limit_bytes = int(USABLE_SHARE * free_memory(pl_module.device))
        probe = ModuleProbe(trainer, pl_module, trainer.train_dataloader, state)
        rows = min(self.rows, len(probe.lengths))
        search = BatchSearch(
            rows=rows,
            in_mini_batches=self.in_mini_batches,
            like_lengths=trainer.train_dataloader.steps.batches.by_length,
            fixed_bytes=gradients + state,
            limit_bytes=self.limit_bytes,
        )
        with progress_bar() as bar:
            task = bar.add_task("Batch size", total=None)

            def show(number: int, count: int) -> None:
                if trainer.received_sigterm:
                    raise SIGTERMException
                bar.update(task, completed=number, total=count)

            found = find_batch_size(search, probe, on_candidate=show)
        self.found = agreed(
            found, _over_ranks(found), rows=rows, in_mini_batches=self.in_mini_batches
        )
        trainer.should_stop = True


class ModuleProbe:
    """Tries batches on a module whose trainer is about to train it; its gradients are of no use afterwards.

    Args:
        trainer: Gives the precision.
        module: What is trained.
        loader: Makes micro-batches of rows.
        state_bytes: What the optimizer will take; on a GPU it is kept free.
    """

    def __init__(
        self,
        trainer: lightning.Trainer,
        module: TrainedModule,
        loader: StepLoader,
        state_bytes: int = 0,
    ) -> None:
        self.trainer = trainer
        self.module = module
        self.loader = loader
        self.state_bytes = state_bytes
        self.lengths: list[int] = loader.steps.batches.lengths.tolist()
        self._kept_free: torch.Tensor | None = None
        self._held: int | None = None

    def memory(self, rows: Sequence[int], mini_batch_size: int) -> int | None:
        """Return the bytes that these rows took beside the gradients, None where they weren't there."""
        try:
            if self._held is None:
                self._prepare(rows, mini_batch_size)
            release_memory(self.module.device)
            with peak_memory(self.module.device) as peak:
                self._pass(rows, mini_batch_size)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return None
        return max(peak.bytes - (self._held or 0), 0)

    def speed(self, rows: Sequence[int], mini_batch_size: int) -> float:
        """Return the tokens per second: the median of a few passes."""
        seconds: list[float] = []
        while len(seconds) < _REPETITIONS and sum(seconds) < _SECONDS:
            started = time.perf_counter()
            self._pass(rows, mini_batch_size)
            seconds.append(time.perf_counter() - started)
        return sum(self.lengths[row] for row in rows) / statistics.median(seconds)

    def _prepare(self, rows: Sequence[int], mini_batch_size: int) -> None:
        """Have the gradients and what torch needs once take their memory, so that it isn't counted for the rows."""
        for parameter in self.module.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        if self.module.device.type == "cuda":
            self._kept_free = torch.empty(
                self.state_bytes, dtype=torch.uint8, device=self.module.device
            )
        self._pass(rows, mini_batch_size)
        release_memory(self.module.device)
        self._held = held_memory(self.module.device)

    def _pass(self, rows: Sequence[int], mini_batch_size: int) -> None:
        (micro_batch,) = self.loader.dataset[[list(rows)]].micro_batches
        before, self.module.mini_batch_size = self.module.mini_batch_size, mini_batch_size
        try:
            with self.trainer.precision_plugin.train_step_context():
                self.module.backward_of(micro_batch, 1.0 / micro_batch.weight)
        finally:
            self.module.mini_batch_size = before
        if self.module.device.type == "cuda":
            torch.cuda.synchronize(self.module.device)


def state_bytes(module: TrainedModule, training: TrainingConfig) -> tuple[int, int]:
    """Return the bytes of the gradients, and of the optimizer's state with averaged weights, if any."""
    trained = [each for each in module.parameters() if each.requires_grad]
    gradients = sum(each.numel() * each.element_size() for each in trained)
    averages = 0 if training.averaging.kind == "none" else 4 * sum(each.numel() for each in trained)
    return gradients, int(_STATES[training.optimizer.name] * gradients) + averages


def _over_ranks(found: BatchSizeResult) -> list[int]:
    """Return what all ranks have found, if there are several: how many rows go through the model at once."""
    value = found.mini_batch_size or found.batch_size
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return [value]
    least = torch.tensor(
        value, device="cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    )
    torch.distributed.all_reduce(least, op=torch.distributed.ReduceOp.MIN)
    return [int(least)]
