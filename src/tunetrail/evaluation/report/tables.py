"""The tables of a report: metrics and folds with their intervals, and the groups of the map."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from tunetrail.evaluation.comparison import Comparison, compare
from tunetrail.evaluation.example_rows import (
    CANDIDATE,
    FOLD,
    REFERENCE,
    TEST,
    ExampleRows,
)
from tunetrail.evaluation.metric import Metric
from tunetrail.evaluation.metrics import is_metric, metric_named
from tunetrail.evaluation.report.run_report import ModelReport
from tunetrail.evaluation.scores import Scores

FIXED, BROKEN, RIGHT, WRONG = "fixed", "broken", "right both times", "wrong both times"
"""What became of a row from one model to the other."""

_RESAMPLES, _FEWEST_RESAMPLES = 2_000, 200
# Clusters times resamples from which fewer resamples are drawn: a second for each metric.
_MOST_CELLS = 20_000_000

Bounds = tuple[float | None, float | None]
"""Both bounds of an interval; None if there is none."""


@dataclass(frozen=True, kw_only=True)
class MetricLine:
    """A metric of both models on the test rows.

    Attributes:
        name: The metric's name.
        label: Its name for people.
        higher_is_better: Its direction; None if this version doesn't know the metric.
        before: Its value for the version to beat; None if it wasn't computed.
        after: Its value for the candidate.
        before_bounds: The interval of `before`, if the run has one.
        after_bounds: The interval of `after`.
        improvement: How much better the candidate is; None for an unknown metric.
        improvement_bounds: The interval of the improvement, from the same rows of both models.
    """

    name: str
    label: str
    higher_is_better: bool | None
    before: float | None
    after: float
    before_bounds: Bounds = (None, None)
    after_bounds: Bounds = (None, None)
    improvement: float | None = None
    improvement_bounds: Bounds = (None, None)


@dataclass(frozen=True, kw_only=True)
class FoldLine:
    """The improvement over the base model on the held-out rows of a fold, or of all folds."""

    name: str
    improvement: float
    lower: float | None = None
    upper: float | None = None


def metric_lines(report: ModelReport) -> list[MetricLine]:
    """Return every metric that the run has of the candidate, the primary one first."""
    evaluation, comparison = report.steps.get("evaluation", {}), report.comparison
    candidate, reference = (evaluation.get(name, {}) for name in ("candidate", "reference"))
    after = {comparison.metric: comparison.after, **candidate.get("metrics", {})}
    before = {comparison.metric: comparison.before, **reference.get("metrics", {})}
    answers = evaluation.get("generation", {}).get("metrics", {})
    scores = _test_scores(report.rows)

    lines = []
    for name, value in after.items():
        # A metric of another version or of the user's own may be unknown here.
        metric = metric_named(name) if is_metric(name) else None
        change, change_bounds = _improvement(comparison, scores, name, metric)
        if change is None and metric is not None and name in before:
            change = (value - before[name]) * (1.0 if metric.higher_is_better else -1.0)
        # Runs from before there were intervals of all metrics have these of answers.
        of_answers = answers.get(name, {})
        lines.append(
            MetricLine(
                name=name,
                label=metric.label if metric else name,
                higher_is_better=metric.higher_is_better if metric else None,
                before=before.get(name),
                after=value,
                before_bounds=_bounds(reference, of_answers, "before", name),
                after_bounds=_bounds(candidate, of_answers, "after", name),
                improvement=change,
                improvement_bounds=change_bounds,
            )
        )
    return lines


def metric_table(lines: Sequence[MetricLine]) -> pd.DataFrame:
    """Return the metrics as a table: a line each, with bounds in columns of their own."""
    columns = []
    for line in lines:
        values: dict[str, Any] = {"metric": line.name, "label": line.label}
        for name in ("before", "after", "improvement"):
            lower, upper = getattr(line, f"{name}_bounds")
            values |= {name: getattr(line, name), f"{name}_lower": lower, f"{name}_upper": upper}
        columns.append(values)
    return pd.DataFrame(columns)


def fold_lines(report: ModelReport) -> list[FoldLine]:
    """Return the improvement of each fold with its interval, of all their rows, and of the mean.

    A fold of a run that kept no rows has no interval.
    """
    result = report.cross_validation
    if result is None or result.gain is None:
        return []

    gain = result.gain
    step = report.steps["cross_validation"]
    # Where fewer folds are trained than were cut, they keep their numbers.
    numbers = step.get("fold_numbers") or range(1, len(gain.differences) + 1)
    by_fold = dict(_comparisons_of_folds(report))
    lines = []
    for fold_number, difference in zip(numbers, gain.differences, strict=True):
        comparison = by_fold.get(fold_number)
        lower, upper = (comparison.lower, comparison.upper) if comparison else (None, None)
        lines.append(
            FoldLine(name=f"fold {fold_number}", improvement=difference, lower=lower, upper=upper)
        )

    pooled = gain.comparison
    lines.append(
        FoldLine(
            name="rows of all folds",
            improvement=pooled.improvement,
            lower=pooled.lower,
            upper=pooled.upper,
        )
    )
    # Wider, as it allows for how differently trainings on other rows turn out.
    if gain.mean_lower is not None:
        lines.append(
            FoldLine(
                name="mean of the folds",
                improvement=gain.mean_difference,
                lower=gain.mean_lower,
                upper=gain.mean_upper,
            )
        )
    return lines


def map_groups(report: ModelReport, changes: pd.DataFrame | None) -> tuple[str, pd.Series] | None:
    """Return by what the rows of the map are coloured, and each row's group, by row id.

    That is the label, or else a column of the user's such as `source`, or else what became of the
    row from one model to the other.

    Args:
        report: The model type.
        changes: The table of `row_changes`.
    """
    if report.rows is None or report.embedding_map is None:
        return None
    table = report.rows.table
    rows = table[(table["side"] == TEST) & table["row_id"].notna()].set_index("row_id")
    # `source` first: it is the column that the documentation asks for.
    own_columns = sorted(report.rows.run.own_columns, key=lambda name: name != "source")
    for name in ("label", *own_columns):
        # A column with another value in nearly each row shows nothing.
        if name in rows and 1 < rows[name].nunique() < max(3, len(rows) // 2):
            return name, rows[name].dropna().map(str)

    if changes is None:
        return None
    known = changes.dropna(subset="row_id").set_index("row_id")
    right_before, right_after = known["right_before"], known["right_after"]
    outcomes = np.select(
        [~right_before & right_after, right_before & ~right_after, right_before & right_after],
        [FIXED, BROKEN, RIGHT],
        WRONG,
    )
    return "outcome", pd.Series(outcomes, known.index)


def _bounds(
    scores: Mapping[str, Any], answers: Mapping[str, Any], moment: str, name: str
) -> Bounds:
    """Return the interval that the evaluation has of a metric of one model."""
    interval = scores.get("intervals", {}).get(name) or answers.get(f"{moment}_interval")
    lower, upper = interval or (None, None)
    return lower, upper


def _improvement(
    comparison: Comparison, scores: Sequence[Scores], name: str, metric: Metric | None
) -> tuple[float | None, Bounds]:
    """Return the improvement of a metric with its interval, as far as the rows tell it."""
    if name == comparison.metric:
        return comparison.improvement, (comparison.lower, comparison.upper)
    is_comparable = metric is not None and metric.has_interval
    by_metric = _compared(scores, metric) if scores and metric and is_comparable else None
    if by_metric is None:
        return None, (None, None)
    return by_metric.improvement, (by_metric.lower, by_metric.upper)


def _test_scores(rows: ExampleRows | None) -> list[Scores]:
    """Return the scores of both models on the test rows, the older one first; none without rows."""
    if rows is None or TEST not in set(rows.table["side"]):
        return []
    return [rows.scores(REFERENCE), rows.scores(CANDIDATE)]


def _compared(scores: Sequence[Scores], metric: Metric) -> Comparison | None:
    """Return the comparison of both models by a metric; None if the rows don't hold its values."""
    names = {*metric.reads, *([metric.name] if metric.per_example else [])}
    if any(not names <= set(of_model.per_example) for of_model in scores):
        return None

    # Answers, for example, are written to some of the rows only.
    columns = [of_model.per_example[name] for of_model in scores for name in sorted(names)]
    known = np.flatnonzero(np.isfinite(np.stack(columns).astype(np.float64)).all(axis=0))
    if not len(known):
        return None

    by_metric = []
    for of_model in scores:
        values = {name: of_model.per_example[name] for name in names}
        only = replace(of_model, metric=metric.name, metrics={metric.name: 0.0}, per_example=values)
        # Computed again, from the rows that are known.
        by_metric.append(only.at(known))
    before, after = by_metric
    return _compare(before, after)


def _comparisons_of_folds(report: ModelReport) -> Iterator[tuple[int, Comparison]]:
    """Yield the number of each fold, and both models compared on its held-out rows."""
    if report.rows is None:
        return
    table = report.rows.table
    folds = table.loc[table["side"] == FOLD, "fold"]
    if folds.empty:
        return

    before, after = (report.rows.scores(model, FOLD) for model in (REFERENCE, ""))
    for fold_number in sorted(folds.unique()):
        indices = np.flatnonzero(folds == fold_number)
        yield int(fold_number), _compare(before.at(indices), after.at(indices))


def _compare(before: Scores, after: Scores) -> Comparison:
    clusters = len(set(after.clusters)) if after.clusters is not None else after.examples
    samples = max(_FEWEST_RESAMPLES, min(_RESAMPLES, _MOST_CELLS // clusters))
    return compare(before, after, bootstrap_samples=samples, confidence=0.95, seed=0)
