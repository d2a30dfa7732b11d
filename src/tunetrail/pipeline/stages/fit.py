"""Fit: the training of the model on the whole train side, as a job in the run's folder."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tunetrail.config import AUTO
from tunetrail.evaluation.plots import learning_curve_figure
from tunetrail.fingerprints import model_fingerprint, weights_fingerprint
from tunetrail.learning.learner import Learner
from tunetrail.learning.training.callbacks import MetricsSink
from tunetrail.learning.training.monitored import Monitor
from tunetrail.pipeline.jobs import (
    LOGS,
    MODEL,
    PREFLIGHT,
    JobRows,
    TrainingJob,
    is_written,
    run_fit_job,
)
from tunetrail.pipeline.run_clock import TRAINING
from tunetrail.pipeline.run_state import FIT
from tunetrail.pipeline.stage_context import StageContext
from tunetrail.pipeline.stages.prepare import PreparedRows
from tunetrail.pipeline.train_rows import TrainRowBuilder
from tunetrail.pipeline.training_start import auto_values, start_of_training
from tunetrail.reporting.charts import png
from tunetrail.reporting.readable import counted

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MonitoredValue:
    """The value of the monitored metric in one validation.

    Attributes:
        metric: Name of the metric as it is logged, such as `val/loss`.
        value: Its value, which is finite.
        higher_is_better: Its direction.
        step: The optimizer step after which it was measured.
    """

    metric: str
    value: float
    higher_is_better: bool
    step: int


ValidationSink = Callable[[MonitoredValue], None]
"""Takes the monitored value of each validation; may raise `Pruned` to end the run."""


def ignore_validation(value: MonitoredValue) -> None:
    """Take a value and forget it."""


@dataclass(frozen=True, kw_only=True)
class FittedModel:
    """The trained model of a run.

    Attributes:
        folder: The model, adapters merged, as the usual libraries load it.
        started_from: `base`, or the URI of the root that the training began with.
        best_validation_loss: The validation loss of these weights, which a metric of the validation
            chose; None without validation.
        learner: Loads the model.
    """

    folder: Path
    started_from: str
    best_validation_loss: float | None
    learner: Learner

    @cached_property
    def model(self) -> Any:
        """The model, loaded at first use."""
        return self.learner.load(str(self.folder))


def fit(
    context: StageContext,
    builder: TrainRowBuilder,
    prepared: PreparedRows,
    on_metrics: MetricsSink,
    on_validation: ValidationSink = ignore_validation,
) -> FittedModel:
    """Train the model unless that is done; resume an interrupted training from its checkpoint.

    Args:
        context: The run.
        builder: Tells whether negatives are mined again.
        prepared: The rows.
        on_metrics: Receives the metrics of the training, after the run has logged them.
        on_validation: Receives the monitored value of each validation after that.
    """
    state = context.state
    if "training" not in state.steps:
        _train(context, builder, prepared, on_metrics, on_validation)

    context.clock.finish(TRAINING)
    step = state.steps["training"]
    return FittedModel(
        folder=state.folder / FIT / MODEL,
        started_from=step["started_from"],
        best_validation_loss=step["best_validation_loss"],
        learner=context.learner(prepared.shape),
    )


def _train(
    context: StageContext,
    builder: TrainRowBuilder,
    prepared: PreparedRows,
    on_metrics: MetricsSink,
    on_validation: ValidationSink,
) -> None:
    """Run the job, and finish the step."""
    run, folder, split = context.run, context.state.folder / FIT, prepared.split
    monitor = context.family.monitor_of(context.settings, split.train, split.validation)
    started_from, start = start_of_training(context, prepared.shape)
    # A job that is there stays as it is: its training may have begun.
    if not is_written(folder):
        _say_what_is_monitored(context, monitor, len(split.validation))
        _write_job(context, builder, prepared, start, folder)

    def report(metrics: Any, step: int) -> None:
        # Logged first, since the others may end the run by raising `Pruned`.
        run.log_metrics(metrics, step)
        on_metrics(metrics, step)
        value = metrics.get(monitor.key, math.nan)
        if math.isfinite(value):
            on_validation(
                MonitoredValue(
                    metric=monitor.key,
                    value=value,
                    higher_is_better=monitor.higher_is_better,
                    step=step,
                )
            )

    row_count = len(prepared.train)
    if prepared.additional is not None:
        row_count += len(prepared.additional)
    rows = counted(row_count, "row")
    logger.info("%s: training from %s on %s", context.model_type, started_from, rows)
    clock = context.clock
    measurements = run_fit_job(folder, clock.following(report, TRAINING), clock.in_words)

    for name in (PREFLIGHT, LOGS):
        if (folder / name).exists():
            run.log_artifact(folder / name)
    title = f"{context.model_type}: learning curves"
    run.log_picture(
        png(learning_curve_figure(measurements["history"], title)), "learning_curves.png"
    )
    step = {
        **measurements,
        "started_from": started_from,
        "base_model": context.base.canonical_name,
        "rows": row_count,
        # By these, `tunetrail repro` tells whether it began and ended with the same weights.
        "start_digest": model_fingerprint(Path(start)),
        "weights_digest": weights_fingerprint(folder / MODEL),
    }
    if context.state.replayed is not None:
        step["replayed"] = dict(context.state.replayed)
    costs = {"seconds": measurements["seconds"], "steps": measurements["steps"]}
    context.finish_step("training", step, costs)


def _write_job(
    context: StageContext,
    builder: TrainRowBuilder,
    prepared: PreparedRows,
    start: str,
    folder: Path,
) -> None:
    """Write everything that the training needs into a folder."""
    split = prepared.split
    before_mining = prepared.augmented if builder.are_mined_again(prepared.augmented) else None
    corpus = context.family.validation_corpus(context.settings, split.train, split.validation)

    JobRows(
        train=prepared.train,
        validation=split.validation,
        additional=prepared.additional,
        before_mining=before_mining,
        corpus=corpus,
    ).write(folder)
    TrainingJob(
        model_type=context.model_type,
        shape=prepared.shape,
        settings=context.settings,
        start=start,
        auto_values=auto_values(context, prepared),
    ).write(folder)


def _say_what_is_monitored(context: StageContext, monitor: Monitor, rows: int) -> None:
    is_automatic = context.config.training.monitor == AUTO
    if monitor.metric == "loss" and is_automatic and context.family.monitors:
        logger.warning(
            "%s: %d validation rows are too few for the metric by which models are compared, so "
            "val/loss chooses the weights. Raise split.validation_share, or prepare more rows.",
            context.model_type,
            rows,
        )
        return
    counted_rows = counted(rows, "row")
    logger.info("%s: %s of %s chooses the weights", context.model_type, monitor.key, counted_rows)
