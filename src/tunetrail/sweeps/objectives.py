"""Objectives: the numbers by which jobs of a sweep are compared, checked before the first job."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tunetrail.config import AUTO, Settings, checked_session_ids
from tunetrail.config.checks import check
from tunetrail.data.rows import records_of, rows_of_shapes
from tunetrail.errors import ConfigError, SampleError, did_you_mean
from tunetrail.evaluation.cross_validation import CrossValidationResult
from tunetrail.evaluation.metrics import is_metric, metric_named
from tunetrail.pipeline import Outcome
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.pipeline.requests import check_sessions, single_family, summaries_of
from tunetrail.pipeline.session_rows import training_frames
from tunetrail.stores.database.manager import DatabaseManager, SessionSummary
from tunetrail.sweeps.sweep_plan import Objective

logger = logging.getLogger(__name__)

CROSS_VALIDATION = "cross_validation"
"""Mean of the folds less one standard error, in the direction of the primary metric."""
LOSS = "val/loss"
"""Validation loss of the weights that the training chose."""

COSTS: Mapping[str, Callable[[Outcome], float]] = {
    "seconds": lambda outcome: float(outcome.steps["training"]["seconds"]),
    "steps": lambda outcome: float(outcome.steps["training"]["steps"]),
    "model_mib": lambda outcome: outcome.validation.model_mib if outcome.validation else math.nan,
}
"""What a job costs: time and optimizer steps of its training, and size of its model on disk."""

# The metrics of MLflow that are costs.
_METRICS_OF_COSTS = {
    "seconds": "training/seconds",
    "steps": "training/steps",
    "model_mib": "validation/model_mib",
}

# Rows by which it is found out before the first job which metrics the session gives.
_SAMPLE = 1_000


def check_objective(
    settings: Settings,
    manager: DatabaseManager,
    session_id: str | Sequence[str],
    model_type: str,
) -> tuple[Objective, ...]:
    """Return the objectives of a sweep with their directions, after a check that jobs make them.

    `auto` is the primary metric of the session's samples, the one that the gate decides by. If the
    validation rows are too few for it, it is the validation loss, which a warning says.

    Args:
        settings: What all jobs have in common.
        manager: The database of the session.
        session_id: The session, or several.
        model_type: The model type of the request.

    Raises:
        ConfigError: An objective is unknown or not made by these settings and samples, or the
            session has samples of several families and none is chosen.
        SessionError: The session can't be trained on.
    """
    session_ids = checked_session_ids(session_id)
    summaries = summaries_of(manager, session_ids)
    family = single_family(summaries, model_type)
    check_sessions(settings, summaries, (family,))
    records = _first_records(settings, manager, session_ids[0], family)
    # Shape and metrics of samples that aren't there are found out by the first job.
    shape = str(records[0]["shape"]) if records else ""
    metrics: Sequence[str] = ()
    if len(records) > 1:
        metrics = family.metric_names(settings, shape, records)

    objectives = []
    for name in settings.sweep.objective_names:
        if name == AUTO:
            validation_rows = _expected_validation_rows(settings, summaries, family)
            validation, corpus = records[:validation_rows], records[validation_rows:]
            name = _primary_metric(family, settings, shape, validation, corpus)
        objectives.append(_checked(name, settings, shape, metrics))
    _warn_of_idle_folds(settings, objectives)
    return tuple(objectives)


def measure(outcome: Outcome, objectives: Sequence[Objective]) -> tuple[float, ...]:
    """Return the values of the objectives of a job that has ended with its fit, in their order.

    Raises:
        SampleError: The validation rows don't give one of them.
    """
    return tuple(_value(outcome, objective) for objective in objectives)


def metric_in_mlflow(objective: Objective) -> str | None:
    """Return the metric of a job's run in MLflow that is an objective; None if none is."""
    name = objective.name
    if name in COSTS:
        return _METRICS_OF_COSTS[name]
    if name == LOSS:
        return LOSS
    return f"validation/{name}" if is_metric(name) else None


def interval_of(outcome: Outcome, objective: Objective) -> tuple[float, float] | None:
    """Return the interval of a job's objective; None if it has none.

    Of the folds it is that of their mean, corrected for the rows that they share.
    """
    if objective.name == CROSS_VALIDATION:
        return _interval_of_folds(outcome.cross_validation)
    if outcome.validation is None or objective.name not in outcome.validation.intervals:
        return None
    lower, upper = outcome.validation.intervals[objective.name]
    return lower, upper


def _first_records(
    settings: Settings, manager: DatabaseManager, session_id: str, family: ModelFamily
) -> list[dict[str, Any]]:
    """Return records of one shape from the first that a training of the session takes."""
    shapes = family.chosen_shapes(settings)
    for frame in training_frames(manager, session_id, family, settings):
        rows = rows_of_shapes(frame, shapes) if shapes else frame
        if len(rows):
            of_shape = rows[rows["shape"] == rows["shape"].iloc[0]]
            # Drawn, since files are often sorted by label.
            return records_of(of_shape.sample(min(len(of_shape), _SAMPLE), random_state=0))
    return []


