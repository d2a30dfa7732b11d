"""Keep a loss or gradient that is not finite from the weights, and find the rows it comes from."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from tunetrail.learning.recovery.diagnosis import Diagnosis, diagnose
from tunetrail.learning.recovery.failures import NonFiniteError, Recovery
from tunetrail.learning.torch_internals import set_last_rates
from tunetrail.learning.training.callbacks import MetricsSink
from tunetrail.learning.training.micro_batches import MicroBatch, MicroBatchLoader
from tunetrail.learning.training.module import TrainedModule


class NonFiniteGuard(Callback):
    """Ends an attempt before a step whose loss or gradient is not finite changes the weights.

    With several ranks, all of them see the same gradient and the same rows, and end together.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have the module ask before each step."""
        if stage == "fit" and isinstance(pl_module, TrainedModule):
            pl_module.guard = self

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Release the module."""
        if stage == "fit" and isinstance(pl_module, TrainedModule):
            pl_module.guard = None

    def check(self, module: TrainedModule, loss: Tensor, gradient_norm: Tensor) -> None:
        """Check loss and gradient of a step.

        Raises:
            NonFiniteError: One of them is not finite.
        """
        # The sum needs one synchronisation with the device, not two.
        if bool(torch.isfinite(loss + gradient_norm)):
            return

        name, value = "train/loss", float(loss)
        if math.isfinite(value):
            name, value = "train/gradient_norm", float(gradient_norm)
        loader: Any = module.trainer.train_dataloader
        with module.trainer.precision_plugin.train_step_context():
            diagnosis = _examine(module, loader, module.window)
        raise _failure(module, name, value, diagnosis)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the validation loss.

        Raises:
            NonFiniteError: It is not finite.
        """
        loss = float(trainer.callback_metrics.get("val/loss", 0.0))
        if math.isfinite(loss) or trainer.sanity_checking:
            return
        if not isinstance(pl_module, TrainedModule):
            return

        loader: Any = trainer.val_dataloaders
        # Of all ranks, not only of this one: the ranks have to find the same rows at fault.
        micro_batches = list(map(loader.build, loader.batches))
        with trainer.precision_plugin.val_step_context():
            diagnosis = _examine(pl_module, loader, micro_batches)
        raise _failure(pl_module, "val/loss", loss, diagnosis)


class AppliedRecovery(Callback):
    """Trains with the lower learning rate of a recovery, and reports what was changed.

    Args:
        recovery: What the training has changed so far.
        report: Receives `train/rewinds` and `train/skipped_rows`.
    """

    def __init__(self, recovery: Recovery, report: MetricsSink) -> None:
        self.recovery = recovery
        self.report = report

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lower the rate: a checkpoint has brought back the one before the failure."""
        scheduler: Any = trainer.lr_scheduler_configs[0].scheduler
        if self.recovery.rate < 1.0:
            set_rate(trainer.optimizers[0], scheduler, self.recovery.rate)
        if self.recovery.incidents:
            skipped_rows = len(self.recovery.skipped_rows)
            metrics = {"train/rewinds": self.recovery.rewinds, "train/skipped_rows": skipped_rows}
            self.report(metrics, trainer.global_step)


def set_rate(optimizer: torch.optim.Optimizer, scheduler: Any, rate: float) -> None:
    """Multiply the configured learning rates of a schedule by `rate`, now and for later steps."""
    scheduler.base_lrs = [group["initial_lr"] * rate for group in optimizer.param_groups]

    # `LambdaLR` multiplies a base rate by a factor of the step.
    rates = []
    for group, base_rate, factor in zip(
        optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
    ):
        group["lr"] = base_rate * factor(scheduler.last_epoch)
        rates.append(group["lr"])
    set_last_rates(scheduler, rates)


def _examine(
    module: TrainedModule, loader: MicroBatchLoader, micro_batches: Sequence[MicroBatch]
) -> Diagnosis:
    module.zero_grad()  # frees memory for the diagnosis
    return diagnose(module, loader, micro_batches)


def _failure(
    module: TrainedModule, name: str, value: float, diagnosis: Diagnosis
) -> NonFiniteError:
    rate = max(group["lr"] for group in module.trainer.optimizers[0].param_groups)
    step = module.trainer.global_step
    return NonFiniteError(name=name, value=value, step=step, rate=rate, diagnosis=diagnosis)
