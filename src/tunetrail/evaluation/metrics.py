"""The metrics, one record each: name, label, direction, and the formula.

A formula works on resamples of the examples, so that a metric is computed on all examples and on a
bootstrap's resamples by the same code. Most metrics are functions of sums over the examples: a
resample is then a row of counts, and thousands of them take one matrix product.
"""

import functools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score

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

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Values = Mapping[str, Array]
"""Per-example values by name, each [examples]."""
Statistic = Callable[[Values, Array], Floats]
"""Takes values [examples] by name and indices [resamples, examples]; returns [resamples]."""
CountStatistic = Callable[[Floats], Floats]
"""Takes how often each cluster was drawn, [resamples, clusters]; returns [resamples]."""
Columns = Callable[[Values], Floats]
"""Takes values [examples] by name; returns what a metric sums over them, [sums, examples]."""
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

ANSWER_SHARES = ("exact_match", "pattern_match", "schema_match")
"""Those for which an answer is right or wrong."""

CHRF_ORDER = 6
"""Length of the longest n-grams of characters that chrF counts, as in sacrebleu."""
CHRF_MATCHES = tuple(f"chrf_matches_{length}" for length in range(1, CHRF_ORDER + 1))
"""Names of per-example values: the n-grams of each length that an answer shares with the true one.
`written_characters` and `expected_characters` are the lengths of both without white space."""
_CHRF_COUNTS = ("written_characters", "expected_characters", *CHRF_MATCHES)
_CHRF_BETA = 2.0

TIE = 1e-6
"""Cosines that differ by less are equal: rounding must not order documents."""

_MANY_PAIRS = 5_000
"""Pairs above which resamples of average precision and Spearman are computed to first order."""
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
        ratio: For a ratio of sums from 0 to 1, such as the mean of such values: returns what is
            summed, numerators and denominators [2, examples]; None for other metrics.
        best_is_known: Whether the best value of an example is 1. If not, it is the best that
            occurs: a query with one right document has a precision@10 of at most 0.1.
        has_interval: Whether an interval can hold its true value.
        of_classes: Whether it says how well positive pairs are told from negative ones.
        optimism: How much a choice by the examples themselves flatters it, for resamples of whole
            clusters; None if nothing is chosen.
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
    ratio: Columns | None = None
    best_is_known: bool = True
    has_interval: bool = True
    of_classes: bool = False
    optimism: Resampler | None = None


def metric_named(name: str) -> Metric:
    """Return the metric of that name; raises `ValueError` if there is none."""
    if not is_metric(name):
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {name!r}.")
    return METRICS.get(name) or _ranking_metric(name)


def is_metric(name: str) -> bool:
    """Tell whether there is a metric of that name, such as `ndcg_at_K` with any K from 1."""
    return name in METRICS or _RANKING_NAME.fullmatch(name) is not None


def _sums_resampler(columns: Columns, formula: Callable[[Floats], Floats]) -> Resampler:
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


def _sums_metric(columns: Columns, formula: Callable[[Floats], Floats], **fields: Any) -> Metric:
    """Return a metric that depends on sums over the examples only."""

    def statistic(values: Values, indices: Array) -> Floats:
        return formula(columns(values)[:, indices].sum(axis=-1))

    return Metric(statistic=statistic, resampler=_sums_resampler(columns, formula), **fields)


def _share_metric(name: str, label: str, **fields: Any) -> Metric:
    """Return a metric that is the mean of per-example values from 0 to 1."""
    return _mean_metric(name, label, ratio=_mean_columns(name), **fields)


@functools.cache
def _ranking_metric(name: str) -> Metric:
    """Return the metric of a ranking that `name` names, such as `recall_at_5`."""
    measure, _, cutoff = name.rpartition("_at_")
    # Only nDCG is divided by what the best ranking has: precision@10 of one right document is 0.1.
    best = 1.0 if measure == "ndcg" else None
    label = f"{_RANKING_LABELS[measure]}@{cutoff}"
    return _share_metric(name, label, best=best, best_is_known=measure != "precision")


