"""TrainedModule: what both Lightning modules share: one batch is one optimizer step, made of micro-batches.

The whole step is in hand at once: its weight (rows or tokens) is known before the first gradient, a checkpoint always
lies between two steps, and a step that fails can be taken again. Knows nothing of texts or models.
"""

import hashlib
import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

import pytorch_lightning as lightning
import torch
from pytorch_lightning.strategies import ParallelStrategy
from pytorch_lightning.utilities.memory import garbage_collection_cuda
from torch import Tensor

from tunetrail.errors import TrainingError
from tunetrail.learning.training.optimization import configure_optimizer
from tunetrail.learning.training.out_of_memory import is_out_of_memory

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class MicroBatch(Protocol):
    """What goes through the model at once."""

    @property
    def rows(self) -> Sequence[int]:
        """Numbers of the rows in the training records."""

    @property
    def weight(self) -> float:
        """What the loss is divided by: rows or supervised tokens, each with its own weight."""


class Guard(Protocol):
    """What looks at a step before it changes the weights."""

    def allows(
        self, module: "TrainedModule", batch: "StepBatch", loss: Tensor, gradient_norm: Tensor
    ) -> bool:
        """Whether the optimizer may take the step; where not, the module's weights may be others: rewound."""


class StepBatch:
    """The micro-batches of one optimizer step; not a collection, so that Lightning hands it on as it is."""

    def __init__(self, micro_batches: Sequence[MicroBatch]) -> None:
        self.micro_batches = tuple(micro_batches)

    @property
    def rows(self) -> list[int]:
        """Numbers of all rows of the step."""
        return [row for micro_batch in self.micro_batches for row in micro_batch.rows]


@dataclass(kw_only=True, slots=True)
class StepTotals:
    """Sums over the micro-batches of a step.

    Attributes:
        loss: Sum of the loss over what it is averaged over.
        tokens: Tokens of the rows.
        computed: Tokens that went through the model, padding included.
        flops: Floating-point operations that the tokens need, forward and backward, without padding.
    """

    loss: Tensor = field(default_factory=lambda: torch.zeros(()))
    tokens: int = 0
    computed: int = 0
    flops: float = 0.0

    def add(self, further: "StepTotals") -> None:
        """Add the totals of a further micro-batch."""
        self.loss = self.loss.to(further.loss.device) + further.loss
        self.tokens += further.tokens
        self.computed += further.computed
        self.flops += further.flops


