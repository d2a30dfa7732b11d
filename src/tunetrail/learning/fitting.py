"""Run one training from start to end: checks, loop, recovery, and the best weights."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import (
    Callback,
    LightningDataModule,
    LightningModule,
    Trainer,
    seed_everything,
)
from pytorch_lightning.callbacks import ModelCheckpoint, RichProgressBar

from tunetrail.config import TrainingConfig
from tunetrail.learning.preflight.checks import NO_FAMILY_CHECKS, FamilyChecks
from tunetrail.learning.preflight.findings import PreflightReport
from tunetrail.learning.preflight.running import Preflight
from tunetrail.learning.recovery.checkpoints import LastCheckpoint
from tunetrail.learning.recovery.guards import NonFiniteGuard
from tunetrail.learning.recovery.position import position_of
from tunetrail.learning.recovery.signals import StopBetweenSteps
from tunetrail.learning.training.averaging import averaging_callback
from tunetrail.learning.training.callbacks import EndAtStep, MetricsReporter, StopWithoutProgress
from tunetrail.learning.training.console import silence_lightning
from tunetrail.learning.training.memory_settings import compile_model, enable_gradient_checkpointing
from tunetrail.learning.training.module import TrainedModule
from tunetrail.learning.training.out_of_memory import explaining_full_memory
from tunetrail.learning.training.precision import resolve_precision, scales_gradients
from tunetrail.learning.training_plan import TrainingPlan
from tunetrail.plain_values import plain_values

_LESS_MEMORY = (
    "Lower training.batch_size or max_length, or set training.memory.gradient_checkpointing=true."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class FitResult:
    """What one training did.

    Attributes:
        steps: Optimizer steps taken.
        epochs: Epochs begun.
        seconds: Wall-clock time.
        precision: Lightning's name of the precision.
        stopped_early: Whether early stopping ended it.
        best_validation_loss: The lowest validation loss, whose weights are the result; None without
            validation.
        history: The reported (step, value) pairs of each metric.
        auto_values: The values that replaced `auto`, as plain values: `batch_size`,
            `learning_rate`.
        rewinds: How often a good state was restored because a loss or gradient was not finite.
        skipped_rows: Indices of the rows whose step was skipped for that reason.
        preflight: What the checks before the training found; None if they were off.
    """

    steps: int
    epochs: int
    seconds: float
    precision: str
    stopped_early: bool
    best_validation_loss: float | None
    history: Mapping[str, Sequence[tuple[int, float]]]
    auto_values: Mapping[str, Any] = field(default_factory=dict)
    rewinds: int = 0
    skipped_rows: Sequence[int] = ()
    preflight: PreflightReport | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        plain = plain_values(self)

        # Stored under the name that the first version gave it.
        plain["found"] = plain.pop("auto_values")
        # An infinite gradient norm is part of the learning curve; plain values would lose it.
        plain["history"] = {name: list(map(list, curve)) for name, curve in self.history.items()}
        return plain


def fit(
    module: TrainedModule,
    data: LightningDataModule,
    training: TrainingConfig,
    plan: TrainingPlan,
    *,
    seed: int,
    checks: FamilyChecks = NO_FAMILY_CHECKS,
) -> FitResult:
    """Train `module` in place; afterwards it holds the weights of the best validation.

    Args:
        module: The module of a model family.
        data: Its batches.
        training: Hyper-parameters; the module already holds its optimizer's.
        plan: Folder, metrics, validation, and where to resume. The last checkpoint is written even
            if the training fails or is stopped.
        seed: Seed of dropout and of every other random draw of the training.
        checks: The checks of the model family before the first step.

    Raises:
        TrainingError: The loss was not finite, or one row doesn't fit into memory.
        ConfigError: A check found a setting with which nothing can be learnt.
        SampleError: A check found rows from which nothing can be learnt.
        SIGTERMException: The process was asked to stop; its state is in the last checkpoint.
    """
    seed_everything(seed, workers=True, verbose=False)
    silence_lightning()
    preflight = Preflight(plan, training, checks)

    # One batch is one optimizer step.
    batches = max(len(data.train_dataloader()), 1)
    if plan.budget < 1.0:
        training = budgeted(training, batches, plan.budget)
        module.optimization["warmup_steps"] = training.warmup_steps
    has_max_steps = training.max_steps > 0
    module.total_steps = training.max_steps if has_max_steps else training.num_epochs * batches

    if training.memory.gradient_checkpointing:
        enable_gradient_checkpointing(module.model)
    # After checkpointing was enabled: layers that recompute can't be compiled.
    if training.memory.compile:
        compile_model(module.model)

    callbacks = _Callbacks(training, plan, preflight, module.total_steps)
    trainer = Trainer(
        max_epochs=math.ceil(training.max_steps / batches)
        if has_max_steps
        else training.num_epochs,
        devices=1,
        # The loader shares the rows out over the ranks itself.
        use_distributed_sampler=False,
        precision=resolve_precision(training.precision, training.use_mixed_precision),  # type: ignore[arg-type]
        val_check_interval=1.0 / training.validations_per_epoch,
        # Below one epoch, the epoch ends with the last step.
        limit_train_batches=min(training.max_steps, batches) if has_max_steps else 1.0,
        limit_val_batches=1.0 if plan.validate else 0,
        # The preflight checks take the place of the sanity check.
        num_sanity_val_steps=0,
        # Every epoch, not every few: a resumed training would count the epochs differently.
        reload_dataloaders_every_n_epochs=1 if plan.refresh else 0,
        callbacks=callbacks.in_order(),
        # The reporter passes the metrics on.
        logger=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        default_root_dir=plan.folder,
    )

    # Models are loaded in evaluation mode, and Lightning keeps the mode: there would be no dropout.
    module.train()
    started = time.monotonic()
    with explaining_full_memory(_LESS_MEMORY):
        trainer.fit(module, datamodule=data, ckpt_path=plan.resume, weights_only=True)

    best, stopping = callbacks.best, callbacks.stopping
    # The result is the best weights, not the last ones.
    if plan.validate and best.best_model_path:
        load_weights(module, Path(best.best_model_path))
    return FitResult(
        steps=trainer.global_step,
        epochs=math.ceil(position_of(trainer).finished / batches),
        seconds=round(time.monotonic() - started, 3),
        precision=str(trainer.precision),
        # `stopped_epoch` wouldn't do: it is 0 in the first epoch, too.
        stopped_early=stopping.stopping_reason_message is not None,
        best_validation_loss=(
            None if best.best_model_score is None else float(best.best_model_score)
        ),
        history=callbacks.reporter.history,
        rewinds=callbacks.guard.rewinds,
        skipped_rows=callbacks.guard.skipped_rows,
        preflight=preflight.report,
    )


class _Callbacks:
    """The callbacks of one training."""

    def __init__(
        self, training: TrainingConfig, plan: TrainingPlan, preflight: Preflight, total_steps: int
    ) -> None:
        self.training = training
        self.validate = plan.validate
        self.preflight = preflight

        averaging, guards = training.averaging, training.guards
        self.averaging = averaging_callback(
            averaging.kind, averaging.decay, averaging.start, total_steps
        )
        self.reporter = MetricsReporter(plan.on_metrics, training.logging_steps)
        self.stopping = StopWithoutProgress(
            "val/loss",
            # Without patience the callback isn't used: see `in_order`.
            patience=max(training.early_stopping_patience, 1),
            check_finite=False,  # the guard takes care of that
            # After each validation instead, so that the decision is part of its checkpoint.
            check_on_train_epoch_end=False,
        )

        checkpoints = plan.folder / "checkpoints"
        self.best = ModelCheckpoint(
            checkpoints,
            filename="best",
            monitor="val/loss",
            enable_version_counter=False,
            save_on_train_epoch_end=False,
        )
        self.last = LastCheckpoint(checkpoints, training.checkpoints.every_steps, plan.resume)
        self.guard = NonFiniteGuard(
            max_rewinds=guards.max_rewinds,
            rate_factor=guards.rate_factor,
            # Asked at the incident: the good checkpoint changes during the training.
            good=lambda: self.last.good,
            report=self.reporter.report,
        )

    def in_order(self) -> list[Callback]:
        """Return the callbacks in the order in which Lightning calls them."""
        callbacks: list[Callback] = []
        if self.training.guards.preflight:
            callbacks.append(self.preflight)

        # What has to happen even if the metrics sink fails comes before the reporter.
        callbacks.append(EndAtStep(self.training.max_steps))
        if self.averaging is not None:
            callbacks.append(self.averaging)
        callbacks += [self.reporter, self.guard, RichProgressBar(leave=True)]

        if self.validate and self.training.early_stopping_patience:
            callbacks.append(self.stopping)
        if self.validate:
            callbacks.append(self.best)
        return [*callbacks, self.last, StopBetweenSteps()]


def optimization_settings(training: TrainingConfig) -> dict[str, Any]:
    """Return the keyword arguments of `configure_optimizer` as plain values.

    A module keeps them in its checkpoints.
    """
    precision = resolve_precision(training.precision, training.use_mixed_precision)
    return {
        "learning_rate": float(training.peak_rate),
        "weight_decay": training.weight_decay,
        "warmup_steps": training.warmup_steps,
        "warmup_ratio": training.warmup_ratio,
        "schedule": training.schedule,
        "decay_ratio": training.decay_ratio,
        "optimizer": asdict(training.optimizer),
        "fused": not scales_gradients(precision),
    }


def budgeted(training: TrainingConfig, steps_per_epoch: int, budget: float) -> TrainingConfig:
    """Return the training of a fold: a share of the steps, at least one, and of the warm-up."""
    all_steps = (
        training.max_steps if training.max_steps > 0 else training.num_epochs * steps_per_epoch
    )
    steps = max(1, round(all_steps * budget))
    # A warm-up longer than half of the steps would never reach the learning rate.
    warmup_steps = min(round(training.warmup_steps * budget), steps // 2)
    return replace(training, max_steps=steps, warmup_steps=warmup_steps)


def load_weights(module: LightningModule, checkpoint: Path) -> None:
    """Load a checkpoint's weights into the module; nothing is unpickled."""
    state = torch.load(checkpoint, weights_only=True, map_location="cpu")["state_dict"]
    module.load_state_dict(state, strict=module.strict_loading)
