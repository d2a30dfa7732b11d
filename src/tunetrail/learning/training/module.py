"""TrainedModule: takes one optimizer step per batch, made of micro-batches; shared by all families.

The whole step is available at once: its weight (rows or tokens) is known before the first gradient,
a checkpoint always lies between two steps, and a step that fails can be repeated.
"""

import hashlib
import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.strategies import ParallelStrategy
from pytorch_lightning.utilities.memory import garbage_collection_cuda
from torch import Tensor

from tunetrail.errors import TrainingError
from tunetrail.learning.training.optimization import configure_optimizer
from tunetrail.learning.training.out_of_memory import is_out_of_memory

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class MicroBatch(Protocol):
    """The rows of one forward and backward pass of gradient accumulation."""

    @property
    def rows(self) -> Sequence[int]:
        """Indices of the rows in the training records."""

    @property
    def weight(self) -> float:
        """Divisor of the summed loss: rows or supervised tokens, each with its own weight."""


class Guard(Protocol):
    """Looks at a step before it changes the weights."""

    def allows(
        self, module: "TrainedModule", batch: "StepBatch", loss: Tensor, gradient_norm: Tensor
    ) -> bool:
        """Tell whether the optimizer may take the step; if not, the weights may be rewound."""


class StepBatch:
    """The micro-batches of one optimizer step.

    Not a collection, so that Lightning hands it on unchanged.
    """

    def __init__(self, micro_batches: Sequence[MicroBatch]) -> None:
        self.micro_batches = tuple(micro_batches)

    @property
    def rows(self) -> list[int]:
        """Indices of all rows of the step."""
        return [row for micro_batch in self.micro_batches for row in micro_batch.rows]


@dataclass(kw_only=True, slots=True)
class StepTotals:
    """Sums over the micro-batches of a step.

    Attributes:
        loss: Summed loss, before the division by the step's weight.
        tokens: Tokens of the rows.
        computed: Tokens that went through the model, padding included.
        flops: Floating-point operations that the tokens need, forward and backward, without
            padding.
    """

    loss: Tensor = field(default_factory=lambda: torch.zeros(()))
    tokens: int = 0
    computed: int = 0
    flops: float = 0.0

    def add(self, further: "StepTotals") -> None:
        """Add the totals of a further micro-batch."""
        # An empty sum lies on the CPU.
        self.loss = self.loss.to(further.loss.device) + further.loss
        self.tokens += further.tokens
        self.computed += further.computed
        self.flops += further.flops


def step_seed(seed: int, *counters: int) -> int:
    """Return a seed for torch's generators: a pure function of the run's seed and of counters."""
    digest = hashlib.blake2b(repr((seed, *counters)).encode(), digest_size=8).digest()
    # torch takes seeds of 63 bits.
    return int.from_bytes(digest, "little") >> 1


