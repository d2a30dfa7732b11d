"""Score validation: tells what a fitted model is worth on the validation rows, by every metric.

A sweep compares its jobs by these scores, so that the test rows are asked once, by the winner.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from tunetrail.data.rows import records_of
from tunetrail.evaluation.intervals import metric_intervals
from tunetrail.evaluation.share_intervals import Interval
from tunetrail.paths import size_in_mib
from tunetrail.pipeline.scoring import log_row_counts
from tunetrail.pipeline.stage_context import StageContext
from tunetrail.pipeline.stages.fit import FittedModel
from tunetrail.pipeline.stages.prepare import PreparedRows
from tunetrail.plain_values import plain_values
from tunetrail.reporting.readable import counted

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ValidationScores:
    """The scores of a fitted model on the validation rows, and what the model costs.

    Attributes:
        metric: Name of the primary metric, by which the gate will decide.
        metrics: All metrics of the family by name.
        intervals: The bounds of the metrics that have an interval.
        rows: Number of rows that were scored.
        model_mib: Size of the model on disk, in MiB.
        side_rows: Number of rows of the validation split; None if an older version scored them.
        documents: Number of documents that were ranked; None for metrics without ranking.
    """

    metric: str
    metrics: Mapping[str, float]
    intervals: Mapping[str, Interval]
    rows: int
    model_mib: float
    side_rows: int | None = None
    documents: int | None = None

    @property
    def figures(self) -> dict[str, float]:
        """What MLflow keeps: the metrics with their bounds, and what the model costs."""
        figures = {**self.metrics, "scored_rows": self.rows, "model_mib": self.model_mib}
        counts = {"side_rows": self.side_rows, "documents": self.documents}
        figures |= {name: count for name, count in counts.items() if count is not None}
        for name, interval in self.intervals.items():
            figures |= {f"{name}/lower": interval.lower, f"{name}/upper": interval.upper}
        return figures

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ValidationScores":
        """Return the scores that `to_dict` gave as plain values."""
        names = [field.name for field in fields(cls)]
        known = {name: values[name] for name in names if name in values}
        bounds = known.pop("intervals")
        intervals = {name: Interval(lower, upper) for name, (lower, upper) in bounds.items()}
        return cls(**known, intervals=intervals)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain values."""
        return plain_values(self)


def score_validation(
    context: StageContext, prepared: PreparedRows, fitted: FittedModel
) -> ValidationScores:
    """Score the model on the validation rows and log the scores, unless that is done."""
    state = context.state
    if state.validation_scores is None:
        scores = _score(context, prepared, fitted)
        figures = {f"validation/{name}": value for name, value in scores.figures.items()}
        context.run.log_metrics(figures)
        state.validation_scores = scores.to_dict()
        state.save()
    return ValidationScores.from_dict(state.validation_scores)


def _score(context: StageContext, prepared: PreparedRows, fitted: FittedModel) -> ValidationScores:
    """Score as the evaluation does, with the same metrics and intervals."""
    family, settings, split = context.family, context.settings, prepared.split
    rows = counted(len(split.validation), "validation row")
    logger.info("%s: scoring of %s", context.model_type, rows)
    learner, model = fitted.learner, fitted.model
    rows = family.scorable_rows(settings, learner, [model], split.validation)

    # Among the train side only: not even the texts of test rows are ranked.
    corpus = records_of(context.corpus_rows(split.train))
    config = settings.evaluation
    scores = family.gate_scores(settings, learner, model, records_of(rows), corpus)
    scores = scores.of_side(len(split.validation))
    log_row_counts(f"{context.model_type}, validation", scores)
    intervals = metric_intervals(
        scores,
        bootstrap_samples=config.bootstrap_samples,
        confidence=config.confidence,
        seed=settings.seed,
    )

    return ValidationScores(
        metric=scores.metric,
        metrics=scores.metrics,
        intervals=intervals,
        rows=scores.counts["scored_rows"],
        model_mib=size_in_mib(fitted.folder),
        side_rows=scores.side_rows,
        documents=scores.documents,
    )