def _mean_metric(name: str, label: str, **fields: Any) -> Metric:
    """Return a metric that is the mean of its per-example values."""
    columns = _mean_columns(name)
    return _sums_metric(columns, _ratio, name=name, label=label, reads=(name,), **fields)


def _mean_columns(name: str) -> Columns:
    """Return the sums whose ratio is the mean of per-example values."""

    def columns(values: Values) -> Floats:
        column = values[name].astype(np.float64)
        return np.stack([column, np.ones_like(column)])

    return columns


def _answer_metric(name: str, label: str) -> Metric:
    """Return a metric that is the mean over the examples for which an answer was written.

    The others have NaN as their value.
    """

    def columns(values: Values) -> Floats:
        column = values[name].astype(np.float64)
        return np.stack([np.nan_to_num(column), ~np.isnan(column)])

    fields = {"name": name, "label": label, "reads": (name,), "ratio": columns}
    return _sums_metric(columns, _ratio_or_nan, **fields)


def _chrf_columns(values: Values) -> Floats:
    """Return n-grams written, expected and shared by length, and 1 for each answer."""
    written, expected, *matches = (
        np.nan_to_num(values[name].astype(np.float64)) for name in _CHRF_COUNTS
    )
    columns = [~np.isnan(values["written_characters"].astype(np.float64))]
    for length, shared in enumerate(matches, start=1):
        # As sacrebleu counts: n-grams that the true answer is too short for can't be wrong.
        possible = np.where(expected >= length, written, 0.0)
        columns += [np.maximum(possible - length + 1, 0.0)]
        columns += [np.maximum(expected - length + 1, 0.0), shared]
    return np.stack(columns).astype(np.float64)


def _chrf_of_sums(sums: Floats) -> Floats:
    """Return chrF of all answers together: F2 of the mean precision and recall over the lengths."""
    answers, counts = sums[0], sums[1:].reshape(CHRF_ORDER, 3, -1)
    written, expected, shared = counts.swapaxes(0, 1)
    # A length that no answer reaches has neither precision nor recall.
    is_counted = (written > 0) & (expected > 0)
    zeros = np.zeros_like(shared)
    precision = np.divide(shared, written, out=zeros.copy(), where=is_counted).sum(axis=0)
    recall = np.divide(shared, expected, out=zeros, where=is_counted).sum(axis=0)

    lengths = np.maximum(is_counted.sum(axis=0), 1)
    factor = _CHRF_BETA**2
    numerators = (1.0 + factor) * precision * recall / lengths
    denominators = factor * precision + recall
    scores = np.divide(
        numerators, denominators, out=np.zeros_like(numerators), where=denominators > 0
    )
    return np.where(answers > 0, scores, np.nan)


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
    # A resample of verdicts may hold no accepted answer.
    return _ratio_or_nan(np.stack([nats / math.log(2.0), units]))


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
    # To first order, which is exact enough for many pairs, and no ranks for each resample.
    if len(cluster_of) > _MANY_PAIRS:
        return _sums_resampler(_spearman_columns, _spearman_of_sums)(values, cluster_of)
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
    gold, cosine = values["gold"], values["cosine"]
    precisions = [average_precision_score(gold[chosen], cosine[chosen]) for chosen in indices]
    return np.array(precisions)


def _average_precision_resampler(values: Values, cluster_of: Array) -> CountStatistic:
    # To first order, which is exact enough for many pairs, and no sum over all thresholds.
    if len(cluster_of) > _MANY_PAIRS:
        return _sums_resampler(_average_precision_columns, _ratio)(values, cluster_of)
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


def _triplet_columns(values: Values) -> Floats:
    return np.stack([values["triplet_hits"], values["triplets"]]).astype(np.float64)


def _uniformity_columns(values: Values) -> Floats:
    potentials = values["gaussian_potential"]
    is_sampled = ~np.isnan(potentials)
    means = is_sampled * np.nanmean(potentials)
    return np.stack([np.nan_to_num(potentials), is_sampled, means])


