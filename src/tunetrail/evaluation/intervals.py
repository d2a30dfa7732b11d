"""Intervals of one model's metrics, from resamples of whole clusters of its examples."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from scipy.stats import beta, binomtest, t

from tunetrail.evaluation.comparison import (
    cluster_index,
    drawn_counts,
    expanded_tail,
    least_differing,
)
from tunetrail.evaluation.metrics import (
    ANSWER_METRICS,
    ANSWER_SHARES,
    Array,
    Floats,
    Metric,
    metric_named,
)
from tunetrail.evaluation.scores import Scores

_MOST_CLUSTERS = 5_000
"""Clusters that are drawn one by one; of more, random groups of clusters are drawn."""
_LEAST_OF_CLASS = 10
"""Clusters with a positive pair, and with a negative one, below which intervals are too narrow."""
_OPTIMISM_RESAMPLES = 400
"""Enough for the mean of what a threshold flatters: Efron (1983) takes 200."""


class Interval(NamedTuple):
    """The bounds of a metric."""

    lower: float
    upper: float


def metric_intervals(
    scores: Scores, *, bootstrap_samples: int, confidence: float, seed: int
) -> dict[str, Interval]:
    """Return the interval of each metric of a model, by the same resamples for all of them.

    Whole clusters are drawn if the scores name them, and the percentiles are expanded, as in a
    comparison. Where nearly all examples have the same value, such as a recall of 1, resamples
    hardly differ: then a metric that is a share has the exact bound of Clopper and Pearson (1934)
    on the clusters that may have another value, and other metrics have no interval. Metrics of
    positive and negative pairs have one on the scale of their logit, for new pairs.

    Metrics of written answers are resampled from the examples that have one. Those that are right
    or wrong have Wilson's interval of independent examples, however few there are.

    Args:
        scores: The scores with their per-example values.
        bootstrap_samples: Number of resamples.
        confidence: Coverage of each interval.
        seed: Seed of the resamples.

    Returns:
        The intervals by name of the metric, without the metrics that can't have one: their clusters
        are fewer than `least_differing`, or they are undefined on too many resamples.
    """
    bootstrap = partial(
        _bootstrap_intervals,
        bootstrap_samples=bootstrap_samples,
        confidence=confidence,
        seed=seed,
    )
    of_answers = [name for name in ANSWER_METRICS if name in scores.metrics]
    of_all = [name for name in scores.metrics if name not in of_answers]
    intervals = bootstrap(scores, of_all)
    if not of_answers:
        return intervals

    # Examples without an answer are no evidence of how good the answers are.
    answered = scores.at(np.flatnonzero(~np.isnan(scores.per_example[of_answers[0]])))
    intervals |= bootstrap(answered, of_answers)
    for name in ANSWER_SHARES:
        if name in scores.metrics:
            share = scores.metrics[name]
            intervals[name] = share_interval(share, answered.examples, confidence)
    return intervals


def share_interval(share: float, examples: int, confidence: float) -> Interval:
    """Return the Wilson score interval of a share of independent examples.

    Unlike the normal interval, it holds its level near 0 and 1 and with few examples (Brown, Cai
    and DasGupta 2001, https://doi.org/10.1214/ss/1009213286).
    """
    result = binomtest(round(share * examples), examples)
    interval = result.proportion_ci(confidence, method="wilson")
    return Interval(float(interval.low), float(interval.high))


def _bootstrap_intervals(
    scores: Scores, names: Sequence[str], *, bootstrap_samples: int, confidence: float, seed: int
) -> dict[str, Interval]:
    """Return the intervals of some of the metrics by resampling clusters."""
    cluster_of = cluster_index(scores)
    clusters = int(cluster_of.max()) + 1
    if clusters < least_differing(confidence):
        return {}
    if clusters > _MOST_CLUSTERS:
        # The variance of 5,000 groups estimates that of the clusters to 2 % (the method of random
        # groups; Wolter, "Introduction to Variance Estimation", 2007, chapter 2).
        group_of = np.random.default_rng(seed).permutation(clusters) % _MOST_CLUSTERS
        cluster_of, clusters = group_of[cluster_of], _MOST_CLUSTERS

    metrics = [metric for metric in map(metric_named, names) if not metric.grows]
    if not metrics:
        return {}
    formulas = [metric.resampler(scores.per_example, cluster_of) for metric in metrics]
    # One draw for all metrics: counting what was drawn takes longer than most formulas.
    blocks = [
        np.stack([formula(counts) for formula in formulas])
        for counts in drawn_counts(clusters, bootstrap_samples, seed)
    ]

    intervals = {}
    for metric, resamples in zip(metrics, np.concatenate(blocks, axis=1), strict=True):
        interval = _interval(metric, scores, cluster_of, resamples, confidence)
        if interval is not None:
            intervals[metric.name] = interval
    return intervals


def _interval(
    metric: Metric, scores: Scores, cluster_of: Array, resamples: Floats, confidence: float
) -> Interval | None:
    """Return the interval of a metric; None if the resamples don't give one."""
    clusters = int(cluster_of.max()) + 1
    tail = (1.0 - confidence) / 2.0
    # Such as a precision without a positive example. As many as lie beyond a bound could be
    # anywhere, so the bound would mean nothing.
    if np.isnan(resamples).mean() > tail / 2.0:
        return None
    if metric.of_classes:
        return _logit_interval(metric, scores, cluster_of, resamples, confidence)

    common, deviating = _common_value(metric, scores, cluster_of)
    if deviating < least_differing(confidence):
        return _share_interval(common, deviating, clusters, tail) if metric.is_share else None

    tail = expanded_tail(confidence, _effective_clusters(metric, scores, cluster_of))
    lower, upper = map(float, np.nanquantile(resamples, (tail, 1.0 - tail)))
    # A correlation with a constant side is 0 on every resample, and says nothing.
    return Interval(lower, upper) if lower < upper else None


def _effective_clusters(metric: Metric, scores: Scores, cluster_of: Array) -> float:
    """Return how many clusters of equal weight would tell as much: (sum w)^2 / sum w^2 (Kish 1965).

    Of 30 texts, the longer ones decide a ratio of sums: with as many degrees of freedom as texts,
    its interval would be too narrow.
    """
    weights = None if metric.weight is None else scores.per_example[metric.weight]
    cluster_weights = np.bincount(cluster_of, weights=weights).astype(np.float64)
    # At least two, as one alone would have no degree of freedom.
    return max(float(cluster_weights.sum() ** 2 / (cluster_weights**2).sum()), 2.0)


def _common_value(metric: Metric, scores: Scores, cluster_of: Array) -> tuple[float, int]:
    """Return the most common value of the clusters, and how many clusters have another one."""
    names = (metric.name,) if metric.per_example else metric.reads
    common, deviating = 0.0, -1
    for name in names:
        values = scores.per_example[name].astype(np.float64)
        # An example without a value of the metric, such as an answer that wasn't written, is NaN.
        is_known = ~np.isnan(values)
        sizes = np.bincount(cluster_of[is_known])
        sums = np.bincount(cluster_of[is_known], weights=values[is_known])
        # Rounded, or equal means of clusters of several sizes would differ in the last digit.
        rounded = np.round(sums[sizes > 0] / sizes[sizes > 0], 12)
        means, counts = np.unique(rounded, return_counts=True)
        deviating_of_name = int(counts.sum() - counts.max())
        if deviating_of_name > deviating:
            common, deviating = float(means[counts.argmax()]), deviating_of_name
    return common, deviating


def _share_interval(common: float, deviating: int, clusters: int, tail: float) -> Interval:
    """Return the bounds of a share if only a few clusters don't have its most common value."""
    # The few may have any value from 0 to 1, and may be as many as their exact bound says.
    largest = float(beta.ppf(1.0 - tail, deviating + 1, clusters - deviating))
    return Interval(common * (1.0 - largest), common + (1.0 - common) * largest)


def _logit_interval(
    metric: Metric, scores: Scores, cluster_of: Array, resamples: Floats, confidence: float
) -> Interval | None:
    """Return the interval of a metric of positive and negative pairs, on the scale of its logit.

    Such a metric lies between 0 and 1 and is skewed near 1, where percentiles and symmetric
    intervals miss; that of the logit holds (Boyd, Eng and Page 2013,
    https://doi.org/10.1007/978-3-642-40994-3_29). The standard error is that of the resamples, and
    the quantile Student's. If a threshold was chosen by the very pairs, its optimism is subtracted
    first, so that the interval is for new pairs, and the metric's value may lie above it.

    Returns:
        None if a class has fewer than 10 clusters, or the resamples don't differ.
    """
    is_positive = scores.per_example["gold"] > 0.0
    positive_clusters = len(np.unique(cluster_of[is_positive]))
    negative_clusters = len(np.unique(cluster_of[~is_positive]))
    spread = float(np.nanstd(resamples))
    if min(positive_clusters, negative_clusters) < _LEAST_OF_CLASS or spread == 0.0:
        return None

    center = scores.metrics[metric.name]
    clusters = int(cluster_of.max()) + 1
    # Average precision is a mean over the positive pairs, so these are its evidence.
    evidence = positive_clusters if metric.optimism is None else clusters
    if metric.optimism is not None:
        optimism = metric.optimism(scores.per_example, cluster_of)
        draws = drawn_counts(clusters, _OPTIMISM_RESAMPLES, seed=0)
        center -= float(np.concatenate(list(map(optimism, draws))).mean())

    # Half a pair from 0 and 1, where the logit is infinite.
    margin = 0.5 / scores.examples
    center = min(max(center, margin), 1.0 - margin)
    standard_error = spread * np.sqrt(evidence / (evidence - 1.0)) / (center * (1.0 - center))
    width = t.isf((1.0 - confidence) / 2.0, evidence - 1) * standard_error
    lower, upper = expit(logit(center) + np.array([-width, width]))
    return Interval(float(lower), float(upper))


def figures_with_bounds(scores: Scores, intervals: Mapping[str, Interval]) -> dict[str, float]:
    """Return the metrics for MLflow: with `NAME/lower`, `NAME/upper` and `NAME/threshold`."""
    figures = dict(scores.metrics)
    for name, interval in intervals.items():
        figures |= {f"{name}/lower": interval.lower, f"{name}/upper": interval.upper}
    thresholds = {f"{name}/threshold": value for name, value in scores.thresholds.items()}
    return figures | thresholds


def metric_table(models: Mapping[str, tuple[Scores, Mapping[str, Interval]]]) -> pd.DataFrame:
    """Return a line for each metric of each model: its label, value and bounds.

    Args:
        models: The scores and their intervals by name of the model.
    """
    lines = []
    for model, (scores, intervals) in models.items():
        for name, value in scores.metrics.items():
            lower, upper = intervals.get(name, (None, None))
            label = metric_named(name).label
            lines.append((name, label, model, value, lower, upper, scores.thresholds.get(name)))
    columns = ["metric", "label", "model", "value", "lower", "upper", "threshold"]
    return pd.DataFrame(lines, columns=columns)
