"""NonFiniteGuard: a loss or gradient that isn't finite never reaches the weights, and names the rows it comes from."""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from torch import Tensor

from tunetrail.errors import TrainingError
from tunetrail.learning.recovery.diagnosis import Diagnosis, diagnose
from tunetrail.learning.recovery.rewinding import Weights, rewind, starting_weights
from tunetrail.learning.training.callbacks import MetricsSink
from tunetrail.learning.training.module import MicroBatch, StepBatch, TrainedModule
from tunetrail.learning.training.steps import StepLoader

logger = logging.getLogger(__name__)

_STATE = ("rewinds", "incidents", "rate", "skipped_rows", "faulty_rows")


class NonFiniteGuard(lightning.Callback):
    """Leaves out a step whose loss or gradient isn't finite, and brings back a good state if the weights may be lost.

    Where only some rows have no finite loss, the weights are good: their step is left out, and that is all. Otherwise
    weights, optimizer and schedule go back to the last checkpoint that was due, or to the start before there is one,
    and every later learning rate is multiplied by `rate_factor`. A validation loss that isn't finite is treated alike,
    but for rows at fault, which no training can mend.

    Args:
        max_rewinds: How many of these incidents a training may have; rows that are known to be at fault count once.
        rate_factor: Of the learning rate, with each rewind.
        good: Returns the checkpoint to go back to, None before there is one.
        report: Receives `train/rewinds` and `train/skipped_rows`.

    Attributes:
        rewinds: How often a good state was brought back.
        incidents: Losses and gradients that were not finite.
        rate: Factor of the learning rate.
        skipped_rows: Numbers of the rows whose step was left out.
        faulty_rows: Numbers of those that have no finite loss while others have.
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

    def setup(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Have the module ask before each step."""
        if stage == "fit" and isinstance(pl_module, TrainedModule):
            self._start = starting_weights(pl_module)
            pl_module.guard = self

    def teardown(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Let go of the module."""
        if stage == "fit" and isinstance(pl_module, TrainedModule):
            self._start = pl_module.guard = None

    def state_dict(self) -> dict[str, Any]:
        """Return what happened so far, for a checkpoint."""
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint was written."""
        for name in _STATE:
            setattr(self, name, state_dict[name])

    def on_save_checkpoint(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Keep the size of the pieces that fit into memory, which has a say in what dropout draws."""
        checkpoint["piece_rows"] = getattr(pl_module, "mini_batch_size", 0)

    def on_load_checkpoint(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Take the size of the pieces."""
        if isinstance(pl_module, TrainedModule) and "piece_rows" in checkpoint:
            pl_module.mini_batch_size = checkpoint["piece_rows"]

    def allows(
        self, module: TrainedModule, batch: StepBatch, loss: Tensor, gradient_norm: Tensor
    ) -> bool:
        """Tell whether loss and gradient are finite; where not, see to the weights.

        Raises:
            TrainingError: It was once too often.
        """
        if bool(torch.isfinite(loss + gradient_norm)):  # one look at the device, not two
            return True
        lost = not bool(torch.isfinite(loss))
        name, value = (
            ("train/loss", float(loss)) if lost else ("train/gradient_norm", float(gradient_norm))
        )
        loader: Any = module.trainer.train_dataloader
        found = self._examined(module, loader, batch.micro_batches)
        self._count(module, name, value, found)
        self.skipped_rows += loader.numbers_of(batch.rows)
        self._act(module, f"{name} is {value}", found)
        return False

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """See to the weights if the validation's loss isn't finite.

        Raises:
            TrainingError: It was once too often, or it is validation rows that have no finite loss.
        """
        value = float(trainer.callback_metrics.get("val/loss", 0.0))
        loader: Any = trainer.val_dataloaders
        if (
            math.isfinite(value)
            or not isinstance(pl_module, TrainedModule)
            or trainer.sanity_checking
        ):
            return
        micro_batches = [each for step in loader for each in step.micro_batches]
        with trainer.precision_plugin.val_step_context():
            found = self._examined(pl_module, loader, micro_batches)
        if found.rows_at_fault:
            raise TrainingError(
                f"val/loss must be finite, got {value} at step {trainer.global_step}: {found} of the validation rows "
                "have no finite loss, while others have. Look at them, or leave them out."
            )
        self._count(pl_module, "val/loss", value, found)
        self._act(pl_module, f"val/loss is {value}", found)

    def _examined(
        self, module: TrainedModule, loader: Any, micro_batches: Sequence[MicroBatch]
    ) -> Diagnosis:
        module.zero_grad()  # free memory for what follows
        assert isinstance(loader, StepLoader)
        return diagnose(module, loader, micro_batches)

    def _count(self, module: TrainedModule, name: str, value: float, found: Diagnosis) -> None:
        if not found.rows_at_fault or set(found.rows) - set(self.faulty_rows):
            self.incidents += 1
        if found.rows_at_fault:
            self.faulty_rows = sorted({*self.faulty_rows, *found.rows})
        if self.incidents <= self.max_rewinds:
            return
        rates = {group["lr"] for group in module.trainer.optimizers[0].param_groups}
        raise TrainingError(
            f"{name} must be finite, got {value} at step {module.trainer.global_step}. {_advice(found)} It was "
            f"incident {self.incidents}, after {self.rewinds} rewinds, at a learning rate of {max(rates):.2g}; "
            f"training.guards.max_rewinds={self.max_rewinds} allows no more."
        )

    def _act(self, module: TrainedModule, what: str, found: Diagnosis) -> None:
        step = module.trainer.global_step
        where = (
            f" (micro-batch {', '.join(map(str, found.micro_batches))})"
            if found.micro_batches
            else ""
        )
        if found.rows_at_fault:
            logger.warning("%s at step %d%s: %s; the step is left out", what, step, where, found)
        else:
            checkpoint = self.good()
            self.rewinds += 1
            self.rate *= self.rate_factor
            rewind(module, checkpoint, self._start, self.rate)
            logger.warning(
                "%s at step %d%s: %s; back to %s, with %g of the learning rate from now on",
                what,
                step,
                where,
                found,
                "the start" if checkpoint is None else checkpoint,
                self.rate,
            )
        self.report(
            {"train/rewinds": self.rewinds, "train/skipped_rows": len(self.skipped_rows)}, step
        )


def _advice(found: Diagnosis) -> str:
    if found.rows_at_fault:
        return f"Look at {found}, or leave them out: they have no finite loss, while others have."
    lower = "Lower training.learning_rate, or lengthen training.warmup_steps"
    if found.rows:
        return f"{lower}: no row that was scored has a finite loss ({found}), so the weights or all rows are broken."
    return f"{lower}; every row by itself has a finite loss."
