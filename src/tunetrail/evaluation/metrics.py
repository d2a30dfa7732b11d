"""The metrics, one record each: name, label, direction, and the formula.

A formula works on resamples of the examples, so that a metric is computed on all examples and on a
bootstrap's resamples by the same code. Most metrics are functions of sums over the examples: a
resample is then a row of counts, and thousands of them take one matrix product.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import starmap
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from tunetrail.evaluation.resampled_ranks import rank_moments

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Values = Mapping[str, Array]
"""Per-example values by name, each [examples]."""
Statistic = Callable[[Values, Array], Floats]
"""Takes values [examples] by name and indices [resamples, examples]; returns [resamples]."""
CountStatistic = Callable[[Floats], Floats]
"""Takes how often each cluster was drawn, [resamples, clusters]; returns [resamples]."""
Resampler = Callable[[Values, Array], CountStatistic]
"""Takes values [examples] by name and the cluster of each example, [examples], as an index."""

ANSWER_METRICS = {
    "exact_match": "exact match",
    "rouge_l": "ROUGE-L",
    "chrf": "chrF",
    "pattern_match": "pattern match",
    "schema_match": "schema match",
}
"""The labels of the metrics of written answers, by name."""

_LARGEST_EXPONENT = 709.0
"""exp(709) is near the largest double: JSON and MLflow's plots can't hold infinity."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A metric of a model on a set of examples.

    Attributes:
        name: Its name in results and in MLflow.
        label: Its name for people.
        reads: Names of the per-example values that it depends on.
        statistic: Its formula, for resamples given as indices.
        resampler: Its formula, for resamples of whole clusters given as counts.
        higher_is_better: Its direction.
        per_example: Whether it has a value for each example, under its name.
        weight: Name of the values by which examples weigh more or less; None if they weigh the
            same.
        best: The best value that there is, also of a single example; None if there is none.
    """

    name: str
    label: str
    reads: tuple[str, ...]
    statistic: Statistic
    resampler: Resampler
    higher_is_better: bool = True
    per_example: bool = True
    weight: str | None = None
    best: float | None = None


def metric_named(name: str) -> Metric:
    """Return the metric of that name; raises `ValueError` if there is none."""
    if name not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {name!r}.")
    return METRICS[name]


def _sums_resampler(
    columns: Callable[[Values], Floats], formula: Callable[[Floats], Floats]
) -> Resampler:
    """Return the resampler of a metric that depends on sums over the examples only.

    Args:
        columns: Returns what is summed, [columns, examples].
        formula: Takes the sums, [columns, resamples]; returns [resamples].
    """

    def resampler(values: Values, cluster_of: Array) -> CountStatistic:
        # Once for all resamples: a cluster drawn twice adds its sums twice.
        cluster_sums = np.stack(
            [np.bincount(cluster_of, weights=column) for column in columns(values)], axis=1
        )
        return lambda counts: formula((counts @ cluster_sums).T)

    return resampler


def _sums_metric(
    columns: Callable[[Values], Floats], formula: Callable[[Floats], Floats], **fields: Any
) -> Metric:
    """Return a metric that depends on sums over the examples only."""

    def statistic(values: Values, indices: Array) -> Floats:
        return formula(columns(values)[:, indices].sum(axis=-1))

    return Metric(statistic=statistic, resampler=_sums_resampler(columns, formula), **fields)


def _mean_metric(name: str, label: str, **fields: Any) -> Metric:
    """Return a metric that is the mean of its per-example values."""

    def columns(values: Values) -> Floats:
        column = values[name].astype(np.float64)
        return np.stack([column, np.ones_like(column)])

    return _sums_metric(columns, _ratio, name=name, label=label, reads=(name,), **fields)


def _answer_metric(name: str, label: str) -> Metric:
    """Return a metric that is the mean over the examples for which an answer was written.

    The others have NaN as their value.
    """

    def columns(values: Values) -> Floats:
        column = values[name].astype(np.float64)
        return np.stack([np.nan_to_num(column), ~np.isnan(column)])

    return _sums_metric(columns, _ratio_or_nan, name=name, label=label, reads=(name,))


def _ratio_metric(
    numerator: str, denominator: str, formula: Callable[[Floats], Floats], **fields: Any
) -> Metric:
    """Return a metric that is a ratio of sums, not a mean of ratios.

    Each unit of the denominator, such as a byte, counts the same, however long its text.
    """

    def columns(values: Values) -> Floats:
        return np.stack([values[numerator], values[denominator]]).astype(np.float64)

    reads = (numerator, denominator)
    fields = {"higher_is_better": False, "weight": denominator, **fields}
    return _sums_metric(columns, formula, reads=reads, **fields)


def _ratio(sums: Floats) -> Floats:
    numerators, denominators = sums
    ratios: Floats = numerators / denominators
    return ratios


def _ratio_or_nan(sums: Floats) -> Floats:
    """Return the ratios; NaN for a resample without anything to divide by."""
    numerators, denominators = sums
    unknown = np.full_like(numerators, np.nan)
    ratios: Floats = np.divide(numerators, denominators, out=unknown, where=denominators > 0)
    return ratios


def _bits_per_unit(sums: Floats) -> Floats:
    nats, units = sums
    bits: Floats = nats / math.log(2.0) / units
    return bits


def _perplexity(sums: Floats) -> Floats:
    # math.exp, since numpy's may differ in the last digit.
    exponents = np.minimum(_ratio(sums), _LARGEST_EXPONENT)
    return np.array(list(map(math.exp, exponents)))


def _spearman(values: Values, indices: Array) -> Floats:
    cosine_ranks = rankdata(values["cosine"][indices], axis=1)
    gold_ranks = rankdata(values["gold"][indices], axis=1)
    return _correlation(cosine_ranks, gold_ranks)


def _spearman_resampler(values: Values, cluster_of: Array) -> CountStatistic:
    """Return Spearman's correlation as a function of counts, without sorting each resample."""
    moments = rank_moments(values["cosine"], values["gold"], cluster_of)

    def spearman(counts: Floats) -> Floats:
        products, cosine_squares, gold_squares = moments(counts)
        # Two roots: the product of both sums overflows the digits of a float.
        return _quotient(products, np.sqrt(cosine_squares) * np.sqrt(gold_squares))

    return spearman


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


