"""Keep a loss or gradient that is not finite from the weights, and name the rows it comes from."""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from tunetrail.errors import TrainingError
from tunetrail.learning.recovery.diagnosis import Diagnosis, diagnose
from tunetrail.learning.recovery.rewinding import Weights, rewind, starting_weights
from tunetrail.learning.training.callbacks import MetricsSink
from tunetrail.learning.training.module import MicroBatch, StepBatch, TrainedModule
from tunetrail.learning.training.steps import StepLoader

logger = logging.getLogger(__name__)

_STATE = ("rewinds", "incidents", "rate", "skipped_rows", "faulty_rows")


class NonFiniteGuard(Callback):
    """Skips a step whose loss or gradient is not finite, and rewinds if the weights may be broken.

    If only some rows have no finite loss, the weights are good: their step is skipped, and that is
    all. Otherwise weights, optimizer and schedule go back to the last checkpoint that was due (to
    the start before there is one), and every later learning rate is multiplied by `rate_factor`.
    A validation loss that is not finite is treated the same way, except that rows at fault end the
    training: no training can fix them.

    Args:
        max_rewinds: Number of incidents that a training may have; rows that are known to be at
            fault count once.
        rate_factor: Factor of the learning rate at each rewind.
        good: Returns the checkpoint to rewind to, None before there is one.
        report: Receives `train/rewinds` and `train/skipped_rows`.

    Attributes:
        rewinds: Number of rewinds.
        incidents: Number of losses and gradients that were not finite.
        rate: Factor of the learning rate.
        skipped_rows: Indices of the rows whose step was skipped.
        faulty_rows: Indices of the rows that have no finite loss while others have.
    """

    def __init__(
        self,
        *,
        max_rewinds: int,
        rate_factor: float,
        good: Callable[[], Path | None],
        report: MetricsSink,
    ) -> None:
        self.max_rewinds = max_rewinds
        self.rate_factor = rate_factor
        self.good = good
        self.report = report
        self.rewinds = 0
        self.incidents = 0
        self.rate = 1.0
        self.skipped_rows: list[int] = []
        self.faulty_rows: list[int] = []
        self._start: Weights | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have the module ask before each step."""
        if stage == "fit" and isinstance(pl_module, TrainedModule):
            self._start = starting_weights(pl_module)
            pl_module.guard = self

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Release the module and the starting weights."""
        if stage == "fit" and isinstance(pl_module, TrainedModule):
            self._start = pl_module.guard = None

    def state_dict(self) -> dict[str, Any]:
        """Return the incidents so far, for a checkpoint."""
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the incidents from a checkpoint."""
        for name in _STATE:
            setattr(self, name, state_dict[name])

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the size of the mini-batches that fit into memory: dropout's draws depend on it."""
        checkpoint["piece_rows"] = getattr(pl_module, "mini_batch_size", 0)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore the size of the mini-batches."""
        if isinstance(pl_module, TrainedModule) and "piece_rows" in checkpoint:
            pl_module.mini_batch_size = checkpoint["piece_rows"]

    def allows(
        self, module: TrainedModule, batch: StepBatch, loss: Tensor, gradient_norm: Tensor
    ) -> bool:
        """Tell whether loss and gradient are finite; if not, take care of the weights.

        Raises:
            TrainingError: It was one incident too many.
        """
        # The sum needs one synchronisation with the device, not two.
        if bool(torch.isfinite(loss + gradient_norm)):
            return True

        name, value = "train/loss", float(loss)
        if math.isfinite(value):
            name, value = "train/gradient_norm", float(gradient_norm)

        loader: Any = module.trainer.train_dataloader
        diagnosis = _examine(module, loader, batch.micro_batches)
        self._count(module, name, value, diagnosis)
        self.skipped_rows += loader.record_indices(batch.rows)
        self._recover(module, f"{name} is {value}", diagnosis)
        return False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take care of the weights if the validation loss is not finite.

        Raises:
            TrainingError: It was one incident too many, or validation rows are at fault.
        """
        loss = float(trainer.callback_metrics.get("val/loss", 0.0))
        if math.isfinite(loss) or trainer.sanity_checking:
            return
        if not isinstance(pl_module, TrainedModule):
            return

        loader: Any = trainer.val_dataloaders
        micro_batches = [micro_batch for step in loader for micro_batch in step.micro_batches]
        with trainer.precision_plugin.val_step_context():
            diagnosis = _examine(pl_module, loader, micro_batches)

        if diagnosis.rows_at_fault:
            raise TrainingError(
                f"val/loss must be finite, got {loss} at step {trainer.global_step}: {diagnosis} "
                "of the validation rows have no finite loss, while others have. Look at them, or "
                "leave them out."
            )
        self._count(pl_module, "val/loss", loss, diagnosis)
        self._recover(pl_module, f"val/loss is {loss}", diagnosis)

    def _count(self, module: TrainedModule, name: str, value: float, diagnosis: Diagnosis) -> None:
        """Count an incident, and end the training if it was one too many."""
        # Known rows at fault return in every epoch: they count once.
        if not diagnosis.rows_at_fault or set(diagnosis.rows) - set(self.faulty_rows):
            self.incidents += 1
        if diagnosis.rows_at_fault:
            self.faulty_rows = sorted({*self.faulty_rows, *diagnosis.rows})
        if self.incidents <= self.max_rewinds:
            return

        rate = max(group["lr"] for group in module.trainer.optimizers[0].param_groups)
        raise TrainingError(
            f"{name} must be finite, got {value} at step {module.trainer.global_step}. "
            f"{_advice(diagnosis)} It was incident {self.incidents}, after {self.rewinds} rewinds, "
            f"at a learning rate of {rate:.2g}; training.guards.max_rewinds={self.max_rewinds} "
            "allows no more."
        )

    def _recover(self, module: TrainedModule, problem: str, diagnosis: Diagnosis) -> None:
        """Skip the step if rows are at fault, otherwise rewind; report it."""
        step = module.trainer.global_step
        where = f" at step {step}"
        if diagnosis.micro_batches:
            where += f" (micro-batch {', '.join(map(str, diagnosis.micro_batches))})"

        if diagnosis.rows_at_fault:
            logger.warning("%s%s: %s; the step is skipped", problem, where, diagnosis)
        else:
            checkpoint = self.good()
            self.rewinds += 1
            self.rate *= self.rate_factor
            rewind(module, checkpoint, self._start, self.rate)
            logger.warning(
                "%s%s: %s; back to %s, with %g of the learning rate from now on",
                problem,
                where,
                diagnosis,
                checkpoint or "the start",
                self.rate,
            )

        metrics = {"train/rewinds": self.rewinds, "train/skipped_rows": len(self.skipped_rows)}
        self.report(metrics, step)


def _examine(module: TrainedModule, loader: Any, micro_batches: Sequence[MicroBatch]) -> Diagnosis:
    module.zero_grad()  # frees memory for the diagnosis
    assert isinstance(loader, StepLoader)
    return diagnose(module, loader, micro_batches)


def _advice(diagnosis: Diagnosis) -> str:
    if diagnosis.rows_at_fault:
        return (
            f"Look at {diagnosis}, or leave them out: they have no finite loss, while others have."
        )

    lower = "Lower training.learning_rate, or lengthen training.warmup_steps"
    if diagnosis.rows:
        return (
            f"{lower}: no row that was scored has a finite loss ({diagnosis}), "
            "so the weights or all rows are broken."
        )
    return f"{lower}; every row by itself has a finite loss."
