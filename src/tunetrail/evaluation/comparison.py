"""Comparison: how much better one model is than another on the same examples, with an interval. Decides nothing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, t

from tunetrail.evaluation.scores import Scores

_CELLS_AT_ONCE = 2_000_000


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models on the same examples; `improvement`, `lower` and `upper` are positive where `after` is better.

    Attributes:
        metric: The metric compared.
        higher_is_better: Its direction.
        before: Its value for the older model.
        after: Its value for the newer model.
        improvement: `after - before`, its sign turned where lower is better.
        lower: Lower bound of the improvement; minus infinity with too few examples for any interval.
        upper: Upper bound.
        confidence: Coverage of the interval.
        examples: Number of examples.
        bootstrap_samples: Number of resamples drawn.
        better_share: Share of the examples on which `after` is better; None where the metric has no value per example.
        worse_share: Share of the examples on which it is worse; the rest are equal.
        clusters: Number of clusters that were resampled as wholes; None where the examples are independent.
    """

    metric: str
    higher_is_better: bool
    before: float
    after: float
    improvement: float
    lower: float
    upper: float
    confidence: float
    examples: int
    bootstrap_samples: int
    better_share: float | None
    worse_share: float | None
    clusters: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, JSON-serialisable: an infinite bound is None."""
        bounded = math.isfinite(self.lower)
        return {
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            "before": self.before,
            "after": self.after,
            "improvement": self.improvement,
            "lower": self.lower if bounded else None,
            "upper": self.upper if bounded else None,
            "confidence": self.confidence,
            "examples": self.examples,
            "bootstrap_samples": self.bootstrap_samples,
            "better_share": self.better_share,
            "worse_share": self.worse_share,
            "clusters": self.clusters,
        }


def compare(
    before: Scores, after: Scores, *, bootstrap_samples: int, confidence: float, seed: int
) -> Comparison:
    """Compare two models by a paired percentile bootstrap: each resample takes the same examples for both.

    Where the scores name clusters, whole clusters are drawn: rows of one group are no independent evidence.

    The percentiles are those of the expanded percentile interval (Hesterberg, "What Teachers Should Know About the
    Bootstrap", 2015), which keeps its coverage with few examples. Below log2(2 / (1 - confidence)) examples (6 at 95%)
    no interval can have that coverage, because all examples agree by chance too often: then the bounds are infinite.

    Raises:
        ValueError: The metrics or the numbers of examples differ.
    """
    if before.metric != after.metric:
        raise ValueError(
            f"metric must be the same before and after, got {before.metric} and {after.metric}."
        )
    if before.examples != after.examples:
        raise ValueError(
            f"examples must be the same before and after, got {before.examples} and {after.examples}."
        )
    sign = 1.0 if after.higher_is_better else -1.0
    lower, upper = -math.inf, math.inf
    clusters = None if after.clusters is None else len(set(after.clusters))
    independent = after.examples if clusters is None else clusters
    if independent >= math.log2(2.0 / (1.0 - confidence)):
        drawn = sign * _resampled_differences(before, after, bootstrap_samples, seed)
        tail = _expanded_tail(confidence, independent)
        lower, upper = (float(bound) for bound in np.quantile(drawn, (tail, 1.0 - tail)))
    better, worse = _shares(before, after, sign)
    return Comparison(
        metric=after.metric,
        higher_is_better=after.higher_is_better,
        before=before.value,
        after=after.value,
        improvement=sign * (after.value - before.value),
        lower=lower,
        upper=upper,
        confidence=confidence,
        examples=after.examples,
        bootstrap_samples=bootstrap_samples,
        clusters=clusters,
        better_share=better,
        worse_share=worse,
    )


def _resampled_differences(
    before: Scores, after: Scores, samples: int, seed: int
) -> npt.NDArray[np.float64]:
    """Return `after - before` on each resample, [samples]."""
    generator = np.random.default_rng(seed)
    if after.clusters is not None:
        return _cluster_differences(before, after, after.clusters, samples, generator)
    height = max(1, _CELLS_AT_ONCE // after.examples)
    differences = []
    for start in range(0, samples, height):
        shape = (min(height, samples - start), after.examples)
        indices = generator.integers(after.examples, size=shape)
        differences.append(after.statistics(indices) - before.statistics(indices))
    return np.concatenate(differences)


def _cluster_differences(
    before: Scores,
    after: Scores,
    clusters: Sequence[str],
    samples: int,
    generator: np.random.Generator,
) -> npt.NDArray[np.float64]:
    """Return `after - before` on each resample of whole clusters: rows of one group are no independent evidence."""
    _, numbers = np.unique(np.asarray(clusters), return_inverse=True)
    members = [np.flatnonzero(numbers == number) for number in range(int(numbers.max()) + 1)]
    differences = np.empty(samples)
    for sample in range(samples):
        indices = np.concatenate(
            [members[drawn] for drawn in generator.integers(len(members), size=len(members))]
        )
        differences[sample] = after.statistic(indices) - before.statistic(indices)
    return differences


def _expanded_tail(confidence: float, examples: int) -> float:
    quantile = t.ppf((1.0 - confidence) / 2.0, examples - 1)
    return float(norm.cdf(math.sqrt(examples / (examples - 1)) * quantile))


def _shares(before: Scores, after: Scores, sign: float) -> tuple[float | None, float | None]:
    if after.metric not in after.per_example:
        return None, None
    differences = sign * (after.per_example[after.metric] - before.per_example[before.metric])
    return float((differences > 0).mean()), float((differences < 0).mean())
