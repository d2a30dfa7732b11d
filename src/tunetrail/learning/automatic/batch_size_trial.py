"""Try batches on a module: real rows forward and backward, without an optimizer step."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.exceptions import SIGTERMException

from tunetrail.config import TrainingConfig
from tunetrail.learning.automatic.batch_size_finder import (
    USABLE_SHARE,
    BatchSearch,
    BatchSizeResult,
    find_batch_size,
)
from tunetrail.learning.memory_meter import (
    collect_memory,
    free_memory,
    held_memory,
    peak_memory,
    release_memory,
)
from tunetrail.learning.out_of_memory import is_out_of_memory
from tunetrail.learning.training.console import progress_bar
from tunetrail.learning.training.micro_batches import MicroBatchLoader, SharedBatch
from tunetrail.learning.training.module import TrainedModule
from tunetrail.learning.weights import bytes_of, trained_weights

_REPETITIONS = 5
_SECONDS = 2.0
# Values that an optimizer keeps per weight; Adafactor's are sums over rows and columns.
_STATES = {"adamw": 2.0, "adam": 2.0, "sgd": 1.0, "adafactor": 0.1}


@dataclass(kw_only=True, eq=False)
class BatchSizeTrial(Callback):
    """Searches for the batch size at the start of a training, and ends it before its first step.

    Attributes:
        training: The training to come.
        rows: Rows of a step, over all devices.
        in_mini_batches: Whether a step has to stay one batch.
        devices: Number of devices of the training; the search runs on one of them.
        limit_bytes: Memory that may be taken on a device in addition to the model; None for a share
            of what is free.
        result: The batch size; None before the search.
    """

    training: TrainingConfig
    rows: int
    in_mini_batches: bool
    devices: int = 1
    limit_bytes: int | None = None
    result: BatchSizeResult | None = field(default=None, init=False)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search."""
        loader = trainer.train_dataloader
        assert isinstance(pl_module, TrainedModule) and isinstance(loader, MicroBatchLoader)

        collect_memory(pl_module.device)
        gradients, state = state_bytes(pl_module, self.training)
        if self.limit_bytes is None:
            self.limit_bytes = usable_bytes(pl_module, pl_module.device, self.devices)
        if self.devices > 1:
            # DDP collects the gradients that it sends in buffers of the same size.
            gradients *= 2

        probe = ModuleProbe(trainer, pl_module, loader, state)
        search = BatchSearch(
            rows=min(self.rows, len(probe.lengths)),
            in_mini_batches=self.in_mini_batches,
            by_length=loader.batches.by_length,
            fixed_bytes=gradients + state,
            limit_bytes=self.limit_bytes,
            devices=self.devices,
        )

        with progress_bar() as bar:
            task = bar.add_task("Batch size", total=None)

            def show_progress(index: int, count: int) -> None:
                if trainer.received_sigterm:
                    raise SIGTERMException
                bar.update(task, completed=index, total=count)

            self.result = find_batch_size(search, probe, on_candidate=show_progress)
        trainer.should_stop = True


class ModuleProbe:
    """Tries batches on a module whose trainer is about to train it.

    The gradients of the module are of no use afterwards.

    Args:
        trainer: Gives the precision.
        module: The module that is trained.
        loader: Builds micro-batches of rows.
        state_bytes: What the optimizer's state will take; kept free on a GPU.
    """

    def __init__(
        self,
        trainer: Trainer,
        module: TrainedModule,
        loader: MicroBatchLoader,
        state_bytes: int = 0,
    ) -> None:
        self.trainer = trainer
        self.module = module
        self.loader = loader
        self.state_bytes = state_bytes
        self.lengths: list[int] = loader.batches.lengths.tolist()
        self._reserved_for_state: torch.Tensor | None = None
        self._held_before: int | None = None

    def memory(self, rows: Sequence[int], mini_batch_size: int) -> int | None:
        """Return the bytes that rows took in addition to the gradients.

        None if the memory was full.
        """
        try:
            if self._held_before is None:
                self._prepare(rows, mini_batch_size)
            release_memory(self.module.device)
            with peak_memory(self.module.device) as peak:
                self._forward_and_backward(rows, mini_batch_size)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return None
        return max(peak.bytes - (self._held_before or 0), 0)

    def speed(self, rows: Sequence[int], mini_batch_size: int) -> float:
        """Return the tokens per second: the median of a few passes."""
        seconds: list[float] = []
        while len(seconds) < _REPETITIONS and sum(seconds) < _SECONDS:
            started = time.perf_counter()
            self._forward_and_backward(rows, mini_batch_size)
            seconds.append(time.perf_counter() - started)
        # The median ignores a pass that another process slowed down.
        return sum(self.lengths[row] for row in rows) / statistics.median(seconds)

    def _prepare(self, rows: Sequence[int], mini_batch_size: int) -> None:
        """Allocate the gradients and what torch needs once, so that no rows are charged for it."""
        device = self.module.device
        for weight in trained_weights(self.module).values():
            weight.grad = torch.zeros_like(weight)
        if device.type == "cuda":
            self._reserved_for_state = torch.empty(
                self.state_bytes, dtype=torch.uint8, device=device
            )

        self._forward_and_backward(rows, mini_batch_size)
        release_memory(device)
        self._held_before = held_memory(device)

    def _forward_and_backward(self, rows: Sequence[int], mini_batch_size: int) -> None:
        batch = SharedBatch(self.loader.build(list(rows)))

        size_before = self.module.mini_batch_size
        self.module.mini_batch_size = mini_batch_size
        try:
            with self.trainer.precision_plugin.train_step_context():
                loss = self.module.loss_of(batch) / batch.window_weight
            loss.backward()  # type: ignore[no-untyped-call]
        finally:
            self.module.mini_batch_size = size_before

        if self.module.device.type == "cuda":
            # A GPU computes asynchronously: the pass has only ended after this.
            torch.cuda.synchronize(self.module.device)


def state_bytes(module: TrainedModule, training: TrainingConfig) -> tuple[int, int]:
    """Return the bytes of the gradients, and of the optimizer's state and the averaged weights."""
    trained = trained_weights(module).values()
    gradients = bytes_of(trained)

    state = int(_STATES[training.optimizer.name] * gradients)
    if training.averaging.kind != "none":
        state += 4 * sum(weight.numel() for weight in trained)  # float32
    return gradients, state


def usable_bytes(module: TrainedModule, device: torch.device, devices: int) -> int:
    """Return the bytes that a training may take on each of its devices in addition to the model.

    Args:
        module: The module, which is in memory already.
        device: The device on which the search runs; the others have as much memory.
        devices: Number of devices of the training.
    """
    usable = int(USABLE_SHARE * free_memory(device))
    if devices == 1 or device.type != "cpu":
        return usable

    # Ranks on CPUs share one memory, in which each has the model once more.
    return max(usable // devices - bytes_of(module.parameters()), 0)
