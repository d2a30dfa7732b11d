"""One run of Lightning's Trainer: a training, or what of it lies between two failures."""

import math
from pathlib import Path

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import EarlyStopping

from tunetrail.config import TrainingConfig
from tunetrail.learning.devices import device_kind
from tunetrail.learning.lightning_internals import TrainingProgressBar
from tunetrail.learning.named_classes.callbacks import (
    CallbackMetrics,
    StopAfterStep,
    build_callbacks,
)
from tunetrail.learning.preflight.checks import FamilyChecks
from tunetrail.learning.preflight.running import Preflight
from tunetrail.learning.recovery.checkpoints import LastCheckpoint
from tunetrail.learning.recovery.failures import (
    FullMemoryError,
    NonFiniteError,
    RecoverableError,
    Recovery,
    difference_in_state,
    other_version,
)
from tunetrail.learning.recovery.guards import AppliedRecovery, NonFiniteGuard
from tunetrail.learning.step_counts import report_interval, steps_of_epoch
from tunetrail.learning.training.averaging import averaging_callback
from tunetrail.learning.training.callbacks import EndAtStep, MetricsReporter
from tunetrail.learning.training.micro_batches import MicroBatchData
from tunetrail.learning.training.module import TrainedModule
from tunetrail.learning.training.monitor import BestWeights, MonitoredMetric
from tunetrail.learning.training.precision import resolve_precision, tf32_products
from tunetrail.learning.training.sharding import ShardedStrategy
from tunetrail.learning.training.trainer import build_strategy, build_trainer
from tunetrail.learning.training_plan import TrainingPlan
from tunetrail.reporting.progress import console_settings, rich_console_kept


