"""Cross-validation: train and score each fold, sum up the scores, and compare with the base model.

A fold trains the recipe for a share of its steps, so its score is neither the candidate's nor the
full recipe's: wherever it is shown, the name says at how many steps.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from tunetrail.evaluation.fold_gain import OutOfFold, PairedGain
from tunetrail.evaluation.metrics import metric_named
from tunetrail.evaluation.scores import Scores
from tunetrail.plain_values import NOT_PLAIN, plain_values

FoldT = TypeVar("FoldT")


@dataclass(frozen=True, kw_only=True)
class CrossValidationResult:
    """The primary metric by fold.

    Fields that have a default are missing in results that older versions wrote.

    Attributes:
        metric: Name of the primary metric.
        folds: Its value in each fold.
        mean: Mean of the folds.
        standard_deviation: Sample standard deviation of the folds (divisor n - 1); 0 for one fold.
        fold_metrics: All metrics of each fold.
        test_ratio: Held-out rows over trained rows, on average; None stands for 1/(n - 1).
        gain: What the trained models gain over the base model; None if it wasn't scored.
        out_of_fold: The scores of every held-out row; None if they aren't kept any more.
    """

    metric: str
    folds: tuple[float, ...]
    mean: float
    standard_deviation: float
    fold_metrics: tuple[dict[str, float], ...]
    test_ratio: float | None = None
    gain: PairedGain | None = None
    out_of_fold: OutOfFold | None = field(default=None, metadata=NOT_PLAIN)

    @property
    def higher_is_better(self) -> bool:
        """The direction of the metric."""
        return metric_named(self.metric).higher_is_better

    @property
    def n_splits(self) -> int:
        """Number of folds."""
        return len(self.folds)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "CrossValidationResult":
        """Return the result that `to_dict` gave as plain values; further keys are ignored."""
        gain = values.get("gain")
        return cls(
            metric=values["metric"],
            folds=tuple(values["folds"]),
            mean=values["mean"],
            standard_deviation=values["standard_deviation"],
            fold_metrics=tuple(values["fold_metrics"]),
            test_ratio=values.get("test_ratio"),
            gain=PairedGain.from_dict(gain) if gain else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, the direction and the number of folds as plain values."""
        return plain_values(self, "higher_is_better", "n_splits")


def cross_validate(
    folds: Sequence[FoldT],
    train_and_score: Callable[[FoldT], Scores],
    *,
    test_ratio: float | None = None,
) -> CrossValidationResult:
    """Train and score each fold, one after the other.

    Args:
        folds: At least one, of whatever type `train_and_score` takes.
        train_and_score: Trains a fresh model on a fold and scores it on the fold's held-out rows.
        test_ratio: Held-out rows over trained rows, on average; None stands for 1/(n - 1).

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
        test_ratio=test_ratio,
    )
