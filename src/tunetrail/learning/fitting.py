"""Run one training from start to end: checks, loop, recovery, and the best weights."""

import logging
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pytorch_lightning import seed_everything
from pytorch_lightning.utilities.memory import garbage_collection_cuda

from tunetrail.config import TrainingConfig
from tunetrail.learning.attempt import Attempt, can_judge
from tunetrail.learning.fit_result import FitResult
from tunetrail.learning.out_of_memory import is_out_of_memory
from tunetrail.learning.preflight.checks import NO_FAMILY_CHECKS, FamilyChecks
from tunetrail.learning.recovery.failures import (
    FullMemoryError,
    RecoverableError,
    Recovery,
    recovery_of,
)
from tunetrail.learning.starting_weights import load_weights, restore_start, starting_weights
from tunetrail.learning.step_counts import budgeted, steps_of_epoch, total_steps
from tunetrail.learning.training.console import silence_lightning
from tunetrail.learning.training.memory_settings import compile_model, enable_gradient_checkpointing
from tunetrail.learning.training.micro_batches import MicroBatchData
from tunetrail.learning.training.module import TrainedModule
from tunetrail.learning.training_plan import TrainingPlan

logger = logging.getLogger(__name__)


def fit(
    module: TrainedModule,
    data: MicroBatchData,
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
        plan: Folder, metrics, validation, and where to resume. The last checkpoint is also written
            if the training is stopped.
        seed: Seed of dropout and of every other random draw of the training.
        checks: The checks of the model family before the first step.

    Raises:
        TrainingError: The loss was not finite, or one row doesn't fit into memory.
        ConfigError: A check found a setting with which nothing can be learnt.
        SampleError: A check found rows from which nothing can be learnt.
        SIGTERMException: The process was asked to stop; its state is in the last checkpoint.
        FullMemoryError: With several ranks, the memory of this one is full.
    """
    seed_everything(seed, workers=True, verbose=False)
    silence_lightning()

    module.rows_at_once = data.batch_size
    recovery, resume = _recovery_so_far(plan), plan.resume
    _apply(recovery, module, data)
    # A micro-batch counts as one, into however many parts it is cut.
    batches = max(len(data.train_dataloader()) // data.parts, 1)
    steps_per_epoch = steps_of_epoch(batches, training)
    training = _prepare(module, training, plan, steps_per_epoch)
    _warn_of_blind_validation(plan, data)

    start = starting_weights(module)
    while True:
        attempt = Attempt(module, data, training, plan, checks, recovery, resume, batches)
        try:
            attempt.run()
            break
        except Exception as error:
            failure = _recoverable(error, module, data.parts)
            if failure is None:
                raise
            if attempt.trainer.world_size > 1 and isinstance(failure, FullMemoryError):
                # The other ranks have memory left and don't know: all have to begin again.
                raise failure from None
            # The traceback holds the graph of the step, and through it most of the memory.
            error.__traceback__ = None

        # A signal may have come in the very step that failed.
        attempt.last.stop.obey()
        recovery, resume = attempt.go_on_after(failure)
        recovery = replace(recovery, seconds=attempt.last.seconds)
        # The optimizer's state as well, before the next attempt has one of its own.
        del attempt
        module.trainer = data.trainer = None
        garbage_collection_cuda()

        _apply(recovery, module, data)
        if resume is None:
            restore_start(module, start)

    # The result is the best weights, not the last ones.
    if plan.validate and attempt.best.best_model_path:
        load_weights(module, Path(attempt.best.best_model_path))
    return _result(attempt, steps_per_epoch)


def _prepare(
    module: TrainedModule, training: TrainingConfig, plan: TrainingPlan, steps_per_epoch: int
) -> TrainingConfig:
    """Tell a module how long it is trained and how it saves memory; return the cut training."""
    if plan.budget < 1.0:
        training = budgeted(training, steps_per_epoch, plan.budget)
        module.optimization["warmup_steps"] = training.warmup_steps
    module.total_steps = total_steps(training, steps_per_epoch)

    if training.memory.gradient_checkpointing:
        enable_gradient_checkpointing(module.model)
    # After checkpointing was enabled: layers that recompute can't be compiled.
    if training.memory.compile:
        compile_model(module.model)
    return training


def _warn_of_blind_validation(plan: TrainingPlan, data: MicroBatchData) -> None:
    """Warn if the validation can't tell models apart."""
    if plan.validate and not can_judge(plan, data):
        logger.warning(
            "validation: a single row can't be compared with others, so val/loss never changes. It "
            "neither chooses the weights nor stops the training, which keeps its last weights. "
            "Raise split.validation_share, or prepare more rows."
        )


def _recovery_so_far(plan: TrainingPlan) -> Recovery:
    """Return what earlier attempts have changed, in this process or in another."""
    recovery = Recovery() if plan.resume is None else recovery_of(plan.resume)
    if plan.recovery is None:
        return recovery
    # Of a full memory, the checkpoint doesn't know yet.
    memory = plan.recovery
    return replace(recovery, mini_batch_size=memory.mini_batch_size, parts=memory.parts)


def _apply(recovery: Recovery, module: TrainedModule, data: MicroBatchData) -> None:
    """Have module and data go on as a recovery says."""
    data.parts, data.excluded_rows = recovery.parts, frozenset(recovery.left_out)
    module.mini_batch_size = recovery.mini_batch_size or module.mini_batch_size


def _result(attempt: Attempt, steps_per_epoch: int) -> FitResult:
    """Return what a training did whose last attempt has ended."""
    best, recovery = attempt.best, attempt.recovery
    score = best.best_model_score
    # `stopped_epoch` wouldn't do: it is 0 in the first epoch, too.
    reasons = [stop.stopping_reason_message for stop in attempt.trainer.early_stopping_callbacks]

    return FitResult(
        steps=attempt.trainer.global_step,
        epochs=math.ceil(attempt.trainer.global_step / steps_per_epoch),
        seconds=round(attempt.last.seconds, 3),
        precision=str(attempt.trainer.precision),
        stopped_early=any(reasons),
        best_validation_loss=None if best.best_step is None else best.best_loss,
        monitor=best.monitor or "val/loss",
        best_value=None if score is None else float(score),
        best_step=best.best_step,
        history=attempt.reporter.history,
        rewinds=recovery.rewinds,
        skipped_rows=recovery.skipped_rows,
        preflight=attempt.preflight.report,
    )


def _recoverable(error: Exception, module: TrainedModule, parts: int) -> RecoverableError | None:
    """Return the failure after which the training can go on; None if it can't.

    Args:
        error: What ended the attempt.
        module: The module, as the attempt has left it.
        parts: Number of parts into which the data cuts each micro-batch of the training.
    """
    if isinstance(error, RecoverableError):
        return error

    rows = module.rows_in_progress
    # Before the first batch, smaller ones wouldn't help.
    if not rows or not is_out_of_memory(error):
        return None

    # A validation, which leaves the module in evaluation mode, has whole micro-batches, and every
    # module computes it in mini-batches.
    rows_uncut, at_once = rows, min(module.most_rows or rows, rows)
    if module.training and not module.cuts_itself:
        rows_uncut, at_once = rows * parts, rows

    # Half, rounded up; a single row can't be halved.
    half = 0 if at_once <= 1 else -(-at_once // 2)
    return FullMemoryError(mini_batch_size=half, rows=rows_uncut, cuts_itself=module.cuts_itself)


def optimization_settings(training: TrainingConfig) -> dict[str, Any]:
    """Return the keyword arguments of `configure_optimizer` as plain values.

    A module keeps them in its checkpoints.
    """
    return {
        "learning_rate": float(training.peak_rate),
        "weight_decay": training.weight_decay,
        "warmup_steps": training.warmup_steps,
        "warmup_ratio": training.warmup_ratio,
        "schedule": training.schedule,
        "decay_ratio": training.decay_ratio,
        "optimizer": asdict(training.optimizer),
    }
