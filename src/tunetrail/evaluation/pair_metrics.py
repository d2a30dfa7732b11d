"""Formulas of the metrics of scored pairs: correlations, and how well classes are told apart.

scikit-learn and SciPy are imported by the functions that need them: this module is part of the
metrics' names, which every command reads.
"""

import numpy as np

from tunetrail.evaluation.metric import (
    Array,
    CountStatistic,
    Floats,
    Metric,
    Resampler,
    Values,
    ratio,
    ratio_or_nan,
    share_metric,
    sums_metric,
    sums_resampler,
)
from tunetrail.evaluation.resampled_ranks import rank_moment_shares, rank_moments
from tunetrail.evaluation.thresholds import (
    Goal,
    accuracy_of_counts,
    average_precision_of_counts,
    average_precision_shares,
    best_threshold,
    f1_of_counts,
    optimism_of_counts,
)

# Pairs above which resamples of average precision and Spearman are computed to first order.
_MANY_PAIRS = 5_000


def _spearman(values: Values, indices: Array) -> Floats:
    from scipy.stats import rankdata

    cosine_ranks = rankdata(values["cosine"][indices], axis=1)
    gold_ranks = rankdata(values["gold"][indices], axis=1)
    return _correlation(cosine_ranks, gold_ranks)


def _spearman_resampler(values: Values, cluster_of: Array) -> CountStatistic:
    """Return Spearman's correlation as a function of counts, without sorting each resample."""
    # To first order, which is exact enough for many pairs, and no ranks for each resample.
    if len(cluster_of) > _MANY_PAIRS:
        return sums_resampler(_spearman_columns, _spearman_of_sums)(values, cluster_of)
    moments = rank_moments(values["cosine"], values["gold"], cluster_of)

    def spearman(counts: Floats) -> Floats:
        products, cosine_squares, gold_squares = moments(counts)
        # Two roots: the product of both sums overflows the digits of a float.
        return _quotient(products, np.sqrt(cosine_squares) * np.sqrt(gold_squares))

    return spearman


def _spearman_columns(values: Values) -> Floats:
    shares = rank_moment_shares(values["cosine"], values["gold"])
    return np.concatenate([shares, np.ones_like(shares[:1])])


def _spearman_of_sums(sums: Floats) -> Floats:
    products, cosine_squares, gold_squares, count = sums
    # Rounding may leave a constant side a little below 0.
    spreads = np.sqrt(np.maximum(cosine_squares * gold_squares, 0.0))
    return _quotient(products / count, spreads / count)


def _pearson(values: Values, indices: Array) -> Floats:
    return _correlation(values["cosine"][indices], values["gold"][indices])


def _pearson_columns(values: Values) -> Floats:
    # Centred, so that the differences of sums below lose no digits.
    first, second = (values[name] - values[name].mean() for name in ("cosine", "gold"))
    ones = np.ones_like(first)
    return np.stack([ones, first, second, first**2, second**2, first * second])


def _pearson_of_sums(sums: Floats) -> Floats:
    count, first, second, first_squares, second_squares, products = sums
    first_spread = first_squares - first**2 / count
    second_spread = second_squares - second**2 / count

    # A side that is constant in a resample leaves only rounding.
    first_spread[first_spread < 1e-12 * first_squares] = 0.0
    second_spread[second_spread < 1e-12 * second_squares] = 0.0
    return _quotient(products - first * second / count, np.sqrt(first_spread * second_spread))


def _correlation(first: Array, second: Array) -> Floats:
    """Return Pearson's correlation of each row, [rows]; 0 if a side is constant."""
    first = first - first.mean(axis=1, keepdims=True)
    second = second - second.mean(axis=1, keepdims=True)
    spread = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    return _quotient((first * second).sum(axis=1), spread)


def _quotient(covariances: Floats, spreads: Floats) -> Floats:
    """Return the correlations; 0 if a side is constant."""
    # Rounding leaves a constant side a spread near 0; dividing by it would give anything.
    constant = spreads < 1e-12
    correlations: Floats = covariances / np.where(constant, 1.0, spreads)
    return np.where(constant, 0.0, correlations)


def _average_precision(values: Values, indices: Array) -> Floats:
    from sklearn.metrics import average_precision_score

    gold, cosine = values["gold"], values["cosine"]
    precisions = [average_precision_score(gold[chosen], cosine[chosen]) for chosen in indices]
    return np.array(precisions)


def _average_precision_resampler(values: Values, cluster_of: Array) -> CountStatistic:
    # To first order, which is exact enough for many pairs, and no sum over all thresholds.
    if len(cluster_of) > _MANY_PAIRS:
        return sums_resampler(_average_precision_columns, ratio)(values, cluster_of)
    average_precision = average_precision_of_counts(values["cosine"], values["gold"])
    return lambda counts: average_precision(counts[:, cluster_of])


def _optimism_resampler(goal: Goal) -> Resampler:
    def resampler(values: Values, cluster_of: Array) -> CountStatistic:
        optimism = optimism_of_counts(values["cosine"], values["gold"], goal)
        return lambda counts: optimism(counts[:, cluster_of])

    return resampler


def _average_precision_columns(values: Values) -> Floats:
    shares = average_precision_shares(values["cosine"], values["gold"])
    return np.stack([shares, np.ones_like(shares)])


def _best_f1_columns(values: Values) -> Floats:
    """Return what F1 is a ratio of; the threshold is the best one for all examples."""
    gold = values["gold"]
    threshold = best_threshold(values["cosine"], gold, f1_of_counts)
    predicted = (values["cosine"] >= threshold).astype(np.float64)
    return np.stack([2.0 * gold * predicted, gold + predicted])


_PAIRS = ("cosine", "gold")

PAIR_METRICS = (
    # A correlation belongs to a set of pairs: a single pair has none.
    Metric(
        name="spearman",
        label="Spearman",
        reads=_PAIRS,
        statistic=_spearman,
        resampler=_spearman_resampler,
        per_example=False,
        best=1.0,
    ),
    Metric(
        name="pearson",
        label="Pearson",
        reads=_PAIRS,
        statistic=_pearson,
        resampler=sums_resampler(_pearson_columns, _pearson_of_sums),
        per_example=False,
    ),
    Metric(
        name="average_precision",
        label="average precision",
        reads=_PAIRS,
        statistic=_average_precision,
        resampler=_average_precision_resampler,
        per_example=False,
        of_classes=True,
    ),
    sums_metric(
        _best_f1_columns,
        ratio_or_nan,
        name="best_f1",
        label="best F1",
        reads=_PAIRS,
        per_example=False,
        ratio=_best_f1_columns,
        of_classes=True,
        optimism=_optimism_resampler(f1_of_counts),
    ),
    share_metric(
        "best_accuracy",
        "best accuracy",
        of_classes=True,
        optimism=_optimism_resampler(accuracy_of_counts),
    ),
)
"""The metrics of pairs; `gold` is the score or the class of each, `cosine` the model's."""
