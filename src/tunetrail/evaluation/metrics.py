"""The metrics, one record each: name, label, direction, and the formula.

A formula takes the per-example values and resamples of the examples, so that a metric is computed
on all examples and on a bootstrap's resamples by the same code.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Statistic = Callable[[Mapping[str, Array], Array], Floats]
"""Takes values [examples] by name and indices [resamples, examples]; returns [resamples]."""

_LARGEST_EXPONENT = 709.0
"""exp(709) is near the largest double: JSON and MLflow's plots can't hold infinity."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A metric of a model on a set of examples.

    Attributes:
        name: Its name in results and in MLflow.
        label: Its name for people.
        higher_is_better: Its direction.
        statistic: Its formula.
        per_example: Whether it has a value for each example, under its name.
    """

    name: str
    label: str
    statistic: Statistic
    higher_is_better: bool = True
    per_example: bool = True


def metric_named(name: str) -> Metric:
    """Return the metric of that name; raises `ValueError` if there is none."""
    if name not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {name!r}.")
    return METRICS[name]


def _mean_metric(name: str, label: str, *, higher_is_better: bool = True) -> Metric:
    """Return a metric that is the mean of its per-example values."""

    def mean(per_example: Mapping[str, Array], indices: Array) -> Floats:
        means: Floats = per_example[name][indices].mean(axis=1)
        return means

    return Metric(name=name, label=label, statistic=mean, higher_is_better=higher_is_better)


def _spearman(per_example: Mapping[str, Array], indices: Array) -> Floats:
    cosine_ranks = rankdata(per_example["cosine"][indices], axis=1)
    gold_ranks = rankdata(per_example["gold"][indices], axis=1)
    return _correlation(cosine_ranks, gold_ranks)


def _pearson(per_example: Mapping[str, Array], indices: Array) -> Floats:
    return _correlation(per_example["cosine"][indices], per_example["gold"][indices])


def _correlation(first: Array, second: Array) -> Floats:
    """Return Pearson's correlation of each row, [rows]; 0 if a side is constant."""
    first = first - first.mean(axis=1, keepdims=True)
    second = second - second.mean(axis=1, keepdims=True)
    spread = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))

    # Rounding leaves a constant side a spread near 0; dividing by it would give anything.
    constant = spread < 1e-12
    correlation: Floats = (first * second).sum(axis=1) / np.where(constant, 1.0, spread)
    return np.where(constant, 0.0, correlation)


def _bits_per_byte(per_example: Mapping[str, Array], indices: Array) -> Floats:
    # A ratio of sums, not a mean of ratios: each byte counts the same, however long its text.
    bits: Floats = per_example["nats"][indices].sum(axis=1) / math.log(2.0)
    text_bytes: Floats = per_example["bytes"][indices].sum(axis=1)
    return bits / text_bytes


def _nats_per_token(per_example: Mapping[str, Array], indices: Array) -> Floats:
    nats: Floats = per_example["nats"][indices].sum(axis=1)
    tokens: Floats = per_example["tokens"][indices].sum(axis=1)
    return nats / tokens


def _perplexity(per_example: Mapping[str, Array], indices: Array) -> Floats:
    # math.exp, since numpy's may differ in the last digit.
    exponents = np.minimum(_nats_per_token(per_example, indices), _LARGEST_EXPONENT)
    return np.array(list(map(math.exp, exponents)))


_ALL = (
    _mean_metric("ndcg_at_10", "nDCG@10"),
    _mean_metric("mrr_at_10", "MRR@10"),
    _mean_metric("recall_at_1", "recall@1"),
    _mean_metric("recall_at_5", "recall@5"),
    _mean_metric("recall_at_10", "recall@10"),
    _mean_metric("knn_accuracy", "k-NN accuracy"),
    # A correlation belongs to a set of pairs: a single pair has none.
    Metric(name="spearman", label="Spearman", statistic=_spearman, per_example=False),
    Metric(name="pearson", label="Pearson", statistic=_pearson, per_example=False),
    _mean_metric("cosine_to_target", "cosine"),
    _mean_metric("mse", "MSE", higher_is_better=False),
    Metric(
        name="bits_per_byte", label="bits/byte", statistic=_bits_per_byte, higher_is_better=False
    ),
    Metric(
        name="loss",
        label="nats/token",
        statistic=_nats_per_token,
        higher_is_better=False,
        per_example=False,
    ),
    Metric(
        name="perplexity",
        label="perplexity",
        statistic=_perplexity,
        higher_is_better=False,
        per_example=False,
    ),
    _mean_metric("preference_accuracy", "preference accuracy"),
    _mean_metric("preference_margin", "preference margin"),
)

METRICS = {metric.name: metric for metric in _ALL}
"""The metrics by name."""
