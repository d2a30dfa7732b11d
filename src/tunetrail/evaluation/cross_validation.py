"""Cross-validation: trains and scores every fold and sums up the scores. Knows not how rows are cut or models learn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from tunetrail.evaluation.scores import Scores

FoldT = TypeVar("FoldT")


@dataclass(frozen=True, kw_only=True)
class CrossValidationResult:
    """The primary metric by fold.

    Attributes:
        metric: Name of the primary metric.
        higher_is_better: Its direction.
        folds: Its value in each fold.
        mean: Mean of the folds.
        standard_deviation: Sample standard deviation of the folds (divisor n - 1); 0 for a single fold.
        fold_metrics: All metrics of each fold.
    """

    metric: str
    higher_is_better: bool
    folds: tuple[float, ...]
    mean: float
    standard_deviation: float
    fold_metrics: tuple[dict[str, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, JSON-serialisable."""
        return {
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            "n_splits": len(self.folds),
            "folds": list(self.folds),
            "mean": self.mean,
            "standard_deviation": self.standard_deviation,
            "fold_metrics": [dict(metrics) for metrics in self.fold_metrics],
        }


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
    scores = [train_and_score(fold) for fold in folds]
    metrics = sorted({score.metric for score in scores})
    if len(metrics) > 1:
        raise ValueError(f"metric must be the same in all folds, got {', '.join(metrics)}.")
    values = [score.value for score in scores]
    return CrossValidationResult(
        metric=scores[0].metric,
        higher_is_better=scores[0].higher_is_better,
        folds=tuple(values),
        mean=float(np.mean(values)),
        standard_deviation=float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
        fold_metrics=tuple(dict(score.metrics) for score in scores),
    )