class TrainedModule(LightningModule):
    """Takes one optimizer step per batch: gradients, clipping, optimizer, learning rate.

    Every micro-batch draws its random numbers from (seed, step, its index), so that a resumed
    training draws the same.

    Args:
        optimization: Keyword arguments of `configure_optimizer`, as plain values.
        seed: Seed of dropout and noise.
        max_grad_norm: Gradients are scaled down to this norm; 0: off.

    Attributes:
        mini_batch_size: Above 0, a micro-batch goes through the model in mini-batches of this many
            rows.
        total_steps: Optimizer steps of the whole training; 0: the trainer's estimate.
        guard: Asked before each optimizer step whether it may be taken.
    """

    def __init__(self, *, optimization: Mapping[str, Any], seed: int, max_grad_norm: float) -> None:
        super().__init__()
        self.model: Any
        # A batch is one optimizer step, however many micro-batches it has.
        self.automatic_optimization = False
        self.optimization = dict(optimization)
        self.seed = seed
        self.max_grad_norm = max_grad_norm
        self.mini_batch_size = 0
        self.total_steps = 0
        self.guard: Guard | None = None
        self._gradient_norm = torch.zeros(())
        # The sums of the running validation, and the weight that divides them.
        self._measures: dict[str, Any] = {}
        self._measured = 0.0

    @abstractmethod
    def backward_of(self, micro_batch: Any, scale: float) -> StepTotals:
        """Add the gradient of `scale` times the micro-batch's summed loss, in mini-batches."""

    @abstractmethod
    def measures_of(self, micro_batch: Any) -> dict[str, Tensor]:
        """Return the micro-batch's summed `loss` and further summed measures.

        Called without gradients.
        """

    def is_finite(self, micro_batch: Any) -> bool:
        """Tell whether the loss of these rows by themselves is finite; called without gradients."""
        return bool(torch.isfinite(self.measures_of(micro_batch)["loss"]))

    def training_step(self, batch: StepBatch, batch_index: int) -> dict[str, Any]:
        """Take one optimizer step and return its loss, gradient norm and cost."""
        optimizer: Any = self.optimizers()
        weight = self._over_ranks(sum(micro_batch.weight for micro_batch in batch.micro_batches))

        # Data-parallel training averages the gradients over the ranks; the factor undoes it.
        totals = self._accumulate(batch, optimizer, self._world_size / weight)
        loss = self._over_ranks(totals.loss.detach()) / weight

        # Gradients of fp16 are still scaled here: they are clipped in `on_before_optimizer_step`.
        scale = None if self._scaler is None else float(self._scaler.get_scale())
        if scale is None:
            self._clip()

        norm = self._guarded_norm(scale)
        allowed = self.guard is None or self.guard.allows(self, batch, loss, norm)
        taken = allowed and self._take_step(optimizer, scale)

        # Or the gradients would take memory during a validation.
        optimizer.zero_grad()
        return {
            "loss": loss,
            "gradient_norm": self._gradient_norm,
            "tokens": totals.tokens,
            "computed": totals.computed,
            "flops": totals.flops,
            "skipped": not taken,
        }

    def _take_step(self, optimizer: Any, scale: float | None) -> bool:
        """Change the weights and the learning rate.

        Args:
            optimizer: Lightning's optimizer.
            scale: Scale of the gradients; None if they aren't scaled.

        Returns:
            False if fp16's scaler skips the step: then the learning rate stays as well.
        """
        optimizer.step()
        # The scaler lowers its scale when it skips a step.
        if scale is not None and self._scaler.get_scale() < scale:
            return False

        self.lr_schedulers().step()  # type: ignore[union-attr]
        return True

    def rehearse(self, batch: StepBatch) -> None:
        """Compute the gradients of a step and drop them."""
        optimizer: Any = self.optimizers()
        self._accumulate(batch, optimizer, 1.0)
        optimizer.zero_grad()

    def _accumulate(self, batch: StepBatch, optimizer: Any, scale: float) -> StepTotals:
        """Add up the gradients of a step; repeat it in mini-batches when the memory is full."""

        def attempt() -> StepTotals:
            optimizer.zero_grad()
            totals = StepTotals()
            last = len(batch.micro_batches) - 1
            for index, micro_batch in enumerate(batch.micro_batches):
                step = self.trainer.global_step
                torch.manual_seed(step_seed(self.seed, step, index, self.global_rank))
                # The ranks exchange gradients once per step, in the last backward pass.
                with nullcontext() if index == last else self.without_synchronisation():
                    totals.add(self.backward_of(micro_batch, scale))
            return totals

        most_rows = max(len(micro_batch.rows) for micro_batch in batch.micro_batches)
        return self.in_memory(attempt, most_rows)

    def in_memory(self, compute: Callable[[], Result], rows: int) -> Result:
        """Return the result of `compute`; when the memory is full, halve the mini-batch and repeat.

        Args:
            compute: Takes micro-batches through the model in mini-batches.
            rows: Rows of the largest micro-batch.

        Raises:
            TrainingError: A single row doesn't fit into memory.
        """
        size_before = self.mini_batch_size
        while True:
            try:
                result = compute()
                break
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                size = min(self.mini_batch_size or rows, rows)
                if size <= 1:
                    raise TrainingError(
                        "one row alone doesn't fit into memory. Lower max_length, or set "
                        "training.memory.gradient_checkpointing=true."
                    ) from error

            # Only after the except block are the tensors free that the traceback held.
            # Half, rounded up.
            self.mini_batch_size = -(-size // 2)
            self.zero_grad()
            garbage_collection_cuda()

        if self.mini_batch_size != size_before:
            logger.warning(
                "out of memory: batches go through the model in mini-batches of %d rows from now "
                "on; gradients stay the same",
                self.mini_batch_size,
            )
        return result

    def on_validation_epoch_start(self) -> None:
        """Begin the sums of a validation."""
        self._measures, self._measured = {}, 0.0

    def validation_step(self, batch: StepBatch, batch_index: int) -> None:
        """Add up the measures of a batch."""
        for micro_batch in batch.micro_batches:
            self._measured += micro_batch.weight
            measures = self.in_memory(partial(self.measures_of, micro_batch), len(micro_batch.rows))
            for name, value in measures.items():
                self._measures[name] = self._measures.get(name, 0.0) + value

    def on_validation_epoch_end(self) -> None:
        """Log the mean of each measure over rows or tokens, `val/loss` among them."""
        # A validation without rows has no weight.
        weight = max(self._over_ranks(self._measured), 1e-12)
        for name, value in self._measures.items():
            self.log(f"val/{name}", self._over_ranks(value) / weight, prog_bar=name == "loss")

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Clip the gradient of fp16, which is no longer scaled here."""
        if self._scaler is not None:
            self._clip()

    @property
    def _scaler(self) -> Any:
        """The scaler of fp16's gradients; None in other precisions."""
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def _guarded_norm(self, scale: float | None) -> Tensor:
        """Return the gradient's norm as the guard is to see it.

        A scaled gradient that is not finite is normal: the scaler skips the step and lowers its
        scale. Once the scale no longer enlarges the gradient, the scale is not to blame.
        """
        if scale is None:
            return self._gradient_norm
        if scale >= 1.0:
            return torch.zeros_like(self._gradient_norm)

        gradients = [weight.grad for weight in self.parameters() if weight.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def _clip(self) -> None:
        """Measure the gradient's norm, and scale the gradient down to the largest allowed norm."""
        weights = [weight for weight in self.parameters() if weight.grad is not None]
        # An infinite limit measures the norm without clipping.
        limit = self.max_grad_norm or float("inf")
        self._gradient_norm = torch.nn.utils.clip_grad_norm_(weights, limit)

    def without_synchronisation(self) -> AbstractContextManager[Any]:
        """Return a context in which a backward pass doesn't exchange gradients between ranks."""
        strategy = self.trainer.strategy
        if isinstance(strategy, ParallelStrategy):
            return strategy.block_backward_sync()
        return nullcontext()

    def configure_optimizers(self) -> Any:
        """Return the optimizer and the schedule over all steps."""
        # The trainer's estimate is a last resort: for it, the trainer sets up the loader before a
        # checkpoint tells it where to continue.
        steps = self.total_steps or int(self.trainer.estimated_stepping_batches)
        return configure_optimizer(self, **self.optimization, total_steps=steps)

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size

    def _over_ranks(self, value: Any) -> Any:
        """Return the sum over all ranks."""
        if self._world_size == 1:
            return value

        tensor = torch.as_tensor(value, dtype=torch.float32, device=self.device)
        summed = self.trainer.strategy.reduce(tensor, reduce_op="sum")
        return summed if isinstance(value, Tensor) else float(summed)


def mini_batch_slices(rows: int, size: int) -> Iterator[slice]:
    """Yield the slices that cut rows into mini-batches of `size`; 0 means a single one."""
    size = size or rows
    return (slice(start, start + size) for start in range(0, rows, size))