class Attempt:
    """One run of the Trainer: the whole training, or what of it lies between two failures."""

    def __init__(
        self,
        module: TrainedModule,
        data: MicroBatchData,
        training: TrainingConfig,
        plan: TrainingPlan,
        checks: FamilyChecks,
        recovery: Recovery,
        resume: Path | None,
        batches: int,
    ) -> None:
        self.module = module
        self.data = data
        self.training = training
        self.recovery = recovery
        self.resume = resume
        self.device = device_kind(plan.trainer.accelerator)
        self.precision = resolve_precision(
            training.precision, training.use_mixed_precision, self.device
        )

        averaging = training.averaging
        is_reduced = recovery.mini_batch_size > 0
        self.preflight = Preflight(plan, training, checks, is_reduced=is_reduced)
        self.averaging = averaging_callback(
            averaging.kind, averaging.decay, averaging.start, module.total_steps
        )
        self.report_interval = report_interval(training, module.total_steps)
        self.reporter = MetricsReporter(plan.on_metrics, self.report_interval)
        self.judges = can_judge(plan, data)

        checkpoints = plan.folder / "checkpoints"
        self.best = BestWeights(checkpoints, plan.monitor)
        self.last = LastCheckpoint(
            checkpoints,
            every_steps=training.checkpoints.every_steps,
            every_minutes=training.checkpoints.every_minutes,
            resumed=resume,
            recovery=recovery,
        )
        self.trainer = self._build_trainer(plan, batches)

    def run(self) -> None:
        """Train; `RecoverableError` and errors of a full memory end the attempt.

        Raises:
            TrainingError: Another version of tunetrail wrote the checkpoint.
        """
        # Models are loaded in evaluation mode, and Lightning keeps the mode: there would be no
        # dropout.
        self.module.train()
        try:
            with tf32_products(self.precision, self.device), rich_console_kept():
                self.trainer.fit(
                    self.module, datamodule=self.data, ckpt_path=self.resume, weights_only=True
                )
        except (KeyError, RuntimeError) as error:
            differing = difference_in_state(error)
            # The whole checkpoint is loaded before the training begins.
            if self.resume is None or self.last.has_begun or differing is None:
                raise
            raise other_version(self.resume, differing) from error

    def go_on_after(self, failure: RecoverableError) -> tuple[Recovery, Path | None]:
        """Return what the next attempt changes, and the checkpoint that it resumes from.

        Raises:
            TrainingError: There is nothing that it could change.
        """
        if isinstance(failure, FullMemoryError):
            recovery = self.recovery.after_full_memory(failure)
            # The weights are sound: no more than the steps since then has to be repeated.
            return recovery, self.last.newest

        assert isinstance(failure, NonFiniteError)
        recovery = self.recovery.after_non_finite(failure, self.training.guards)
        if recovery.rewinds > self.recovery.rewinds and self.last.is_broken(failure.step):
            self.last.discard()
            return recovery, None
        return recovery, self.last.good

    def _build_trainer(self, plan: TrainingPlan, batches: int) -> Trainer:
        training, steps = self.training, self.module.total_steps
        steps_per_epoch = steps_of_epoch(batches, training)
        max_epochs = math.ceil(steps / steps_per_epoch)
        # Below one epoch, the epoch ends with the last step.
        steps_per_epoch = min(steps, steps_per_epoch)
        batches = min(steps * training.batches.accumulate, batches)

        strategy = build_strategy(plan.trainer)
        # A whole number of windows, or the Trainer would validate within one.
        validation_steps = max(steps_per_epoch // training.validations_per_epoch, 1)
        is_once = training.validations_per_epoch == 1 or validation_steps == steps_per_epoch
        micro_batches_per_step = training.batches.accumulate * self.data.parts
        return build_trainer(
            training,
            self.data,
            self.precision,
            max_epochs=max_epochs,
            accelerator=plan.trainer.accelerator,
            devices=plan.trainer.devices,
            num_nodes=plan.num_nodes,
            strategy=strategy,
            # Gathered weights would be tensors of inference, useless for the next step.
            inference_mode=not isinstance(strategy, ShardedStrategy),
            val_check_interval=1.0 if is_once else validation_steps * micro_batches_per_step,
            limit_train_batches=batches * self.data.parts,
            limit_val_batches=1.0 if plan.validate else 0,
            # The preflight checks take the place of the sanity check.
            num_sanity_val_steps=0,
            # Every epoch, not every few: a resumed training would count the epochs differently.
            reload_dataloaders_every_n_epochs=1 if plan.refresh else 0,
            callbacks=self._callbacks(plan),
            # The reporter passes on the metrics of the training itself.
            logger=CallbackMetrics(plan.on_metrics) if plan.trainer.callbacks else False,
            log_every_n_steps=self.report_interval,
            default_root_dir=plan.folder,
        )

    def _callbacks(self, plan: TrainingPlan) -> list[Callback]:
        """Return the callbacks in the order in which Lightning calls them."""
        callbacks: list[Callback] = []
        if self.training.guards.preflight:
            callbacks.append(self.preflight)
        if plan.trainer.callbacks:
            named = build_callbacks(plan.trainer.callbacks).values()
            for callback in named:
                if self.judges or not isinstance(callback, EarlyStopping):
                    callbacks.append(callback)
            callbacks.append(StopAfterStep())

        # What has to happen even if the metrics sink fails comes before the reporter.
        # The last weights are validated, also if validations don't divide an epoch evenly.
        callbacks.append(EndAtStep(self.module.total_steps))
        if plan.validate and plan.monitor.measure is not None:
            callbacks.append(MonitoredMetric(plan.monitor))
        if self.averaging is not None:
            callbacks.append(self.averaging)
        callbacks += [
            AppliedRecovery(self.recovery, self.reporter.report),
            self.reporter,
            NonFiniteGuard(),
            TrainingProgressBar(plan.time_left, leave=True, console_kwargs=console_settings()),
        ]

        if self.judges:
            stopping = EarlyStopping(
                plan.monitor.key,
                mode=plan.monitor.mode,
                patience=self.training.early_stopping_patience,
                check_finite=False,  # the guard takes care of that
                # After each validation instead, so that the decision is part of its checkpoint.
                check_on_train_epoch_end=False,
            )
            # A named early stopping on the same metric takes the place of the built-in one.
            states = {callback.state_key for callback in callbacks}
            if stopping.patience and stopping.state_key not in states:
                callbacks.append(stopping)
            callbacks.append(self.best)
        return [*callbacks, self.last]


def can_judge(plan: TrainingPlan, data: MicroBatchData) -> bool:
    """Tell whether the validation can choose weights and stop the training early."""
    # A metric with a measure of its own is only handed over if the rows can tell models apart.
    return plan.validate and (plan.monitor.measure is not None or data.judges)
