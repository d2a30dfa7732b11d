"""TrainedModule: what the modules of all families do in a training; the Trainer does the rest.

An ordinary LightningModule under automatic optimisation: the Trainer clips, accumulates and chooses
the precision. A module adds what Lightning leaves open: the exact mean over an accumulation window
and over all ranks, draws that a resumed training repeats, and the norm of the gradient.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from tunetrail.learning.tokens.prompts import QUERY
from tunetrail.learning.training.micro_batches import MicroBatch, SharedBatch
from tunetrail.learning.training.optimization import configure_optimizer
from tunetrail.learning.training.precision import FLOAT16_MIXED
from tunetrail.learning.training.records import NDArray
from tunetrail.learning.training.sharding import is_sharded, whole
from tunetrail.learning.weights import trained_weights


class Guard(Protocol):
    """Looks at the gradient of a step before it changes the weights."""

    def check(self, module: "TrainedModule", loss: Tensor, gradient_norm: Tensor) -> None:
        """Raise an error if the optimizer must not take the step."""


class ComputeCost(NamedTuple):
    """What this rank computed for a micro-batch; a tuple, as Lightning refuses frozen dataclasses.

    Attributes:
        tokens: Tokens of the rows.
        computed: Tokens that went through the model, padding included.
        flops: Floating-point operations that the tokens need, forward and backward, without
            padding.
    """

    tokens: int = 0
    computed: int = 0
    flops: float = 0.0


def step_seed(seed: int, *counters: int) -> int:
    """Return a seed for torch's generators: a pure function of the run's seed and of counters."""
    digest = hashlib.blake2b(repr((seed, *counters)).encode(), digest_size=8).digest()
    # torch takes seeds of 63 bits.
    return int.from_bytes(digest, "little") >> 1


class TrainedModule(LightningModule):
    """Gives the Trainer losses whose gradients add up to that of the whole optimizer step.

    Every micro-batch draws its random numbers from (seed, step, its index, rank), so that a resumed
    training draws the same.

    Args:
        optimization: Keyword arguments of `configure_optimizer`, as plain values.
        seed: Seed of dropout and noise.

    Attributes:
        mini_batch_size: Above 0, a micro-batch goes through the model in mini-batches of this many
            rows.
        total_steps: Optimizer steps of the whole training; 0: the trainer's estimate.
        guard: Asked before each optimizer step whether it may be taken.
        gradient_norm: Norm of the last step's gradient, before clipping.
        window: The micro-batches of the optimizer step so far.
        rows_at_once: Above 0, a validation's batch goes through the model in mini-batches of this
            many rows: it may have more than a training's, for which memory suffices.
        rows_in_progress: Rows of the micro-batch that this rank computes or has computed last.
    """

    cuts_itself = False
    """Whether the module computes mini-batches with one backward pass. Otherwise the data has to be
    cut into smaller micro-batches."""

    def __init__(self, *, optimization: Mapping[str, Any], seed: int) -> None:
        super().__init__()
        self.model: Any
        self.optimization = dict(optimization)
        self.seed = seed
        self.mini_batch_size = self.rows_at_once = 0
        self.total_steps = 0
        self.guard: Guard | None = None
        self.gradient_norm = torch.zeros(())
        self.window: list[MicroBatch] = []
        self._window_loss = torch.zeros(())
        self.rows_in_progress = 0
        self._gradient_scale: float | None = None
        # Of the running validation, so far.
        self._measure_sums: dict[str, Any] = {}
        self._weight_sum = 0.0

    @property
    def most_rows(self) -> int:
        """Rows of a micro-batch that go through the model at once; 0: all of them."""
        return self.mini_batch_size or (0 if self.training else self.rows_at_once)

    @abstractmethod
    def loss_of(self, batch: SharedBatch) -> Tensor:
        """Return a loss whose mean over the ranks is the micro-batch's summed loss.

        The same holds for its gradient: data-parallel training averages both over the ranks.
        """

    @abstractmethod
    def cost_of(self, batch: SharedBatch) -> ComputeCost:
        """Return what the last `loss_of` computed on this rank."""

    @abstractmethod
    def measures_of(self, micro_batch: Any) -> dict[str, Tensor]:
        """Return the micro-batch's summed `loss` and further sums that `metrics_of` takes.

        Called without gradients. A sharded module also gets a micro-batch without rows, if other
        ranks have some.
        """

    def metrics_of(self, sums: Mapping[str, Any], weight: float) -> dict[str, Any]:
        """Return the metrics of a validation: the mean of each sum unless a module knows better.

        Args:
            sums: The sums of `measures_of` over all micro-batches and ranks.
            weight: The sum of the weights of the micro-batches.
        """
        return {name: total / weight for name, total in sums.items()}

    def encode(self, texts: Sequence[str], role: str = QUERY) -> NDArray:
        """Return the unit vectors of texts, by all ranks together: see `Encode`.

        Raises:
            NotImplementedError: Models of this family give no vectors.
        """
        raise NotImplementedError(f"{type(self).__name__} gives no vectors of texts.")

    def is_finite(self, micro_batch: Any) -> bool:
        """Tell whether the loss of these rows by themselves is finite; called without gradients."""
        return bool(torch.isfinite(self.measures_of(micro_batch)["loss"]))

    def on_train_start(self) -> None:
        """Forget a window that a failure has broken off."""
        self._begin_window()
        self._gradient_scale = self._read_scale()

    def training_step(self, batch: SharedBatch, batch_idx: int) -> dict[str, Any]:
        """Return the micro-batch's part of the step's mean loss, for Lightning to accumulate.

        Returns:
            `loss` to go backward from; at the end of a window also `window_loss`, the mean loss of
            the optimizer step over all ranks; `cost`.
        """
        self.rows_in_progress = len(batch.share.rows)
        accumulate = self.trainer.accumulate_grad_batches
        # The index within the window, so that a resumed training draws the same numbers.
        index = batch_idx % accumulate
        torch.manual_seed(step_seed(self.seed, self.trainer.global_step, index, self.global_rank))

        if batch.batch.rows:
            loss = self.loss_of(batch) / batch.window_weight
            cost = self.cost_of(batch)
        else:
            loss, cost = self.zero_loss(), ComputeCost()

        outputs: dict[str, Any] = {"loss": loss * accumulate, "cost": cost}
        self.window.append(batch.batch)
        self._window_loss = self._window_loss + loss.detach()
        if batch.ends_window:
            self._window_loss = self.trainer.strategy.reduce(self._window_loss, reduce_op="mean")
            self.log("train/loss", self._window_loss)
            outputs["window_loss"] = self._window_loss
        # Lightning divides by `accumulate`, in a shorter window as well; the weight has done so.
        return outputs

    def _begin_window(self) -> None:
        # Made on the device: a copy to it would have the CPU wait for the last step.
        self.window, self._window_loss = [], torch.zeros((), device=self.device)

    def zero_loss(self) -> Tensor:
        """Return a loss of 0 that reaches every trained weight, for a share without rows."""
        loss = torch.zeros((), device=self.device)
        for weight in trained_weights(self).values():
            loss = loss + 0.0 * weight.flatten()[0]
        return loss

    def on_train_batch_end(self, outputs: Any, batch: SharedBatch, batch_idx: int) -> None:
        """Begin the next window after an optimizer step."""
        if batch.ends_window:
            self._begin_window()
            # Or they would take memory during the next forward pass, or a validation.
            self.zero_grad()

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the Trainer is configured, and keep the norm that clipping has to compute anyway.

        Lightning's own clipping computes the same norm and drops it.
        """
        weights = [weight for weight in self.parameters() if weight.grad is not None]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        # Of sharded gradients, each rank sees its slices only.
        norm = whole(torch.nn.utils.get_total_norm(gradients))
        self.gradient_norm = norm
        self.log("train/gradient_norm", norm)

        if self.guard is not None and not self._is_overflow():
            self.guard.check(self, self._window_loss, norm)
        if gradient_clip_val and gradient_clip_algorithm != "value":
            torch.nn.utils.clip_grads_with_norm_(weights, float(gradient_clip_val), norm)
        elif gradient_clip_val:
            # Lightning's own refuses fused optimizers, even without a scaler.
            torch.nn.utils.clip_grad_value_(weights, float(gradient_clip_val))

    def _is_overflow(self) -> bool:
        """Tell whether a gradient that isn't finite would be the fault of fp16's scale.

        The scaler then skips the step and lowers its scale. Once the scale no longer enlarges the
        gradient, the scale is not to blame.
        """
        return self._gradient_scale is not None and self._gradient_scale >= 1.0

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Take a step of the schedule, unless fp16's scaler has skipped the optimizer's."""
        before, self._gradient_scale = self._gradient_scale, self._read_scale()
        # The scaler lowers its scale when it skips a step.
        if before is None or self._gradient_scale is None or self._gradient_scale >= before:
            super().lr_scheduler_step(scheduler, metric)

    def _read_scale(self) -> float | None:
        """Return fp16's scale of the gradients, None in other precisions; the CPU waits for it."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return None if scaler is None else float(scaler.get_scale())

    def on_validation_epoch_start(self) -> None:
        """Begin the sums of a validation."""
        self._measure_sums, self._weight_sum = {}, 0.0

    def validation_step(self, batch: SharedBatch, batch_idx: int) -> None:
        """Add up the measures of a batch."""
        if not batch.batch.rows:
            if is_sharded(self):
                # The other ranks need this one's slices of the weights.
                self.measures_of(batch.batch)
            return

        self.rows_in_progress = len(batch.batch.rows)
        self._weight_sum += batch.batch.weight
        for name, value in self.measures_of(batch.batch).items():
            self._measure_sums[name] = self._measure_sums.get(name, 0.0) + value

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the validation, the mean `val/loss` over rows or tokens among them."""
        # A validation without rows has no weight.
        weight = max(self._sum_over_ranks(self._weight_sum), 1e-12)
        # A rank may have had no row, and so no measure; the first rank has a row if any has.
        sums = {}
        for name in self.trainer.strategy.broadcast(list(self._measure_sums)):
            # A new tensor for each measure: it is added up in place.
            nothing = torch.zeros((), device=self.device)
            sums[name] = self._sum_over_ranks(self._measure_sums.get(name, nothing))
        for name, value in self.metrics_of(sums, weight).items():
            # All ranks have the same values; Lightning wants to be told.
            self.log(f"val/{name}", value, prog_bar=name == "loss", sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Return the optimizer and the schedule over all steps."""
        # The trainer's estimate is a last resort: for it, the trainer sets up the loader before a
        # checkpoint tells it where to continue.
        steps = self.total_steps or int(self.trainer.estimated_stepping_batches)
        # A fused kernel unscales the gradients of fp16 itself, and they would be clipped before.
        fused = self.trainer.precision != FLOAT16_MIXED
        settings = {"fused": fused, **self.optimization}
        return configure_optimizer(self, **settings, total_steps=steps)

    def _sum_over_ranks(self, value: Any) -> Any:
        if self.trainer.world_size == 1:
            return value

        tensor = torch.as_tensor(value, dtype=torch.float32, device=self.device)
        summed = self.trainer.strategy.reduce(tensor, reduce_op="sum")
        return summed if isinstance(value, Tensor) else float(summed)
