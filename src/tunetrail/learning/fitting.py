"""One training by Lightning's Trainer: precision, clipping, early stopping and checkpoints from a TrainingConfig."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, RichProgressBar

from tunetrail.config import TrainingConfig
from tunetrail.learning.preflight.findings import PreflightReport
from tunetrail.learning.preflight.running import Preflight
from tunetrail.learning.recovery.checkpoints import LastCheckpoint
from tunetrail.learning.recovery.guards import NonFiniteGuard
from tunetrail.learning.recovery.position import position_of
from tunetrail.learning.recovery.signals import StopBetweenSteps
from tunetrail.learning.training.averaging import averaging_callback
from tunetrail.learning.training.callbacks import (
    EndAtStep,
    MetricsReporter,
    MetricsSink,
    StopWithoutProgress,
)
from tunetrail.learning.training.console import silence_lightning
from tunetrail.learning.training.memory_settings import compile_model, enable_gradient_checkpointing
from tunetrail.learning.training.module import TrainedModule
from tunetrail.learning.training.out_of_memory import explaining_full_memory
from tunetrail.learning.training.precision import resolve_precision, scales_gradients


@dataclass(frozen=True, kw_only=True, slots=True)
class FitResult:
    """What one training did.

    Attributes:
        steps: Optimizer steps taken.
        epochs: Epochs begun.
        seconds: Wall-clock time.
        precision: Lightning's name of the precision used.
        stopped_early: Whether early stopping ended it.
        best_validation_loss: The lowest validation loss, whose weights are the result; None without validation.
        history: Per metric the (step, value) pairs reported.
        found: What was found in the place of `auto`, as plain values: `batch_size`, `learning_rate`.
        rewinds: How often a good state was brought back, because loss or gradient were not finite.
        skipped_rows: Numbers of the rows whose step was left out for that reason.
        preflight: What the checks before the training found; None where they were off.
    """

    steps: int
    epochs: int
    seconds: float
    precision: str
    stopped_early: bool
    best_validation_loss: float | None
    history: Mapping[str, Sequence[tuple[int, float]]]
    found: Mapping[str, Any] = field(default_factory=dict)
    rewinds: int = 0
    skipped_rows: Sequence[int] = ()
    preflight: PreflightReport | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; the history's pairs become lists."""
        plain = asdict(replace(self, preflight=None))
        plain["preflight"] = None if self.preflight is None else self.preflight.to_dict()
        plain["history"] = {
            name: [list(pair) for pair in pairs] for name, pairs in self.history.items()
        }
        return plain


