"""Augmentation's effect: whether added rows helped in cross-validation."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunetrail.evaluation.cross_validation import CrossValidationResult
from tunetrail.evaluation.fold_gain import corrected_interval
from tunetrail.evaluation.metrics import metric_named
from tunetrail.plain_values import plain_values

HELPS = "helps"
NO_DIFFERENCE = "makes no measurable difference"
WORSENS = "worsens"


@dataclass(frozen=True, kw_only=True)
class AugmentationEffect:
    """The same folds trained without and with added rows; differences are positive if rows helped.

    Attributes:
        metric: Name of the metric compared.
        without: Its mean over the folds trained without added rows.
        with_augmentation: Its mean over the folds trained with added rows.
        differences: The improvement of each fold.
        mean_difference: Mean of the differences.
        standard_error: Standard error of the mean, corrected for the rows that folds share; None
            for a single fold.
        lower: Lower bound of the mean's interval; minus infinity for a single fold.
        upper: Upper bound.
        confidence: Coverage of the interval.
        verdict: `helps`, `makes no measurable difference` or `worsens`.
    """

    metric: str
    without: float
    with_augmentation: float
    differences: tuple[float, ...]
    mean_difference: float
    standard_error: float | None
    lower: float
    upper: float
    confidence: float
    verdict: str

    @property
    def higher_is_better(self) -> bool:
        """The direction of the metric."""
        return metric_named(self.metric).higher_is_better

    @property
    def sentence(self) -> str:
        """The verdict and its evidence, for people."""
        verdict = f"augmentation {self.verdict}"
        if self.verdict != NO_DIFFERENCE:
            verdict += " the score"

        evidence = "over one fold, which is too few for an interval"
        if math.isfinite(self.lower):
            interval = f"{self.confidence:.0%} interval {self.lower:+.4f} to {self.upper:+.4f}"
            evidence = f"over {len(self.differences)} folds, {interval}"

        advice = ""
        if self.verdict == WORSENS:
            advice = " Turn it off with augmentation=none, or try another method."
        return (
            f"{verdict} in cross-validation: {self.metric} {self.without:.4f} without it, "
            f"{self.with_augmentation:.4f} with it; improvement {self.mean_difference:+.4f} "
            f"{evidence}.{advice}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, the direction and the sentence: an infinite bound is None."""
        return plain_values(self, "higher_is_better", "sentence")


def augmentation_effect(
    without: CrossValidationResult,
    with_augmentation: CrossValidationResult,
    *,
    confidence: float = 0.95,
) -> AugmentationEffect:
    """Compare two cross-validations of the same folds by a paired t interval.

    The interval is `corrected_interval` for the rows that folds share. Augmentation helps if the
    whole interval is above 0 and worsens if it is below; a single fold decides nothing.

    Raises:
        ValueError: The metrics or the numbers of folds differ, or a score is not finite.
    """
    folds = without.n_splits
    if without.metric != with_augmentation.metric:
        raise ValueError(
            f"metric must be the same in both, got {without.metric} and {with_augmentation.metric}."
        )
    if folds != with_augmentation.n_splits:
        raise ValueError(
            f"folds must be the same in both, got {folds} and {with_augmentation.n_splits}."
        )

    sign = 1.0 if without.higher_is_better else -1.0
    differences = sign * (np.array(with_augmentation.folds) - np.array(without.folds))
    if not np.isfinite(differences).all():
        raise ValueError(
            f"scores must be finite, got {without.folds} and {with_augmentation.folds}."
        )

    # Without the rows' counts, as if all folds of one cut were trained.
    test_ratio = without.test_ratio
    if test_ratio is None:
        test_ratio = 1.0 / max(folds - 1, 1)
    interval = corrected_interval(differences.tolist(), test_ratio, confidence)
    lower, upper = interval.lower, interval.upper
    verdict = HELPS if lower > 0.0 else WORSENS if upper < 0.0 else NO_DIFFERENCE
    return AugmentationEffect(
        metric=without.metric,
        without=without.mean,
        with_augmentation=with_augmentation.mean,
        differences=tuple(differences.tolist()),
        mean_difference=interval.mean,
        standard_error=interval.standard_error,
        lower=lower,
        upper=upper,
        confidence=confidence,
        verdict=verdict,
    )