def step_seed(seed: int, *numbers: int) -> int:
    """Return a seed for torch's generators that is a function of the run's seed and of these numbers alone."""
    digest = hashlib.blake2b(repr((seed, *numbers)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class TrainedModule(lightning.LightningModule):
    """Takes one optimizer step per batch: gradients of its micro-batches, clipping, optimizer, learning rate.

    Every micro-batch draws its random numbers from (seed, step, its number), so that a resumed training draws the same.

    Args:
        optimization: Keywords of `configure_optimizer`, plain values.
        seed: Of dropout and noise.
        max_grad_norm: Gradients are scaled down to this norm; 0: off.

    Attributes:
        mini_batch_size: Above 0: a micro-batch goes through the model in mini-batches of this many rows.
        total_steps: Optimizer steps of the whole training; 0: the trainer's estimate.
        guard: Asked before each optimizer step whether it may be taken.
    """

    def __init__(self, *, optimization: Mapping[str, Any], seed: int, max_grad_norm: float) -> None:
        super().__init__()
        self.model: Any
        self.automatic_optimization = False
        self.optimization = dict(optimization)
        self.seed = seed
        self.max_grad_norm = max_grad_norm
        self.mini_batch_size = 0
        self.total_steps = 0
        self.guard: Guard | None = None
        self._gradient_norm = torch.zeros(())
        self._measures: dict[str, Any] = {}
        self._measured = 0.0

    @abstractmethod
    def backward_of(self, micro_batch: Any, scale: float) -> StepTotals:
        """Add the gradient of `scale` times the micro-batch's summed loss, in mini-batches if set."""

    @abstractmethod
    def measures_of(self, micro_batch: Any) -> dict[str, Tensor]:
        """Return the micro-batch's summed `loss`, and further measures summed likewise; called without gradients."""

    def is_finite(self, micro_batch: Any) -> bool:
        """Tell whether the loss of these rows by themselves is a finite number; called without gradients."""
        return bool(torch.isfinite(self.measures_of(micro_batch)["loss"]))

    def training_step(self, batch: StepBatch, batch_index: int) -> dict[str, Any]:
        """Take one optimizer step and return what it did."""
        optimizer: Any = self.optimizers()
        weight = self._over_ranks(sum(micro_batch.weight for micro_batch in batch.micro_batches))
        work = self._accumulated(batch, optimizer, self._world_size / weight)
        loss = self._over_ranks(work.loss.detach()) / weight
        scale = None if self._scaler is None else float(self._scaler.get_scale())
        if scale is None:
            self._clip()
        allowed = self.guard is None or self.guard.allows(
            self, batch, loss, self._guarded_norm(scale)
        )
        taken = allowed and self._take_step(optimizer, scale)
        optimizer.zero_grad()  # or gradients would take memory over a validation
        return {
            "loss": loss,
            "gradient_norm": self._gradient_norm,
            "tokens": work.tokens,
            "computed": work.computed,
            "flops": work.flops,
            "skipped": not taken,
        }

    def _take_step(self, optimizer: Any, scale: float | None) -> bool:
        """Change the weights and the rate; False where fp16's scaler leaves the step out: then the rate stays as well.

        Args:
            optimizer: Lightning's.
            scale: Of the gradients, None where they aren't scaled.
        """
        optimizer.step()
        if scale is not None and self._scaler.get_scale() < scale:
            return False
        self.lr_schedulers().step()  # type: ignore[union-attr]
        return True

    def rehearse(self, batch: StepBatch) -> None:
        """Compute the gradients of a step and drop them."""
        optimizer: Any = self.optimizers()
        self._accumulated(batch, optimizer, 1.0)
        optimizer.zero_grad()

    def _accumulated(self, batch: StepBatch, optimizer: Any, scale: float) -> StepTotals:
        """Add up the gradients of a step; where memory doesn't suffice, the step is taken again in smaller pieces."""

        def attempt() -> StepTotals:
            optimizer.zero_grad()
            work, last = StepTotals(), len(batch.micro_batches) - 1
            for number, micro_batch in enumerate(batch.micro_batches):
                torch.manual_seed(
                    step_seed(self.seed, self.trainer.global_step, number, self.global_rank)
                )
                with nullcontext() if number == last else self.without_synchronisation():
                    work.add(self.backward_of(micro_batch, scale))
            return work

        return self.in_memory(
            attempt, max(len(micro_batch.rows) for micro_batch in batch.micro_batches)
        )

    def in_memory(self, compute: Callable[[], Result], rows: int) -> Result:
        """Return what `compute` returns; after a lack of memory it is called again with half of the mini-batch.

        Args:
            compute: Takes micro-batches through the model in mini-batches.
            rows: Of the largest micro-batch.

        Raises:
            TrainingError: Not even one row fits.
        """
        before = self.mini_batch_size
        while True:
            try:
                result = compute()
                break
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                pieces = min(self.mini_batch_size or rows, rows)
                if pieces <= 1:
                    raise TrainingError(
                        "one row alone doesn't fit into memory. Lower max_length, or set "
                        "training.memory.gradient_checkpointing=true."
                    ) from error
            # only here are the tensors gone that the error's traceback held
            self.mini_batch_size = -(-pieces // 2)
            self.zero_grad()
            garbage_collection_cuda()
        if self.mini_batch_size != before:
            logger.warning(
                "out of memory: batches go through the model in mini-batches of %d rows from now on; "
                "gradients stay the same",
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
        """Log the mean of each measure, by rows or tokens: `val/loss` among them."""
        weight = self._over_ranks(self._measured)
        for name, value in self._measures.items():
            self.log(
                f"val/{name}", self._over_ranks(value) / max(weight, 1e-12), prog_bar=name == "loss"
            )

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Clip the gradient of fp16, which is only here no longer scaled."""
        if self._scaler is not None:
            self._clip()

    @property
    def _scaler(self) -> Any:
        """What scales the gradients of fp16, None in other precisions."""
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def _guarded_norm(self, scale: float | None) -> Tensor:
        """Return the gradient's norm as the guard is to see it.

        A scaled gradient that isn't finite is ordinary: the scaler leaves the step out, and scales less from then on.
        Once it doesn't enlarge the gradient any more, it isn't the scale that is to blame.
        """
        if scale is None:
            return self._gradient_norm
        if scale >= 1.0:
            return torch.zeros_like(self._gradient_norm)
        return torch.nn.utils.get_total_norm(
            [each.grad for each in self.parameters() if each.grad is not None]
        )

    def _clip(self) -> None:
        """Measure the gradient's norm, and scale the gradient down to the largest that is allowed."""
        parameters = [each for each in self.parameters() if each.grad is not None]
        limit = self.max_grad_norm or float("inf")
        self._gradient_norm = torch.nn.utils.clip_grad_norm_(parameters, limit)

    def without_synchronisation(self) -> AbstractContextManager[Any]:
        """Return a context in which backward leaves the other ranks alone."""
        strategy = self.trainer.strategy
        return (
            strategy.block_backward_sync()
            if isinstance(strategy, ParallelStrategy)
            else nullcontext()
        )

    def configure_optimizers(self) -> Any:
        """Return the optimizer and the schedule over all steps."""
        # asked for its estimate, the trainer sets up the loader before a checkpoint tells it where to go on
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


def mini_batch_slices(count: int, size: int) -> Iterator[slice]:
    """Yield the slices that cut `count` rows into pieces of `size`; one piece where it is 0."""
    size = size or count
    return (slice(start, start + size) for start in range(0, count, size))
