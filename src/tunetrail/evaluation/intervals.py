"""Intervals of one model's metrics: each by the method that holds its level for such a metric."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from scipy.stats import t

from tunetrail.evaluation.mean_intervals import ClusteredMean
from tunetrail.evaluation.metric import Array, CountStatistic, Floats, Metric
from tunetrail.evaluation.metrics import ANSWER_SHARES, answer_metrics_of, metric_named
from tunetrail.evaluation.resampling import (
    cluster_index,
    drawn_counts,
    expanded_tail,
    least_differing,
)
from tunetrail.evaluation.scores import Scores
from tunetrail.evaluation.share_intervals import (
    Interval,
    clustered_share_interval,
    effective_clusters,
)

# Clusters that are drawn one by one; of more, random groups of clusters are drawn.
_MOST_CLUSTERS = 5_000
# Clusters with a positive pair, and with a negative one, below which intervals miss too often.
_LEAST_OF_CLASS = 20
# Enough for the mean of what a threshold flatters: Efron (1983) takes 200.
_OPTIMISM_RESAMPLES = 400


def metric_intervals(
    scores: Scores, *, bootstrap_samples: int, confidence: float, seed: int
) -> dict[str, Interval]:
    """Return the interval of each metric of a model, for which whole clusters are the evidence.

    A metric that is a share or a mean of values from 0 to 1 has Wilson's score interval for as many
    independent examples as its clusters stand for (`clustered_share_interval`). Average precision
    has one on the scale of its logit. Other metrics have the expanded percentiles of resamples, as
    in a comparison, except for means of values without bounds, which have the bootstrap-t interval
    (`ClusteredMean`).

    Metrics of written answers rest on the examples that have one.

    Args:
        scores: The scores with their per-example values.
        bootstrap_samples: Number of resamples.
        confidence: Coverage of each interval.
        seed: Seed of the resamples.

    Returns:
        The intervals by name of the metric, without the metrics that can't have one: their clusters
        are fewer than `least_differing`, or nearly all have the same value.
    """
    intervals_of = partial(
        _intervals_of, bootstrap_samples=bootstrap_samples, confidence=confidence, seed=seed
    )
    of_answers = answer_metrics_of(scores.metrics)
    of_all = [name for name in scores.metrics if name not in of_answers]
    intervals = intervals_of(scores, of_all)
    if not of_answers:
        return intervals

    # Examples without an answer are no evidence of how good the answers are.
    answered = scores.at(np.flatnonzero(~np.isnan(scores.per_example[of_answers[0]])))
    return intervals | intervals_of(answered, of_answers)


def _intervals_of(
    scores: Scores, names: Sequence[str], *, bootstrap_samples: int, confidence: float, seed: int
) -> dict[str, Interval]:
    """Return the intervals of some of the metrics."""
    cluster_of = cluster_index(scores)
    clusters = int(cluster_of.max()) + 1
    if clusters < least_differing(confidence):
        # Wilson's interval of answers that are right or wrong holds with any number of them.
        names = [name for name in names if name in ANSWER_SHARES]

    metrics = [metric for metric in map(metric_named, names) if metric.has_interval]
    intervals: dict[str, Interval | None] = {}
    for metric in metrics:
        if metric.ratio is not None:
            intervals[metric.name] = _share_interval(metric, scores, cluster_of, confidence)

    resampled = [metric for metric in metrics if metric.ratio is None]
    if resampled:
        intervals |= _resampled_intervals(
            resampled,
            scores,
            cluster_of,
            bootstrap_samples=bootstrap_samples,
            confidence=confidence,
            seed=seed,
        )
    return {name: interval for name, interval in intervals.items() if interval is not None}


def _resampled_intervals(
    metrics: Sequence[Metric],
    scores: Scores,
    cluster_of: Array,
    *,
    bootstrap_samples: int,
    confidence: float,
    seed: int,
) -> dict[str, Interval | None]:
    """Return the intervals of metrics by resamples; None for a metric whose resamples give none."""
    cluster_of = _at_most(_MOST_CLUSTERS, cluster_of)
    clustered_means = {}
    formulas: list[CountStatistic] = []
    for metric in metrics:
        if metric.is_unbounded_mean:
            clustered_mean = ClusteredMean.of(scores.per_example[metric.name], cluster_of)
            clustered_means[metric.name] = clustered_mean
            formulas.append(clustered_mean.t_statistics)
        else:
            formulas.append(metric.resampler(scores.per_example, cluster_of))

    # One draw for all metrics: counting what was drawn takes longer than most formulas.
    blocks = []
    for counts in drawn_counts(int(cluster_of.max()) + 1, bootstrap_samples, seed):
        blocks.append(np.stack([formula(counts) for formula in formulas]))

    intervals = {}
    for metric, resamples in zip(metrics, np.concatenate(blocks, axis=1), strict=True):
        intervals[metric.name] = _resampled_interval(
            metric, scores, cluster_of, resamples, confidence, clustered_means.get(metric.name)
        )
    return intervals


def _at_most(groups: int, cluster_of: Array) -> Array:
    """Return the clusters, or `groups` random groups of them if there are more clusters.

    The variance of 5,000 groups estimates that of the clusters to 2 % (the method of random groups;
    Wolter, "Introduction to Variance Estimation", 2007, chapter 2).
    """
    clusters = int(cluster_of.max()) + 1
    if clusters <= groups:
        return cluster_of
    group_of = np.random.default_rng(0).permutation(clusters) % groups
    return group_of[cluster_of]


def _share_interval(
    metric: Metric, scores: Scores, cluster_of: Array, confidence: float
) -> Interval | None:
    """Return the interval of a ratio of sums from 0 to 1; None if there is no honest one.

    A metric at the best threshold of these pairs is too high for new pairs: the interval is of the
    metric less this optimism, so that the metric itself may lie above it.
    """
    assert metric.ratio is not None
    numerators, denominators = metric.ratio(scores.per_example)
    if denominators.sum() <= 0.0:
        return None

    counted = denominators > 0.0
    highest = float((numerators[counted] / denominators[counted]).max())
    largest = 1.0 if metric.best_is_known or highest <= 0.0 else highest
    optimism = 0.0
    if metric.optimism is not None:
        is_perfect = scores.metrics[metric.name] >= 1.0
        # Resamples of pairs that are told apart perfectly don't show what the choice flatters.
        if is_perfect or min(_clusters_of_classes(scores, cluster_of)) < _LEAST_OF_CLASS:
            return None
        optimism = _mean_optimism(metric, scores, cluster_of)

    return clustered_share_interval(
        numerators,
        denominators,
        cluster_of,
        confidence,
        largest=largest,
        optimism=optimism,
    )


def _clusters_of_classes(scores: Scores, cluster_of: Array) -> tuple[int, int]:
    """Return how many clusters have a positive pair, and how many a negative one."""
    is_positive = scores.per_example["gold"] > 0.0
    return len(np.unique(cluster_of[is_positive])), len(np.unique(cluster_of[~is_positive]))


def _mean_optimism(metric: Metric, scores: Scores, cluster_of: Array) -> float:
    """Return how much a choice by the very examples flatters the metric."""
    assert metric.optimism is not None
    cluster_of = _at_most(_MOST_CLUSTERS, cluster_of)
    optimism = metric.optimism(scores.per_example, cluster_of)
    draws = drawn_counts(int(cluster_of.max()) + 1, _OPTIMISM_RESAMPLES, seed=0)
    return float(np.concatenate(list(map(optimism, draws))).mean())


def _resampled_interval(
    metric: Metric,
    scores: Scores,
    cluster_of: Array,
    resamples: Floats,
    confidence: float,
    clustered_mean: ClusteredMean | None,
) -> Interval | None:
    """Return the interval of a metric by its resamples; None if they don't give one.

    Of a mean without bounds, `clustered_mean`, the resamples are t statistics.
    """
    tail = (1.0 - confidence) / 2.0
    # Such as a precision without a positive example. As many as lie beyond a bound could be
    # anywhere, so the bound would mean nothing.
    if np.isnan(resamples).mean() > tail / 2.0:
        return None
    if metric.of_classes:
        return _logit_interval(metric, scores, cluster_of, resamples, confidence)
    # Where nearly all clusters have the same value, resamples hardly differ, and claim certainty.
    if _deviating_clusters(metric, scores, cluster_of) < least_differing(confidence):
        return None

    if clustered_mean is not None:
        return clustered_mean.interval(resamples, confidence)

    weights = None if metric.weight is None else scores.per_example[metric.weight]
    independent = effective_clusters(weights, cluster_of)
    tail = expanded_tail(confidence, independent)
    lower, upper = map(float, np.nanquantile(resamples, (tail, 1.0 - tail)))
    # A correlation with a constant side is 0 on every resample, and says nothing.
    return Interval(lower, upper) if lower < upper else None


def _deviating_clusters(metric: Metric, scores: Scores, cluster_of: Array) -> int:
    """Return how many clusters have a value other than the most common one."""
    names = (metric.name,) if metric.per_example else metric.reads
    deviating = 0
    for name in names:
        values = scores.per_example[name].astype(np.float64)
        # An example without a value of the metric, such as an answer that wasn't written, is NaN.
        is_known = ~np.isnan(values)
        sizes = np.bincount(cluster_of[is_known])
        sums = np.bincount(cluster_of[is_known], weights=values[is_known])
        # Rounded, or equal means of clusters of several sizes would differ in the last digit.
        rounded = np.round(sums[sizes > 0] / sizes[sizes > 0], 12)
        _, counts = np.unique(rounded, return_counts=True)
        deviating = max(deviating, int(counts.sum() - counts.max()))
    return deviating


def _logit_interval(
    metric: Metric, scores: Scores, cluster_of: Array, resamples: Floats, confidence: float
) -> Interval | None:
    """Return the interval of average precision, on the scale of its logit.

    It lies between 0 and 1 and is skewed near 1, where percentiles and symmetric intervals miss;
    that of the logit holds (Boyd, Eng and Page 2013,
    https://doi.org/10.1007/978-3-642-40994-3_29). The standard error is that of the resamples, and
    the quantile Student's.

    Returns:
        None if a class has too few clusters, or the resamples don't differ.
    """
    positive_clusters, negative_clusters = _clusters_of_classes(scores, cluster_of)
    spread = float(np.nanstd(resamples))
    if min(positive_clusters, negative_clusters) < _LEAST_OF_CLASS or spread == 0.0:
        return None

    # Half a pair from 0 and 1, where the logit is infinite.
    margin = 0.5 / scores.examples
    center = min(max(scores.metrics[metric.name], margin), 1.0 - margin)
    # It is a mean over the positive pairs, so these are its evidence.
    expansion = np.sqrt(positive_clusters / (positive_clusters - 1.0))
    standard_error = spread * expansion / (center * (1.0 - center))
    width = t.isf((1.0 - confidence) / 2.0, positive_clusters - 1) * standard_error
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