def _uniformity_of_sums(sums: Floats) -> Floats:
    """Return the logarithm of the mean potential of two examples, of resamples to first order."""
    # A pair changes with both of its examples, so a resample is twice as far from the mean of all
    # examples as its own mean of potentials with all of these is.
    potentials, counts, means = sums
    uniformities: Floats = 2.0 * np.log(potentials / counts) - np.log(means / counts)
    return uniformities


def _effective_rank(sums: Floats) -> Floats:
    ranks: Floats = np.exp(_ratio(sums))
    return ranks


def _log_rank_columns(values: Values) -> Floats:
    log_ranks = values["log_effective_rank"]
    return np.stack([np.nan_to_num(log_ranks), ~np.isnan(log_ranks)])


_PAIRS = ("cosine", "gold")

_RANKING_LABELS = {
    "ndcg": "nDCG",
    "mrr": "MRR",
    "map": "MAP",
    "recall": "recall",
    "precision": "precision",
}
"""Labels of the measures of a ranking, each of which has any cutoff: `ndcg_at_10` is nDCG@10."""
_RANKING_NAME = re.compile(rf"({'|'.join(_RANKING_LABELS)})_at_[1-9][0-9]*")

CUTOFFS = (1, 5, 10)
"""Numbers of first documents that rankings are scored by."""
_RANKING_METRICS = [
    _ranking_metric(f"{measure}_at_{cutoff}")
    for measure in _RANKING_LABELS
    for cutoff in sorted(CUTOFFS, reverse=True)
]

_ALL = (
    *_RANKING_METRICS,
    _share_metric("knn_accuracy", "k-NN accuracy"),
    _share_metric("probe_accuracy", "linear-probe accuracy"),
    _ratio_metric(
        "triplet_hits",
        "triplets",
        _ratio_or_nan,
        name="triplet_accuracy",
        label="triplet accuracy",
        higher_is_better=True,
        per_example=False,
        weight=None,
        ratio=_triplet_columns,
    ),
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
    Metric(
        name="average_precision",
        label="average precision",
        reads=_PAIRS,
        statistic=_average_precision,
        resampler=_average_precision_resampler,
        per_example=False,
        of_classes=True,
    ),
    _sums_metric(
        _best_f1_columns,
        _ratio_or_nan,
        name="best_f1",
        label="best F1",
        reads=_PAIRS,
        per_example=False,
        ratio=_best_f1_columns,
        of_classes=True,
        optimism=_optimism_resampler(f1_of_counts),
    ),
    _share_metric(
        "best_accuracy",
        "best accuracy",
        of_classes=True,
        optimism=_optimism_resampler(accuracy_of_counts),
    ),
    _mean_metric("alignment", "alignment", higher_is_better=False),
    _sums_metric(
        _uniformity_columns,
        _uniformity_of_sums,
        name="uniformity",
        label="uniformity",
        reads=("gaussian_potential",),
        higher_is_better=False,
        per_example=False,
        # Vectors that are spread evenly make it a degenerate U-statistic: its first-order variance
        # is 0, resamples overstate its spread (Arcones and Gine 1992), and the normal law fails.
        has_interval=False,
    ),
    _sums_metric(
        _log_rank_columns,
        _effective_rank,
        name="effective_rank",
        label="effective rank",
        reads=("log_effective_rank",),
        per_example=False,
        # It grows with the rows: 100 examples can't use more than 100 dimensions.
        has_interval=False,
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
    *(_answer_metric(name, label) for name, label in ANSWER_METRICS.items() if name != "chrf"),
    _sums_metric(
        _chrf_columns,
        _chrf_of_sums,
        name="chrf",
        label=ANSWER_METRICS["chrf"],
        weight="expected_characters",
        reads=_CHRF_COUNTS,
    ),
    _share_metric("preference_accuracy", "preference accuracy", best=1.0),
    _mean_metric("preference_margin", "preference margin"),
    _share_metric("reward_accuracy", "reward accuracy", best=1.0),
)

METRICS = {metric.name: metric for metric in _ALL}
"""The metrics by name."""