def fit(
    module: TrainedModule,
    data: lightning.LightningDataModule,
    training: TrainingConfig,
    *,
    seed: int,
    folder: Path,
    on_metrics: MetricsSink,
    validate: bool = True,
    reload_epochs: int = 0,
    resume: Path | None = None,
    budget: float = 1.0,
) -> FitResult:
    """Train `module` in place; afterwards it holds the weights of the best validation.

    Args:
        module: An EmbeddingModule or LanguageModelModule.
        data: Its batches.
        training: Hyper-parameters; those of the optimizer are the module's own.
        seed: Of dropout and of every other draw in training.
        folder: `checkpoints/best.ckpt` and `last.ckpt` go there; the last is also written when training fails or is
            stopped.
        on_metrics: Receives metrics while training.
        validate: False trains a fixed number of steps without validation, early stopping or checkpoints (a fold).
        reload_epochs: Above 0: `data` is asked for its batches anew in every epoch.
        resume: A checkpoint of the same training, which goes on behind its last finished step.
        budget: Below 1: only this share of the steps, and of the warm-up, is taken (a fold).

    Raises:
        TrainingError: The loss was not finite, or one row doesn't fit into memory.
        ConfigError: The checks before the training found a setting with which nothing can be learnt.
        SampleError: They found rows from which nothing can be learnt.
        SIGTERMException: The process was asked to stop; its state is in the last checkpoint.
    """
    lightning.seed_everything(seed, workers=True, verbose=False)
    silence_lightning()
    reporter = MetricsReporter(on_metrics, training.logging_steps)
    checkpoints = folder / "checkpoints"
    stopping = StopWithoutProgress(
        "val/loss",
        patience=max(training.early_stopping_patience, 1),
        check_finite=False,  # the guard's affair
        check_on_train_epoch_end=False,  # but after each validation: what it decides is in the checkpoint
    )
    best = ModelCheckpoint(
        checkpoints,
        filename="best",
        monitor="val/loss",
        enable_version_counter=False,
        save_on_train_epoch_end=False,
    )
    last = LastCheckpoint(checkpoints, training.checkpoints.every_steps, resume)
    guard = NonFiniteGuard(
        max_rewinds=training.guards.max_rewinds,
        rate_factor=training.guards.rate_factor,
        good=lambda: last.good,
        report=reporter.report,
    )
    checks = Preflight(folder, validate, training)
    keeping = (
        [*([stopping] if training.early_stopping_patience else []), best, last, StopBetweenSteps()]
        if validate
        else []
    )
    batches = max(len(data.train_dataloader()), 1)
    if budget < 1.0:
        training = budgeted(training, batches, budget)
        module.optimization["warmup_steps"] = training.warmup_steps
    precision = resolve_precision(training.precision, training.use_mixed_precision)
    if training.memory.gradient_checkpointing:
        enable_gradient_checkpointing(module.model)
    if training.memory.compile:
        compile_model(module.model)
    steps = training.max_steps if training.max_steps > 0 else training.num_epochs * batches
    module.total_steps = steps
    averaging = averaging_callback(
        training.averaging.kind, training.averaging.decay, training.averaging.start, steps
    )
    trainer = lightning.Trainer(
        max_epochs=training.num_epochs
        if training.max_steps < 0
        else -(-training.max_steps // batches),
        devices=1,
        use_distributed_sampler=False,
        precision=precision,  # type: ignore[arg-type]
        val_check_interval=1.0 / training.validations_per_epoch,
        limit_train_batches=min(training.max_steps, batches) if training.max_steps > 0 else 1.0,
        limit_val_batches=1.0 if validate else 0,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=min(
            reload_epochs, 1
        ),  # `data` counts the epochs: a stop would change them
        callbacks=[
            *([checks] if training.guards.preflight else []),
            # what a failing sink must not keep from its part comes before the reporter
            EndAtStep(training.max_steps),
            *([averaging] if averaging else []),
            reporter,
            guard,
            RichProgressBar(leave=True),
            *keeping,
        ],
        logger=False,
        enable_checkpointing=validate,
        enable_model_summary=False,
        log_every_n_steps=1,
        default_root_dir=folder,
    )
    module.train()  # models are loaded in evaluation mode, and Lightning leaves the mode as it finds it: no dropout
    started = time.monotonic()
    smaller = "Lower training.batch_size or max_length, or set training.memory.gradient_checkpointing=true."
    with explaining_full_memory(smaller):
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    if validate and best.best_model_path:
        load_weights(module, Path(best.best_model_path))
    return FitResult(
        steps=trainer.global_step,
        epochs=-(-position_of(trainer).finished // batches),
        seconds=round(time.monotonic() - started, 3),
        precision=precision,
        stopped_early=stopping.stopping_reason_message
        is not None,  # stopped_epoch is 0 within the first epoch, too
        best_validation_loss=None
        if best.best_model_score is None
        else float(best.best_model_score),
        history=reporter.history,
        rewinds=guard.rewinds,
        skipped_rows=guard.skipped_rows,
        preflight=checks.report,
    )


def optimization_settings(training: TrainingConfig) -> dict[str, Any]:
    """Return the keywords of `configure_optimizer` as plain values: a module keeps them in its checkpoints."""
    names = ("weight_decay", "warmup_steps", "warmup_ratio", "schedule", "decay_ratio")
    return {
        "learning_rate": float(training.peak_rate),
        **{name: getattr(training, name) for name in names},
        "optimizer": asdict(training.optimizer),
        "fused": not scales_gradients(
            resolve_precision(training.precision, training.use_mixed_precision)
        ),
    }


def budgeted(training: TrainingConfig, steps_per_epoch: int, budget: float) -> TrainingConfig:
    """Return the same training with a share of its steps (at least one) and of its warm-up, for a fold."""
    full = training.max_steps if training.max_steps > 0 else training.num_epochs * steps_per_epoch
    steps = max(1, round(full * budget))
    return replace(
        training,
        max_steps=steps,
        warmup_steps=min(round(training.warmup_steps * budget), steps // 2),
    )


def load_weights(module: lightning.LightningModule, checkpoint: Path) -> None:
    """Load a checkpoint's weights into the module; nothing is unpickled."""
    state = torch.load(checkpoint, weights_only=True, map_location="cpu")["state_dict"]
    module.load_state_dict(state, strict=module.strict_loading)
