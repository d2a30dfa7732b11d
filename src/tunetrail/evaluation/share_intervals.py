"""Intervals of shares: Wilson's score interval, for independent examples and for clusters."""

from typing import NamedTuple

import numpy as np

from tunetrail.evaluation.metric import Array, Floats

# Differences of shares that come from rounding.
_ROUNDING = 1e-12


class Interval(NamedTuple):
    """The bounds of a metric."""

    lower: float
    upper: float


def share_interval(share: float, examples: float, quantile: float) -> Interval:
    """Return the Wilson score interval of a share, within 0 and 1.

    Unlike the normal interval, it holds its level near 0 and 1 and with few examples (Brown, Cai
    and DasGupta 2001, https://doi.org/10.1214/ss/1009213286).

    Args:
        share: The share, from 0 to 1.
        examples: Number of independent examples, or of as many as tell the same.
        quantile: How many standard errors the interval reaches to each side.
    """
    shrinkage = quantile**2 / examples
    center = (share + shrinkage / 2.0) / (1.0 + shrinkage)
    variance = share * (1.0 - share) / examples + shrinkage / (4.0 * examples)
    reach = quantile * np.sqrt(variance) / (1.0 + shrinkage)
    # The bounds of 0 and of 1 are 0 and 1, which rounding may miss.
    lower = 0.0 if share <= 0.0 else float(center - reach)
    upper = 1.0 if share >= 1.0 else float(center + reach)
    return Interval(lower, upper)


def clustered_share_interval(
    numerators: Floats,
    denominators: Floats,
    cluster_of: Array,
    confidence: float,
    *,
    largest: float = 1.0,
    optimism: float = 0.0,
) -> Interval | None:
    """Return the interval of a ratio of sums between 0 and 1, such as a mean of such values.

    Wilson's interval for as many examples as would have the variance that the clusters show
    (p (1 - p) / variance; Korn and Graubard 1998, Survey Methodology 24), with Student's quantile
    of the clusters. So the same formula serves values that are right or wrong, values in between,
    whose variance is smaller, and rows of one group, whose variance is larger (compared with other
    intervals by Dean and Pagano 2015, https://doi.org/10.1093/jssam/smv024).

    Args:
        numerators: What is counted, [examples].
        denominators: Out of how many, [examples]; 0 for an example that doesn't count.
        cluster_of: The cluster of each example, as an index.
        confidence: Coverage of the interval.
        largest: The highest value that an example can have.
        optimism: How much the ratio is too high, to be subtracted.

    Returns:
        None if all examples have the same value, and it is neither 0 nor the highest; or if they
        are one cluster, which doesn't show how clusters differ.
    """
    from scipy.stats import norm, t

    tail = (1.0 - confidence) / 2.0
    scaled, total = numerators / largest, float(denominators.sum())
    share = float(scaled.sum()) / total
    center = max(share - optimism / largest, 0.0)

    clusters = int(cluster_of.max()) + 1
    independent = effective_clusters(denominators, cluster_of)
    quantile = float(t.isf(tail, independent - 1.0))

    is_right_or_wrong = np.isin(scaled, (0.0, 1.0)).all() and (denominators == 1.0).all()
    if is_right_or_wrong and clusters == len(scaled):
        # The variance follows from the share, so that the quantile needs no degrees of freedom.
        lower, upper = share_interval(center, total, float(norm.isf(tail)))
        return Interval(largest * lower, largest * upper)
    if clusters == 1:
        return None

    # A ratio moves by its residuals, to first order.
    cluster_residuals = np.bincount(cluster_of, weights=scaled - share * denominators)
    variance = clusters / (clusters - 1.0) * float((cluster_residuals**2).sum()) / total**2
    if variance > _ROUNDING**2:
        examples = share * (1.0 - share) / variance
    elif min(share, 1.0 - share) < _ROUNDING:
        examples = independent
    else:
        return None

    lower, upper = share_interval(center, examples, quantile)
    return Interval(largest * lower, largest * upper)


def effective_clusters(weights: Array | None, cluster_of: Array) -> float:
    """Return how many clusters of equal weight would tell as much: (sum w)^2 / sum w^2 (Kish 1965).

    Of 30 texts, the longer ones decide a ratio of sums: with as many degrees of freedom as texts,
    its interval would be too narrow.
    """
    cluster_weights = np.bincount(cluster_of, weights=weights).astype(np.float64)
    # At least two, as one alone would have no degree of freedom.
    return max(float(cluster_weights.sum() ** 2 / (cluster_weights**2).sum()), 2.0)