def _expected_validation_rows(
    settings: Settings, summaries: Sequence[SessionSummary], family: ModelFamily
) -> int:
    rows = 0
    for summary in summaries:
        counts = summary.shapes[family.kind]
        shapes = family.chosen_shapes(settings) or tuple(counts)
        rows += sum(counts.get(shape, 0) for shape in shapes)
    return int(rows * settings.split.validation_share)


def _primary_metric(
    family: ModelFamily,
    settings: Settings,
    shape: str,
    validation: Sequence[dict[str, Any]],
    corpus: Sequence[dict[str, Any]],
) -> str:
    """Return the metric that the gate will decide by, or the loss if there is no room for it.

    Args:
        family: The family.
        settings: What all jobs have in common.
        shape: The shape of the records.
        validation: As many records as the validation side will have.
        corpus: Records among which these are ranked.
    """
    monitors = family.monitors_by_gate(settings, shape, validation, corpus)
    if monitors:
        # More metrics are scored after a training than can be monitored in it.
        chosen = settings.gate.metric
        return monitors[0].metric if chosen == AUTO else chosen

    logger.warning(
        "sweep.objective: jobs are compared by %s, as some %d validation rows can't tell models "
        "apart by the metric of the gate. Raise split.validation_share, or prepare more rows.",
        LOSS,
        len(validation),
    )
    return LOSS


def _checked(name: str, settings: Settings, shape: str, metrics: Sequence[str]) -> Objective:
    """Return an objective with its direction."""
    if name == CROSS_VALIDATION:
        check(
            settings.cross_validation.n_splits > 0,
            "cross_validation.n_splits",
            f"at least 2 with sweep.objective={CROSS_VALIDATION}",
            settings.cross_validation.n_splits,
            "Set cross_validation=kfold, or another objective.",
        )
        # Without names of metrics, the direction of the folds' mean isn't known.
        check(
            len(metrics) > 0,
            "sweep.objective",
            f"{LOSS} or a named metric for models that don't tell their metrics",
            name,
        )
        return Objective(name=name, higher_is_better=metric_named(metrics[0]).higher_is_better)
    if name in (LOSS, *COSTS):
        return Objective(name=name, higher_is_better=False)

    # Of a family that doesn't tell its metrics, any metric may be one.
    if name not in metrics and (metrics or not is_metric(name)):
        known = [AUTO, CROSS_VALIDATION, LOSS, *COSTS, *metrics]
        of_samples = f"a metric of {shape} samples" if shape else "a metric"
        raise ConfigError(
            f"sweep.objective must be one of {', '.join(known)} ({of_samples} on the validation "
            f"rows, or a cost), got {name!r}.{did_you_mean(name, known)}"
        )
    return Objective(name=name, higher_is_better=metric_named(name).higher_is_better)


def _warn_of_idle_folds(settings: Settings, objectives: Sequence[Objective]) -> None:
    """Warn that each job trains folds that no objective asks for."""
    names = [objective.name for objective in objectives]
    if settings.cross_validation.n_splits and CROSS_VALIDATION not in names:
        logger.warning(
            "each job of the sweep trains %d folds as well, which its objective doesn't need: "
            "cross_validation=off takes about half of the time",
            settings.cross_validation.n_splits,
        )


def _value(outcome: Outcome, objective: Objective) -> float:
    name = objective.name
    if name in COSTS:
        return COSTS[name](outcome)

    value = None
    if name == CROSS_VALIDATION:
        value = _cautious_mean(outcome.cross_validation)
    elif name == LOSS:
        value = outcome.objective
    elif outcome.validation is not None:
        value = outcome.validation.metrics.get(name)
    if value is None:
        raise SampleError(
            f"sweep.objective must be measured in each job, got no {name} from the validation "
            "rows. Raise split.validation_share, prepare more rows, or choose another objective."
        )
    return value


def _cautious_mean(folds: CrossValidationResult | None) -> float | None:
    """Return the mean of the folds, one standard error to the worse.

    The standard error is that of the folds' improvements over the base model: what makes a fold
    hard for all models cancels out in them. It is corrected for the rows that folds share.
    """
    if folds is None or folds.gain is None or folds.gain.standard_error is None:
        return None
    error = folds.gain.standard_error
    return folds.mean - error if folds.higher_is_better else folds.mean + error


def _interval_of_folds(folds: CrossValidationResult | None) -> tuple[float, float] | None:
    """Return the corrected interval of the folds' mean; None if there is none."""
    gain = folds.gain if folds is not None else None
    if folds is None or gain is None or gain.mean_lower is None or gain.mean_upper is None:
        return None
    # As wide as that of the mean improvement over the base model, and around the mean itself.
    width = (gain.mean_upper - gain.mean_lower) / 2.0
    return folds.mean - width, folds.mean + width
