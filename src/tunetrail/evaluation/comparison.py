"""Comparison: how much better one model is than another on the same examples, with an interval."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy.stats import norm, t

from tunetrail.evaluation.metrics import Floats, metric_named
from tunetrail.evaluation.scores import Scores
from tunetrail.plain_values import plain_values

_CELLS_AT_ONCE = 2_000_000
"""Drawn indices held in memory at a time."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models on the same examples; positive differences mean that `after` is better.

    Attributes:
        metric: Name of the metric compared.
        before: Its value for the older model.
        after: Its value for the newer model.
        improvement: `after - before`, or `before - after` if lower is better.
        lower: Lower bound of the improvement; minus infinity with too few examples for an interval.
        upper: Upper bound.
        confidence: Coverage of the interval.
        examples: Number of examples.
        bootstrap_samples: Number of resamples drawn.
        better_share: Share of the examples on which `after` is better; None if the metric has no
            value per example.
        worse_share: Share of the examples on which it is worse; the other examples are equal.
        clusters: Number of clusters that were resampled as wholes; None if the examples are
            independent.
        documents: Number of documents that the examples ranked; None for metrics without ranking.
        look: How often the examples were asked since root last moved, this time included; looks at
            some of them count by their share.
    """

    metric: str
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
    documents: int | None = None
    look: float = 1.0

    @property
    def higher_is_better(self) -> bool:
        """The direction of the metric."""
        return metric_named(self.metric).higher_is_better

    @property
    def figures(self) -> dict[str, float]:
        """What the ledger and MLflow keep: both values, and the improvement with its bounds."""
        names = ("after", "before", "improvement", "lower", "upper")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Comparison":
        """Return the comparison that `to_dict` gave as plain values; further keys are ignored."""
        names = [field.name for field in fields(cls)]
        known = {name: values[name] for name in names if name in values}
        # JSON has no infinity: bounds that are null were infinite.
        if known["lower"] is None:
            known |= {"lower": -math.inf, "upper": math.inf}
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields and the direction as plain values: an infinite bound is None."""
        return plain_values(self, "higher_is_better")


def compare(
    before: Scores, after: Scores, *, bootstrap_samples: int, confidence: float, seed: int
) -> Comparison:
    """Compare two models by a paired percentile bootstrap on the same resamples for both.

    If the scores name clusters, whole clusters are drawn: rows of one group are no independent
    evidence.

    The interval is the expanded percentile interval (Hesterberg, "What Teachers Should
    Know About the Bootstrap", 2015), which keeps its coverage with few examples. Below
    log2(2 / (1 - confidence)) examples (6 at 95%) no interval can have that coverage, because all
    examples agree by chance too often: then the bounds are infinite.

    Raises:
        ValueError: The metrics or the examples differ.
    """
    _check_same_examples(before, after)
    # Turned so that a positive difference is always an improvement.
    sign = 1.0 if after.higher_is_better else -1.0

    # Rows of one cluster say nearly the same: what counts is the number of clusters.
    clusters = None if after.clusters is None else len(set(after.clusters))
    independent = after.examples if clusters is None else clusters
    lower, upper = -math.inf, math.inf
    if independent >= math.log2(2.0 / (1.0 - confidence)):
        differences = sign * _resampled_differences(before, after, bootstrap_samples, seed)
        tail = _expanded_tail(confidence, independent)
        lower, upper = map(float, np.quantile(differences, (tail, 1.0 - tail)))

    better_share, worse_share = _shares(before, after, sign)
    return Comparison(
        metric=after.metric,
        before=before.value,
        after=after.value,
        improvement=sign * (after.value - before.value),
        lower=lower,
        upper=upper,
        confidence=confidence,
        examples=after.examples,
        bootstrap_samples=bootstrap_samples,
        clusters=clusters,
        documents=after.documents,
        better_share=better_share,
        worse_share=worse_share,
    )


def _check_same_examples(before: Scores, after: Scores) -> None:
    for name in ("metric", "examples"):
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            raise ValueError(f"{name} must be the same before and after, got {old} and {new}.")

    if before.corpus != after.corpus:
        raise ValueError(
            f"corpus must be the same before and after, got {before.documents} and "
            f"{after.documents} documents that differ."
        )
    # Without ids, as for scores from vectors alone, the order of the examples has to do.
    both_known = before.row_ids is not None and after.row_ids is not None
    if both_known and before.row_ids != after.row_ids:
        raise ValueError("row_ids must be the same before and after, in the same order.")


def _resampled_differences(before: Scores, after: Scores, samples: int, seed: int) -> Floats:
    """Return `after - before` on each resample, [samples]."""
    generator = np.random.default_rng(seed)
    if after.clusters is not None:
        return _cluster_differences(before, after, after.clusters, samples, generator)

    # In blocks of resamples: all at once may not fit into memory.
    height = max(1, _CELLS_AT_ONCE // after.examples)
    differences = []
    for start in range(0, samples, height):
        shape = (min(height, samples - start), after.examples)
        indices = generator.integers(after.examples, size=shape)
        # The same draw for both models: what makes an example hard for both cancels out.
        differences.append(after.statistics(indices) - before.statistics(indices))
    return np.concatenate(differences)


def _cluster_differences(
    before: Scores,
    after: Scores,
    clusters: Sequence[str],
    samples: int,
    generator: np.random.Generator,
) -> Floats:
    """Return `after - before` on each resample of whole clusters, [samples]."""
    names, cluster_of = np.unique(np.asarray(clusters), return_inverse=True)
    members = [np.flatnonzero(cluster_of == cluster) for cluster in range(len(names))]

    # One at a time: resamples differ in their number of examples.
    differences = np.empty(samples)
    for sample in range(samples):
        drawn = generator.integers(len(members), size=len(members))
        indices = np.concatenate([members[cluster] for cluster in drawn])
        differences[sample] = after.statistic(indices) - before.statistic(indices)
    return differences


def _expanded_tail(confidence: float, examples: int) -> float:
    """Return the share of resamples to leave out on each side, for the expanded interval."""
    # As wide as Student's t interval would be: the bootstrap's own is too narrow by the factor
    # sqrt((n - 1) / n), and has the normal's tails.
    quantile = t.ppf((1.0 - confidence) / 2.0, examples - 1)
    return float(norm.cdf(math.sqrt(examples / (examples - 1)) * quantile))


def _shares(before: Scores, after: Scores, sign: float) -> tuple[float | None, float | None]:
    """Return the shares of examples on which `after` is better, and worse."""
    metric = metric_named(after.metric)
    if not metric.per_example:
        return None, None
    differences = sign * (after.per_example[metric.name] - before.per_example[metric.name])
    return float((differences > 0).mean()), float((differences < 0).mean())
