"""Significance tests: whether a difference between models is more than chance, and how large it is.

All of them are paired, and rows of one cluster count as one piece of evidence.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, friedmanchisquare, rankdata, studentized_range

from tunetrail.evaluation.metric import Array, CountStatistic, Floats
from tunetrail.evaluation.metrics import metric_named
from tunetrail.evaluation.resampling import cluster_index
from tunetrail.evaluation.scores import Scores

# Swaps of examples held at a time: few enough for the processor's cache.
_CELLS_AT_ONCE = 300_000
# Share of the largest difference within which two differences count as equal.
_ROUNDING = 1e-9


def permutation_p_value(
    before: Scores, after: Scores, *, permutations: int = 10_000, seed: int = 0
) -> float:
    """Return the two-sided p-value of a paired permutation test on whole clusters.

    If the two models were equal, each cluster could as well have got its scores from the other
    model. The test swaps the scores of whole clusters and counts how often the metric then
    differs at least as much as it does. For a mean over independent rows, this is the test of
    random signs (Fisher 1935; Dror et al. 2018, https://aclanthology.org/P18-1128). The p-value is
    that of `scipy.stats.permutation_test` with `permutation_type="samples"`: exact if all swaps are
    at most `permutations`, otherwise with 1 added to both counts (Phipson and Smyth 2010). It works
    for every metric, correlations included.

    Args:
        before: Scores of one model.
        after: Scores of the other model, on the same examples in the same order.
        permutations: Number of random swaps, if there are too many to try all of them.
        seed: Seed of the random swaps.
    """
    metric = metric_named(after.metric)
    cluster_of = cluster_index(after)
    clusters = int(cluster_of.max()) + 1

    # Each cluster is there twice, with the scores of either model: counts of 0 and 1 choose one.
    both_values, changed_rows = {}, np.zeros(after.examples, dtype=bool)
    for name in metric.reads:
        old_values, new_values = before.per_example[name], after.per_example[name]
        both_values[name] = np.concatenate([old_values, new_values])
        changed_rows |= old_values != new_values
    both_clusters = np.concatenate([cluster_of, cluster_of + clusters])
    statistic = metric.resampler(both_values, both_clusters)

    # To swap equal scores changes nothing.
    changed = np.unique(cluster_of[changed_rows])
    is_exact = len(changed) <= math.log2(permutations)
    swaps = _all_swaps if is_exact else _random_swaps
    height = max(1, _CELLS_AT_ONCE // (2 * after.examples))

    observed = float(_swapped_differences(statistic, np.zeros((1, clusters)))[0])
    blocks = []
    for chosen in swaps(len(changed), permutations, height, seed):
        swapped = np.zeros((len(chosen), clusters))
        swapped[:, changed] = chosen
        blocks.append(_swapped_differences(statistic, swapped))
    return _two_sided(np.concatenate(blocks), observed, added=0 if is_exact else 1)


def _swapped_differences(statistic: CountStatistic, swapped: Floats) -> Floats:
    """Return `after - before` with the scores of some clusters swapped, [swaps].

    Args:
        statistic: The metric as a function of counts: first the clusters of `before`, then the
            clusters of `after`.
        swapped: 1 for each cluster that is swapped, [swaps, clusters].
    """
    from_before = np.hstack([1.0 - swapped, swapped])
    differences: Floats = statistic(1.0 - from_before) - statistic(from_before)
    return differences


def _all_swaps(clusters: int, permutations: int, height: int, seed: int) -> Iterator[Array]:
    """Yield every choice of clusters in blocks, [choices, clusters]: the digits of 0, 1, 2, ..."""
    for start in range(0, 2**clusters, height):
        choices = np.arange(start, min(start + height, 2**clusters))
        yield choices[:, np.newaxis] >> np.arange(clusters) & 1


def _random_swaps(clusters: int, permutations: int, height: int, seed: int) -> Iterator[Array]:
    """Yield random choices of clusters in blocks, [choices, clusters]."""
    generator = np.random.default_rng(seed)
    for start in range(0, permutations, height):
        block = min(height, permutations - start)
        yield generator.integers(2, size=(block, clusters), dtype=np.int8)


def _two_sided(differences: Floats, observed: float, added: int) -> float:
    """Return twice the smaller share of differences at least as far to one side."""
    # Equal in theory, they may differ by the order in which sums were taken.
    rounding = _ROUNDING * max(abs(observed), float(np.abs(differences).max()))
    less = np.count_nonzero(differences <= observed + rounding)
    greater = np.count_nonzero(differences >= observed - rounding)
    share = (min(less, greater) + added) / (len(differences) + added)
    return float(min(1.0, 2.0 * share))


def mcnemar_p_value(before: Scores, after: Scores) -> float | None:
    """Return the exact two-sided p-value of McNemar's test; None unless rows are right or wrong.

    Of the rows that only one model gets right, either model should have half if the two were equal:
    an exact binomial test (McNemar 1947; Dietterich 1998 for classifiers). A cluster counts as one
    row: it speaks for the model with more right rows in it.
    """
    metric = metric_named(after.metric)
    if not metric.per_example:
        return None
    old_values, new_values = before.per_example[metric.name], after.per_example[metric.name]
    if not np.isin([old_values, new_values], (0.0, 1.0)).all():
        return None

    net_change = np.bincount(cluster_index(after), weights=new_values - old_values)
    gained, lost = int((net_change > 0).sum()), int((net_change < 0).sum())
    return 1.0 if gained + lost == 0 else float(binomtest(gained, gained + lost).pvalue)


def cohens_d(differences: Floats) -> float | None:
    """Return the mean of paired differences in units of their standard deviation.

    Cohen's d for paired samples, d_z (Cohen 1988; Lakens 2013,
    https://doi.org/10.3389/fpsyg.2013.00863): 0.2 is small, 0.5 medium and 0.8 large. None if it is
    undefined, because the differences are all equal or there is only one.
    """
    if len(differences) < 2:
        return None
    deviation = float(differences.std(ddof=1))
    # Rounding leaves equal differences a deviation near 0; dividing by it would give anything.
    if deviation <= _ROUNDING * float(np.abs(differences).max()):
        return None
    return float(differences.mean() / deviation)


def bonferroni_confidence(confidence: float, intervals: float) -> float:
    """Return the confidence that each of several intervals needs to hold together with the others.

    Bonferroni's correction, 1 - (1 - confidence) / intervals.

    Args:
        confidence: Confidence with which all intervals hold together.
        intervals: Number of intervals; an interval that shares only some of its rows with the
            others counts by that share.
    """
    return 1.0 - (1.0 - confidence) / intervals


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by Holm's step-down method (1979).

    The k-th smallest of n is multiplied by n - k + 1, and none becomes smaller than one before it.
    The probability of any false claim then stays below the level, however the tests are related.
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    factors = len(values) - np.arange(len(values))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1.0)
    return list(map(float, adjusted))


@dataclass(frozen=True, kw_only=True)
class RankTest:
    """Three or more models ranked on each cluster of test rows.

    Attributes:
        mean_ranks: Mean rank of each model; 1 is best.
        p_value: Of Friedman's test that all models are equal.
        critical_difference: Difference of mean ranks from which two models differ (Nemenyi's test).
    """

    mean_ranks: tuple[float, ...]
    p_value: float
    critical_difference: float


def rank_test(values: Floats, confidence: float) -> RankTest:
    """Test by their ranks whether several models differ (Friedman 1937), and which (Nemenyi 1963).

    The tests that Demsar recommends for comparisons of several models (2006,
    https://jmlr.org/papers/v7/demsar06a.html), with clusters of test rows in place of data sets.
    Models that tie on a cluster share the mean of their ranks.

    Args:
        values: Value of each model on each cluster, [models, clusters]; higher is better. At least
            three models.
        confidence: 1 minus the level of Nemenyi's test.
    """
    models, clusters = values.shape
    mean_ranks = rankdata(-values, axis=0).mean(axis=1)
    # On ties alone, Friedman's statistic is 0 / 0.
    all_tie = bool((values == values[0]).all())
    p_value = 1.0 if all_tie else float(friedmanchisquare(*values).pvalue)

    # Of infinitely many degrees of freedom, as the ranks' variance is known.
    quantile = studentized_range.ppf(confidence, models, np.inf) / np.sqrt(2.0)
    critical_difference = quantile * np.sqrt(models * (models + 1) / (6.0 * clusters))
    return RankTest(
        mean_ranks=tuple(map(float, mean_ranks)),
        p_value=p_value,
        critical_difference=float(critical_difference),
    )
