"""Run one training from start to end: checks, loop, recovery, and the best weights."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import EarlyStopping, RichProgressBar
from pytorch_lightning.utilities.memory import garbage_collection_cuda
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor

from tunetrail.config import TrainingConfig
from tunetrail.learning.devices import device_kind
from tunetrail.learning.preflight.checks import NO_FAMILY_CHECKS, FamilyChecks
from tunetrail.learning.preflight.findings import PreflightReport
from tunetrail.learning.preflight.running import Preflight
from tunetrail.learning.recovery.checkpoints import LastCheckpoint
from tunetrail.learning.recovery.failures import (
    FullMemoryError,
    NonFiniteError,
    RecoverableError,
    Recovery,
    recovery_of,
)
from tunetrail.learning.recovery.guards import AppliedRecovery, NonFiniteGuard
from tunetrail.learning.recovery.signals import StopBetweenSteps
from tunetrail.learning.training.averaging import averaging_callback
from tunetrail.learning.training.callbacks import EndAtStep, MetricsReporter
from tunetrail.learning.training.console import silence_lightning
from tunetrail.learning.training.memory_settings import compile_model, enable_gradient_checkpointing
from tunetrail.learning.training.micro_batches import MicroBatchData
from tunetrail.learning.training.module import TrainedModule
from tunetrail.learning.training.monitor import BestWeights, MonitoredMetric
from tunetrail.learning.training.named_callbacks import (
    CallbackMetrics,
    StopAfterStep,
    build_callbacks,
)
from tunetrail.learning.training.out_of_memory import is_out_of_memory
from tunetrail.learning.training.precision import resolve_precision, tf32_products
from tunetrail.learning.training.sharding import ShardedStrategy, build_strategy, load_whole
from tunetrail.learning.training_plan import TrainingPlan
from tunetrail.plain_values import plain_values

_FEWEST_REPORTS, _MOST_STEPS_PER_REPORT = 20, 10
"""A curve of fewer points shows no course; more steps would hide what happens within them."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class FitResult:
    """What one training did.

    Attributes:
        steps: Optimizer steps taken.
        epochs: Epochs begun.
        seconds: Wall-clock time, that before an interruption included.
        precision: Lightning's name of the precision.
        stopped_early: Whether early stopping ended it.
        best_validation_loss: The validation loss of the weights that are the result; None without
            validation.
        monitor: The metric of the validation that chose them.
        best_value: Its value; None without validation.
        best_step: The optimizer step after which it was measured; None without validation.
        history: The reported (step, value) pairs of each metric.
        auto_values: The values that replaced `auto`, as plain values: `batch_size`,
            `learning_rate`.
        rewinds: How often a good state was restored because a loss or gradient was not finite.
        skipped_rows: Indices of the rows that were left out for that reason.
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
    monitor: str = "val/loss"
    best_value: float | None = None
    best_step: int | None = None

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
    accumulate = training.batches.accumulate
    batches = max(len(data.train_dataloader()) // data.parts, 1)
    steps_per_epoch = -(-batches // accumulate)
    if plan.budget < 1.0:
        training = budgeted(training, steps_per_epoch, plan.budget)
        module.optimization["warmup_steps"] = training.warmup_steps
    has_max_steps = training.max_steps > 0
    module.total_steps = (
        training.max_steps if has_max_steps else training.num_epochs * steps_per_epoch
    )

    if training.memory.gradient_checkpointing:
        enable_gradient_checkpointing(module.model)
    # After checkpointing was enabled: layers that recompute can't be compiled.
    if training.memory.compile:
        compile_model(module.model)

    if plan.validate and not _judges(plan, data):
        logger.warning(
            "validation: a single row can't be compared with others, so val/loss never changes. It "
            "neither chooses the weights nor stops the training, which keeps its last weights. "
            "Raise split.validation_share, or prepare more rows."
        )

    start = starting_weights(module)
    while True:
        attempt = _Attempt(module, data, training, plan, checks, recovery, resume, batches)
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
        attempt.signals.obey()
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


def _judges(plan: TrainingPlan, data: MicroBatchData) -> bool:
    """Tell whether the validation can choose weights and stop the training early."""
    # A metric with a measure of its own is only handed over if the rows can tell models apart.
    return plan.validate and (plan.monitor.measure is not None or data.judges)


def _result(attempt: "_Attempt", steps_per_epoch: int) -> FitResult:
    """Return what a training did whose last attempt has ended."""
    score, recovery = attempt.best.best_model_score, attempt.recovery
    history, monitor = attempt.reporter.history, attempt.best.monitor or "val/loss"
    best_value = best_step = best_loss = None
    if score is not None:
        best_value = float(score)
        # Of equal values, the first with the lowest loss, as `BestWeights` keeps it.
        loss_of_step = dict(history["val/loss"])
        ties = [step for step, value in history[monitor] if value == best_value]
        best_step = min(ties, key=loss_of_step.__getitem__, default=None)
        best_loss = None if best_step is None else loss_of_step[best_step]
    # `stopped_epoch` wouldn't do: it is 0 in the first epoch, too.
    reasons = [stop.stopping_reason_message for stop in attempt.trainer.early_stopping_callbacks]

    return FitResult(
        steps=attempt.trainer.global_step,
        epochs=math.ceil(attempt.trainer.global_step / steps_per_epoch),
        seconds=round(attempt.last.seconds, 3),
        precision=str(attempt.trainer.precision),
        stopped_early=any(reasons),
        best_validation_loss=best_loss,
        monitor=monitor,
        best_value=best_value,
        best_step=best_step,
        history=history,
        rewinds=recovery.rewinds,
        skipped_rows=recovery.skipped_rows,
        preflight=attempt.preflight.report,
    )


class _Attempt:
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
        self.report_interval = report_interval(training, batches)
        self.reporter = MetricsReporter(plan.on_metrics, self.report_interval)
        self.judges = _judges(plan, data)
        self.stopping = EarlyStopping(
            plan.monitor.key,
            mode=plan.monitor.mode,
            # Without patience the callback isn't used: see `_callbacks`.
            patience=max(training.early_stopping_patience, 1),
            check_finite=False,  # the guard takes care of that
            # After each validation instead, so that the decision is part of its checkpoint.
            check_on_train_epoch_end=False,
        )

        checkpoints = plan.folder / "checkpoints"
        self.best = BestWeights(checkpoints, plan.monitor)
        self.last = LastCheckpoint(
            checkpoints,
            every_steps=training.checkpoints.every_steps,
            every_minutes=training.checkpoints.every_minutes,
            resumed=resume,
            recovery=recovery,
        )
        self.signals = StopBetweenSteps(self.last)
        self.trainer = self._build_trainer(plan, batches)

    def run(self) -> None:
        """Train; `RecoverableError` and errors of a full memory end the attempt."""
        # Models are loaded in evaluation mode, and Lightning keeps the mode: there would be no
        # dropout.
        self.module.train()
        with tf32_products(self.precision, self.device):
            self.trainer.fit(
                self.module, datamodule=self.data, ckpt_path=self.resume, weights_only=True
            )

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
        training = self.training
        # Lightning counts the parts of a micro-batch, too.
        parts = self.data.parts
        accumulate = training.batches.accumulate * parts
        steps_per_epoch = -(-batches // training.batches.accumulate)
        max_epochs = training.num_epochs
        if training.max_steps > 0:
            max_epochs = math.ceil(training.max_steps / steps_per_epoch)
            # Below one epoch, the epoch ends with the last step.
            steps_per_epoch = min(training.max_steps, steps_per_epoch)
            batches = min(training.max_steps * training.batches.accumulate, batches)

        strategy = build_strategy(plan.trainer)
        # A whole number of windows, or the Trainer would validate within one.
        validation_steps = max(steps_per_epoch // training.validations_per_epoch, 1)
        is_once = training.validations_per_epoch == 1 or validation_steps == steps_per_epoch
        return Trainer(
            max_epochs=max_epochs,
            accelerator=plan.trainer.accelerator,
            devices=plan.trainer.devices,
            num_nodes=plan.num_nodes,
            strategy=strategy,
            # Gathered weights would be tensors of inference, useless for the next step.
            inference_mode=not isinstance(strategy, ShardedStrategy),
            # The sampler shares the rows out over the ranks itself.
            use_distributed_sampler=False,
            precision=self.precision,  # type: ignore[arg-type]
            accumulate_grad_batches=accumulate,
            gradient_clip_val=training.max_grad_norm or None,
            val_check_interval=1.0 if is_once else validation_steps * accumulate,
            limit_train_batches=batches * parts,
            limit_val_batches=1.0 if plan.validate else 0,
            # The preflight checks take the place of the sanity check.
            num_sanity_val_steps=0,
            # Every epoch, not every few: a resumed training would count the epochs differently.
            reload_dataloaders_every_n_epochs=1 if plan.refresh else 0,
            callbacks=self._callbacks(plan),
            # The reporter passes on the metrics of the training itself.
            logger=CallbackMetrics(plan.on_metrics) if plan.trainer.callbacks else False,
            enable_model_summary=False,
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
            RichProgressBar(leave=True),
        ]

        if self.judges:
            # A named early stopping on the same metric takes the place of the built-in one.
            states = {callback.state_key for callback in callbacks}
            if self.training.early_stopping_patience and self.stopping.state_key not in states:
                callbacks.append(self.stopping)
            callbacks.append(self.best)
        return [*callbacks, self.last, self.signals]


def report_interval(training: TrainingConfig, batches: int) -> int:
    """Return the optimizer steps between two reports of a training with so many batches."""
    if training.logging_steps:
        return training.logging_steps
    steps = training.max_steps
    if steps <= 0:
        steps = training.num_epochs * -(-batches // training.batches.accumulate)
    return min(_MOST_STEPS_PER_REPORT, max(1, steps // _FEWEST_REPORTS))


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


def starting_weights(module: LightningModule) -> Mapping[str, Tensor] | None:
    """Return a copy of the trained weights of adapters.

    None for a whole model, whose starting weights lie in its folder.
    """
    if module.strict_loading:
        return None
    trained = {}
    for name, weight in module.named_parameters():
        if weight.requires_grad:
            trained[name] = weight.detach().clone()
    return trained


def restore_start(module: TrainedModule, start: Mapping[str, Tensor] | None) -> None:
    """Give a module the weights that its training began with.

    Args:
        module: The module.
        start: The result of `starting_weights` at the start.
    """
    if start is not None:
        load_whole(module, start, strict=False)
        return
    with isolate_rng():
        load_whole(module, type(module)(**module.hparams).state_dict())


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
    load_whole(module, state, strict=module.strict_loading)