_PAIRS = ("cosine", "gold")

_ALL = (
    _mean_metric("ndcg_at_10", "nDCG@10", best=1.0),
    _mean_metric("mrr_at_10", "MRR@10"),
    _mean_metric("recall_at_1", "recall@1"),
    _mean_metric("recall_at_5", "recall@5"),
    _mean_metric("recall_at_10", "recall@10"),
    _mean_metric("knn_accuracy", "k-NN accuracy"),
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
        resampler=_sums_resampler(_pearson_columns, _pearson_of_sums),
        per_example=False,
    ),
    _mean_metric("cosine_to_target", "cosine", best=1.0),
    _mean_metric("mse", "MSE", higher_is_better=False),
    _ratio_metric("nats", "bytes", _bits_per_unit, name="bits_per_byte", label="bits/byte"),
    _ratio_metric(
        "text_nats", "bytes", _bits_per_unit, name="bits_per_byte_text", label="bits/byte of text"
    ),
    _ratio_metric("nats", "tokens", _ratio, name="loss", label="nats/token", per_example=False),
    _ratio_metric(
        "nats", "tokens", _perplexity, name="perplexity", label="perplexity", per_example=False
    ),
    _ratio_metric(
        "hits",
        "tokens",
        _ratio,
        name="token_accuracy",
        label="token accuracy",
        higher_is_better=True,
    ),
    *starmap(_answer_metric, ANSWER_METRICS.items()),
    _mean_metric("preference_accuracy", "preference accuracy", best=1.0),
    _mean_metric("preference_margin", "preference margin"),
)

METRICS = {metric.name: metric for metric in _ALL}
"""The metrics by name."""
