"""Augmentation's effect: whether added rows helped in cross-validation. Knows not what was added, or how."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t

from tunetrail.evaluation.cross_validation import CrossValidationResult

HELPS = "helps"
NO_DIFFERENCE = "makes no measurable difference"
WORSENS = "worsens"


@dataclass(frozen=True, kw_only=True)
class AugmentationEffect:
    """The same folds trained without and with added rows; differences are positive where these helped.

    Attributes:
        metric: The metric compared.
        higher_is_better: Its direction.
        without: Its mean over the folds trained without added rows.
        with_augmentation: Its mean over the folds trained with them.
        differences: The improvement of each fold.
        mean_difference: Their mean.
        standard_error: Of the mean, corrected for the rows that folds share; None for a single fold.
        lower: Lower bound of the mean's interval; minus infinity for a single fold.
        upper: Upper bound.
        confidence: Coverage of the interval.
        verdict: `helps`, `makes no measurable difference` or `worsens`.
    """

    metric: str
    higher_is_better: bool
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
    def sentence(self) -> str:
        """What people read."""
        if self.verdict == NO_DIFFERENCE:
            said = "augmentation makes no measurable difference in cross-validation"
        else:
            said = f"augmentation {self.verdict} the score in cross-validation"
        evidence = "over one fold, which is too few for an interval"
        if math.isfinite(self.lower):
            interval = f"{self.confidence:.0%} interval {self.lower:+.4f} to {self.upper:+.4f}"
            evidence = f"over {len(self.differences)} folds, {interval}"
        advice = (
            " Turn it off with augmentation=none, or try another method."
            if self.verdict == WORSENS
            else ""
        )
        return (
            f"{said}: {self.metric} {self.without:.4f} without it, {self.with_augmentation:.4f} with it; improvement "
            f"{self.mean_difference:+.4f} {evidence}.{advice}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all fields and the sentence, JSON-serialisable: an infinite bound is None."""
        bounded = math.isfinite(self.lower)
        return {
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            "without": self.without,
            "with_augmentation": self.with_augmentation,
            "differences": list(self.differences),
            "mean_difference": self.mean_difference,
            "standard_error": self.standard_error,
            "lower": self.lower if bounded else None,
            "upper": self.upper if bounded else None,
            "confidence": self.confidence,
            "verdict": self.verdict,
            "sentence": self.sentence,
        }


def augmentation_effect(
    without: CrossValidationResult,
    with_augmentation: CrossValidationResult,
    *,
    confidence: float = 0.95,
) -> AugmentationEffect:
    """Compare two cross-validations of the same folds by a paired t interval.

    The folds' trainings share most of their rows, so that the plain standard error of the mean difference is too small:
    its square, s^2 / n, becomes s^2 (1/n + 1/(n - 1)), the second term being the rows tested over the rows trained on
    (Nadeau and Bengio, "Inference for the Generalization Error", 2003). Augmentation helps where the whole interval is
    above 0 and worsens where it is below; a single fold decides nothing.

    Raises:
        ValueError: The metrics or the numbers of folds differ, or a score is not finite.
    """
    if without.metric != with_augmentation.metric:
        raise ValueError(
            f"metric must be the same in both, got {without.metric} and {with_augmentation.metric}."
        )
    folds = len(without.folds)
    if folds != len(with_augmentation.folds):
        raise ValueError(
            f"folds must be the same in both, got {folds} and {len(with_augmentation.folds)}."
        )
    sign = 1.0 if without.higher_is_better else -1.0
    differences = sign * (np.array(with_augmentation.folds) - np.array(without.folds))
    if not np.isfinite(differences).all():
        raise ValueError(f"scores must be finite, got the differences {differences.tolist()}.")
    mean, error, margin = float(differences.mean()), None, math.inf
    if folds > 1:
        error = float(differences.std(ddof=1) * math.sqrt(1.0 / folds + 1.0 / (folds - 1)))
        margin = float(t.ppf((1.0 + confidence) / 2.0, folds - 1)) * error
    lower, upper = mean - margin, mean + margin
    return AugmentationEffect(
        metric=without.metric,
        higher_is_better=without.higher_is_better,
        without=without.mean,
        with_augmentation=with_augmentation.mean,
        differences=tuple(differences.tolist()),
        mean_difference=mean,
        standard_error=error,
        lower=lower,
        upper=upper,
        confidence=confidence,
        verdict=HELPS if lower > 0.0 else WORSENS if upper < 0.0 else NO_DIFFERENCE,
    )
