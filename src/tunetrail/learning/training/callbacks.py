"""Lightning callbacks of our own: metrics handed out in batches, and a loss that must stay finite."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.utilities.types import STEP_OUTPUT

from tunetrail.errors import TrainingError

MetricsSink = Callable[[Mapping[str, float], int], None]
"""Takes metrics by name and the optimizer step that they belong to."""


class MetricsReporter(lightning.Callback):
    """Hands training loss and learning rate to `sink` every `every` steps, and each validation's loss.

    Attributes:
        history: All that was handed out: per metric the (step, value) pairs.
    """

    def __init__(self, sink: MetricsSink, every: int) -> None:
        self.sink = sink
        self.every = every
        self.history: dict[str, list[tuple[int, float]]] = {}
        self._reported_step = 0
        self._losses: list[float] = []

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Report on the first step, then every `every` steps: the mean loss of the batches since the last report."""
        self._losses.append(float(trainer.callback_metrics["train/loss"]))
        step = trainer.global_step
        if step == self._reported_step or (step > 1 and step % self.every):
            return
        self._reported_step = step
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self._report({"train/loss": sum(self._losses) / len(self._losses), "train/learning_rate": rate}, step)
        self._losses.clear()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Report the validation loss, but for Lightning's sanity check."""
        if not trainer.sanity_checking and "val/loss" in trainer.callback_metrics:
            self._report({"val/loss": float(trainer.callback_metrics["val/loss"])}, trainer.global_step)

    def _report(self, metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            self.history.setdefault(name, []).append((step, value))
        self.sink(metrics, step)


class ValidateAtLastStep(lightning.Callback):
    """Ends a training at its `max_steps` as early stopping would, so that the last weights are validated, too."""

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Ask the trainer to stop: by itself it leaves in the middle of an epoch, and validation waits for its end."""
        if 0 < trainer.max_steps <= trainer.global_step:
            trainer.should_stop = True


class FiniteLoss(lightning.Callback):
    """Stops a training whose loss is no longer a finite number, before the optimizer spreads it into the weights."""

    def on_before_backward(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, loss: torch.Tensor
    ) -> None:
        """Raise `TrainingError` for a loss that is NaN or infinite."""
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"train/loss must be finite, got {value} at step {trainer.global_step}. "
                "Lower training.learning_rate, or lengthen training.warmup_steps."
            )
