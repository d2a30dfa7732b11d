"""Comparison: how much better one model is than another on the same examples, with an interval."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy.stats import beta, t

from tunetrail.evaluation.metric import Floats
from tunetrail.evaluation.metrics import metric_named
from tunetrail.evaluation.resampling import (
    cluster_index,
    differing_clusters,
    expanded_tail,
    least_differing,
    resampled_differences,
)
from tunetrail.evaluation.scores import UNSHARED_BYTES, Scores
from tunetrail.plain_values import plain_values
from tunetrail.reporting.readable import counted, shown_interval

POWER = 0.8
"""Probability with which the smallest detectable gain would be found."""

# Share of a metric's weight from which a single row is worth a warning.
_HEAVY_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models on the same examples; positive differences mean that `after` is better.

    Fields that have a default are missing in comparisons that older versions wrote.

    Attributes:
        metric: Name of the metric compared.
        before: Its value for the older model.
        after: Its value for the newer model.
        improvement: `after - before`, or `before - after` if lower is better.
        lower: Lower bound of the improvement; None if too few clusters differ for an interval.
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
        differing: Number of clusters on which the models differ, or of examples if these are
            independent.
        detectable_gain: The smallest true improvement whose interval would lie above 0 in 80 % of
            such tests; None without an interval.
        heaviest_share: Share of the metric's weight (bytes, tokens) that a single example holds;
            None if all weigh the same.
        scored_rows: Number of rows that the examples stand for; None if unknown.
        side_rows: Number of rows that were to be scored; None if unknown.
        left_out_rows: Number of these rows that were left out, as root has learnt from their
            near-duplicates.
        bytes: Number of bytes that both models were scored on; None for metrics that count none.
        unshared_bytes: Number of further bytes, which only one of the models' tokenizers reads.
    """

    metric: str
    before: float
    after: float
    improvement: float
    lower: float | None
    upper: float | None
    confidence: float
    examples: int
    bootstrap_samples: int
    better_share: float | None
    worse_share: float | None
    clusters: int | None = None
    documents: int | None = None
    look: float = 1.0
    differing: int | None = None
    detectable_gain: float | None = None
    heaviest_share: float | None = None
    scored_rows: int | None = None
    side_rows: int | None = None
    left_out_rows: int = 0
    bytes: int | None = None
    unshared_bytes: int = 0

    @property
    def higher_is_better(self) -> bool:
        """The direction of the metric."""
        return metric_named(self.metric).higher_is_better

    @property
    def independent(self) -> int:
        """Number of clusters, or of examples if these are independent."""
        return self.examples if self.clusters is None else self.clusters

    @property
    def unit(self) -> str:
        """Return what is counted as independent evidence: `row` or `group`."""
        return "row" if self.clusters is None else "group"

    @property
    def rows_in_words(self) -> str:
        """Return how many test rows the examples are, and of how many, for a line of text."""
        if self.scored_rows is None or self.side_rows is None:
            return counted(self.examples, "test row") + self._bytes_in_words
        rows = f"{self.scored_rows} of {self.side_rows} test rows" + self._bytes_in_words
        if self.left_out_rows:
            rows += f" ({self.left_out_rows} left out, as root knows near-duplicates)"
        # Rows with equal anchors are one query.
        queries = "1 query" if self.examples == 1 else f"{self.examples:,} queries"
        return rows if self.examples == self.scored_rows else f"{rows} ({queries})"

    @property
    def _bytes_in_words(self) -> str:
        if self.bytes is None or self.unshared_bytes == 0:
            return ""
        everything = self.bytes + self.unshared_bytes
        return f" ({self.bytes:,} of {everything:,} bytes, which both tokenizers read)"

    @property
    def change_bound(self) -> float | None:
        """The largest share of clusters that may truly differ, given how few did.

        The upper end of the exact one-sided interval of Clopper and Pearson (1934). For no change
        at all, 1 - (1 - confidence)^(1/n), which is about 3/n at 95 % (the rule of three).
        """
        if self.differing is None or self.differing >= self.independent:
            return None
        same = self.independent - self.differing
        return float(beta.ppf(self.confidence, self.differing + 1, same))

    @property
    def why_no_interval(self) -> str | None:
        """Return in words why there is no interval; None if there is one."""
        if self.lower is not None:
            return None
        if self.differing is None:
            return "too few examples for an interval"

        tested = f"{self.independent} test {_plural(self.unit, self.independent)}"
        # With three digits, as later looks ask for 99.3 %.
        confidence, bound = f"{100.0 * self.confidence:.3g}%", ""
        if self.change_bound is not None:
            bound = f"; at most {self.change_bound:.1%} of such {self.unit}s change"
        if self.differing == 0:
            return f"no row changed among {tested}{bound} ({confidence} bound)"
        needed = least_differing(self.confidence)
        return (
            f"only {self.differing} of {tested} changed, and a {confidence} interval needs "
            f"{needed}{bound}"
        )

    @property
    def interval_in_words(self) -> str:
        """Return the bounds of the improvement, or how few rows changed, for a table."""
        if self.lower is not None and self.upper is not None:
            return shown_interval(self.lower, self.upper)
        if self.differing is None:
            return "too few rows"
        changed = self.differing or "no"
        unit = self.unit if self.differing else "row"
        return f"{changed} {_plural(unit, self.differing or 1)} changed"

    @property
    def warning(self) -> str | None:
        """Return a warning if a single row decides much of the metric; None otherwise."""
        weight = metric_named(self.metric).weight
        # Of ten rows, each holds a tenth: heavy is also what weighs twice as much as the average.
        least = max(_HEAVY_SHARE, 2.0 / self.examples)
        if self.heaviest_share is None or self.heaviest_share < least:
            return None
        return (
            f"one of {self.examples} test rows holds {self.heaviest_share:.0%} of the {weight} "
            f"that {self.metric} counts, so the interval is less certain than it says"
        )

    @property
    def figures(self) -> dict[str, float]:
        """What MLflow keeps: both values, the improvement with its bounds, and the evidence.

        Values that are None are left out: MLflow has no metric without a value.
        """
        names = (
            "after",
            "before",
            "improvement",
            "lower",
            "upper",
            "confidence",
            "look",
            "differing",
            "detectable_gain",
            "heaviest_share",
            "documents",
        )

        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Comparison":
        """Return the comparison that `to_dict` gave as plain values; further keys are ignored."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: values[name] for name in names if name in values})

    def to_dict(self) -> dict[str, Any]:
        """Return all fields and the direction as plain values."""
        return plain_values(self, "higher_is_better")


def compare(
    before: Scores, after: Scores, *, bootstrap_samples: int, confidence: float, seed: int
) -> Comparison:
    """Compare two models by a paired percentile bootstrap on the same resamples for both.

    If the scores name clusters, whole clusters are drawn: rows of one group are no independent
    evidence.

    The interval is the expanded percentile interval (Hesterberg, "What Teachers Should
    Know About the Bootstrap", 2015), which keeps its coverage with few examples. If the models
    differ on fewer than log2(2 / (1 - confidence)) clusters (6 at 95%), no interval can have that
    coverage, because all of these agree by chance too often: then there are no bounds.

    Raises:
        ValueError: The metrics or the examples differ.
    """
    _check_same_examples(before, after)
    # Turned so that a positive difference is always an improvement.
    sign = 1.0 if after.higher_is_better else -1.0

    # Rows of one cluster say nearly the same: what counts is the number of clusters.
    cluster_of = cluster_index(after)
    independent = int(cluster_of.max()) + 1
    differing = differing_clusters(before, after, cluster_of)

    lower = upper = detectable_gain = None
    if differing >= least_differing(confidence):
        differences = sign * resampled_differences(
            before, after, cluster_of, bootstrap_samples, seed
        )
        tail = expanded_tail(confidence, independent)
        lower, upper = map(float, np.quantile(differences, (tail, 1.0 - tail)))
        detectable_gain = _detectable_gain(differences, confidence, independent)

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
        documents=after.documents,
        better_share=better_share,
        worse_share=worse_share,
        clusters=None if after.clusters is None else independent,
        differing=differing,
        detectable_gain=detectable_gain,
        heaviest_share=_heaviest_share(after),
        scored_rows=after.scored_rows,
        side_rows=after.side_rows,
        bytes=_sum_of(after, "bytes") if metric_named(after.metric).weight == "bytes" else None,
        unshared_bytes=_sum_of(after, UNSHARED_BYTES),
    )


def _sum_of(scores: Scores, name: str) -> int:
    """Return the sum of per-example values; 0 if there are none of that name."""
    return int(scores.per_example[name].sum()) if name in scores.per_example else 0


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


def _detectable_gain(differences: Floats, confidence: float, clusters: int) -> float:
    """Return the smallest true gain that a test of this size finds with a power of 80 %.

    The estimate's standard error times the quantiles of Student's t for the interval's tail and for
    the power, as in the usual planning of a paired test.
    """
    # The bootstrap's own spread is too small by the factor sqrt((n - 1) / n), see above.
    standard_error = differences.std() * math.sqrt(clusters / (clusters - 1))
    quantiles = t.ppf(((1.0 + confidence) / 2.0, POWER), clusters - 1)
    return float(quantiles.sum() * standard_error)


def _heaviest_share(scores: Scores) -> float | None:
    """Return the largest share of the metric's weight in one example; None if all are equal."""
    weight = metric_named(scores.metric).weight
    if weight is None:
        return None
    weights = scores.per_example[weight]
    return float(weights.max() / weights.sum())


def _shares(before: Scores, after: Scores, sign: float) -> tuple[float | None, float | None]:
    """Return the shares of examples on which `after` is better, and worse."""
    metric = metric_named(after.metric)
    if not metric.per_example:
        return None, None
    differences = sign * (after.per_example[metric.name] - before.per_example[metric.name])
    return float((differences > 0).mean()), float((differences < 0).mean())


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"
