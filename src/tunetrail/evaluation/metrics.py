"""The table of all metrics, one record each."""

import functools
import math
import re
from collections.abc import Iterable

import numpy as np

from tunetrail.errors import ConfigError
from tunetrail.evaluation.chrf import CHRF
from tunetrail.evaluation.metric import (
    ExampleMetric,
    Floats,
    Metric,
    Values,
    known_columns,
    mean_metric,
    mean_of_known,
    ratio,
    ratio_metric,
    ratio_or_nan,
    share_metric,
    sums_metric,
)
from tunetrail.evaluation.pair_metrics import PAIR_METRICS
from tunetrail.extensions import METRICS as INSTALLED_METRICS

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

TIE = 1e-6
"""Cosines that differ by less are equal: rounding must not order documents."""

# exp(709) is near the largest double: JSON and MLflow's plots can't hold infinity.
_LARGEST_EXPONENT = 709.0


def metric_named(name: str) -> Metric:
    """Return the metric of that name; raises `ConfigError` if none is installed."""
    if not is_metric(name):
        # Such as that of a run that somebody with a package of their own has made.
        raise ConfigError(
            f"metric must be one of {', '.join(METRICS)} or of an installed package, got {name!r}. "
            "Install the package that has it."
        )
    if _is_built_in(name):
        return METRICS.get(name) or _ranking_metric(name)
    installed: ExampleMetric = INSTALLED_METRICS.load(name)
    return installed.metric


def is_metric(name: str) -> bool:
    """Tell whether there is a metric of that name, such as `ndcg_at_K` with any K from 1."""
    return _is_built_in(name) or name in INSTALLED_METRICS.names()


def is_reserved(name: str) -> bool:
    """Tell whether an installed package's metric can't have the name."""
    # Its values of the examples would take the place of ours.
    return _is_built_in(name) or any(name in metric.reads for metric in METRICS.values())


def answer_metrics_of(names: Iterable[str]) -> list[str]:
    """Return the metrics among the names that are computed of written answers."""
    installed = INSTALLED_METRICS.names()
    return [
        name
        for name in names
        if name in ANSWER_METRICS or (name in installed and INSTALLED_METRICS.load(name).of_answer)
    ]


def _is_built_in(name: str) -> bool:
    return name in METRICS or _RANKING_NAME.fullmatch(name) is not None


@functools.cache
def _ranking_metric(name: str) -> Metric:
    """Return the metric of a ranking that `name` names, such as `recall_at_5`."""
    measure, _, cutoff = name.rpartition("_at_")
    # Only nDCG is divided by what the best ranking has: precision@10 of one right document is 0.1.
    best = 1.0 if measure == "ndcg" else None
    label = f"{_RANKING_LABELS[measure]}@{cutoff}"
    return share_metric(name, label, best=best, best_is_known=measure != "precision")


def _answer_metric(name: str, label: str) -> Metric:
    """Return a metric that is the mean over the examples for which an answer was written.

    The others have NaN as their value.
    """
    return mean_of_known(name, label, ratio=known_columns(name))


def _bits_per_unit(sums: Floats) -> Floats:
    nats, units = sums
    # A resample of verdicts may hold no accepted answer.
    return ratio_or_nan(np.stack([nats / math.log(2.0), units]))


def _perplexity(sums: Floats) -> Floats:
    # math.exp, since numpy's may differ in the last digit.
    exponents = np.minimum(ratio(sums), _LARGEST_EXPONENT)
    return np.array(list(map(math.exp, exponents)))


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
    ranks: Floats = np.exp(ratio(sums))
    return ranks


def _log_rank_columns(values: Values) -> Floats:
    log_ranks = values["log_effective_rank"]
    return np.stack([np.nan_to_num(log_ranks), ~np.isnan(log_ranks)])


# Labels of the measures of a ranking, each of which has any cutoff: `ndcg_at_10` is nDCG@10.
_RANKING_LABELS = {
    "ndcg": "nDCG",
    "mrr": "MRR",
    "map": "MAP",
    "recall": "recall",
    "precision": "precision",
}
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
    share_metric("knn_accuracy", "k-NN accuracy"),
    share_metric("probe_accuracy", "linear-probe accuracy"),
    ratio_metric(
        "triplet_hits",
        "triplets",
        ratio_or_nan,
        name="triplet_accuracy",
        label="triplet accuracy",
        higher_is_better=True,
        per_example=False,
        weight=None,
        ratio=_triplet_columns,
    ),
    *PAIR_METRICS,
    mean_metric("alignment", "alignment", higher_is_better=False),
    sums_metric(
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
    sums_metric(
        _log_rank_columns,
        _effective_rank,
        name="effective_rank",
        label="effective rank",
        reads=("log_effective_rank",),
        per_example=False,
        # It grows with the rows: 100 examples can't use more than 100 dimensions.
        has_interval=False,
    ),
    mean_metric("cosine_to_target", "cosine", best=1.0),
    mean_metric("mse", "MSE", higher_is_better=False),
    ratio_metric("nats", "bytes", _bits_per_unit, name="bits_per_byte", label="bits/byte"),
    ratio_metric(
        "text_nats", "bytes", _bits_per_unit, name="bits_per_byte_text", label="bits/byte of text"
    ),
    ratio_metric("nats", "tokens", ratio, name="loss", label="nats/token", per_example=False),
    ratio_metric(
        "nats", "tokens", _perplexity, name="perplexity", label="perplexity", per_example=False
    ),
    ratio_metric(
        "hits",
        "tokens",
        ratio,
        name="token_accuracy",
        label="token accuracy",
        higher_is_better=True,
    ),
    *(_answer_metric(name, label) for name, label in ANSWER_METRICS.items() if name != "chrf"),
    CHRF,
    share_metric("preference_accuracy", "preference accuracy", best=1.0),
    mean_metric("preference_margin", "preference margin"),
    share_metric("reward_accuracy", "reward accuracy", best=1.0),
)

METRICS = {metric.name: metric for metric in _ALL}
"""The metrics by name."""
