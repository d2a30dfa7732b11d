"""Cross-validation: train and score each fold, and sum up the scores."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from tunetrail.evaluation.metrics import metric_named
from tunetrail.evaluation.scores import Scores
from tunetrail.plain_values import plain_values

FoldT = TypeVar("FoldT")


@dataclass(frozen=True, kw_only=True)
class CrossValidationResult:
    """The primary metric by fold.

    Attributes:
        metric: Name of the primary metric.
        folds: Its value in each fold.
        mean: Mean of the folds.
        standard_deviation: Sample standard deviation of the folds (divisor n - 1); 0 for one fold.
        fold_metrics: All metrics of each fold.
    """

    metric: str
    folds: tuple[float, ...]
    mean: float
    standard_deviation: float
    fold_metrics: tuple[dict[str, float], ...]

    @property
    def higher_is_better(self) -> bool:
        """The direction of the metric."""
        return metric_named(self.metric).higher_is_better

    @property
    def n_splits(self) -> int:
        """Number of folds."""
        return len(self.folds)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, the direction and the number of folds as plain values."""
        return plain_values(self, "higher_is_better", "n_splits")


def cross_validate(
    folds: Sequence[FoldT], train_and_score: Callable[[FoldT], Scores]
) -> CrossValidationResult:
    """Train and score each fold, one after the other.

    Args:
        folds: At least one, of whatever type `train_and_score` takes.
        train_and_score: Trains a fresh model on a fold and scores it on the fold's held-out rows.

    Raises:
        ValueError: There is no fold, or folds were scored by different metrics.
    """
    if not folds:
        raise ValueError("folds must hold at least one fold, got 0.")

    fold_scores = list(map(train_and_score, folds))
    metrics = sorted({scores.metric for scores in fold_scores})
    if len(metrics) > 1:
        raise ValueError(f"metric must be the same in all folds, got {', '.join(metrics)}.")

    # A single fold has no spread; n - 1 would divide by 0.
    values = [scores.value for scores in fold_scores]
    return CrossValidationResult(
        metric=metrics[0],
        folds=tuple(values),
        mean=float(np.mean(values)),
        standard_deviation=float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
        fold_metrics=tuple(dict(scores.metrics) for scores in fold_scores),
    )
