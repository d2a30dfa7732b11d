"""Which metrics validation rows give: one chooses the weights, and jobs are compared by them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from tunetrail.config import AUTO, EvaluationConfig
from tunetrail.errors import ConfigError, did_you_mean
from tunetrail.evaluation.further_metrics import FurtherMetric, metrics_of_vectors
from tunetrail.evaluation.language_scores import language_scores, preference_scores, verdict_scores
from tunetrail.evaluation.metrics import answer_metrics_of, metric_named
from tunetrail.evaluation.scoring import distinguishing_metrics, score_embedding
from tunetrail.extensions import METRICS as INSTALLED_METRICS
from tunetrail.learning.tokens.chat import is_judged, is_preference
from tunetrail.learning.tokens.prompts import DOCUMENT, QUERY
from tunetrail.learning.training.monitored import Monitor
from tunetrail.learning.training.records import Encode

Record = Mapping[str, Any]
Monitors = Callable[[str, Sequence[Record], Sequence[Record], EvaluationConfig], Sequence[Monitor]]
"""Takes the shape, the validation records, the records that are ranked in addition, and the
settings of the evaluation; returns what can be monitored, the primary metric first, nothing if the
records are too few."""
MetricNames = Callable[[str, Sequence[Record], EvaluationConfig], Sequence[str]]
"""Takes the shape, two records of it or more, and the settings of the evaluation; returns the names
of the metrics that records of this kind are scored by, the primary one first."""

# Of vectors that are all the same, so that a model that has lost everything would win.
_BEST_WHEN_COLLAPSED = ("alignment",)


def embedding_monitors(
    shape: str, records: Sequence[Record], corpus: Sequence[Record], config: EvaluationConfig
) -> list[Monitor]:
    """Return the metrics of the evaluation, computed on the validation records."""
    metrics = distinguishing_metrics(shape, records, corpus)
    if not metrics:
        return []

    # Metrics of installed packages come last: `auto` takes the first.
    further = [own for own in metrics_of_vectors(config) if shape in own.metric.shapes]
    computed_with: dict[str, Sequence[FurtherMetric]] = dict.fromkeys(metrics, ())
    computed_with |= {own.metric.name: [own] for own in further}

    monitors = []
    for metric, own_metrics in computed_with.items():
        measure = partial(_measure, metric, own_metrics, shape, records, corpus)
        higher = metric_named(metric).higher_is_better
        monitors.append(Monitor(metric=metric, higher_is_better=higher, measure=measure))
    return monitors


def language_model_monitors(
    shape: str, records: Sequence[Record], corpus: Sequence[Record], config: EvaluationConfig
) -> list[Monitor]:
    """Return the metrics that the module of a language model logs in addition to its loss.

    Metrics of written answers are none: writing them takes much longer than a validation.
    """
    if any(map(is_preference, records)):
        accuracies = ("preference_accuracy", "reward_accuracy")
        return [Monitor(metric=name, higher_is_better=True) for name in accuracies]
    if any(map(is_judged, records)):
        rewards = Monitor(metric="reward_accuracy", higher_is_better=True)
        return [Monitor(metric="bits_per_byte"), rewards]
    return [Monitor(metric="bits_per_byte")]


def embedding_metrics(shape: str, records: Sequence[Record], config: EvaluationConfig) -> list[str]:
    """Return the metrics of an embedding model, found by scoring random vectors of the records."""
    generator = np.random.default_rng(0)
    dimensions = len(records[0]["embedding"]) if shape == "vector" else 2

    def encode_randomly(texts: Sequence[str]) -> Any:
        return generator.standard_normal((len(texts), dimensions), dtype=np.float32)

    scores = score_embedding(
        shape,
        records,
        encode_randomly,
        corpus=records,
        cutoffs=config.cutoffs,
        further=metrics_of_vectors(config),
    )
    return list(scores.metrics)


def language_model_metrics(
    shape: str, records: Sequence[Record], config: EvaluationConfig
) -> list[str]:
    """Return the metrics of a language model, found by scoring likelihoods of 1 nat per token."""
    ones = np.ones(2)
    scores = language_scores(ones, ones, ones, ones, ones)
    if any(map(is_preference, records)):
        scores = preference_scores(scores, scores)
    elif any(map(is_judged, records)):
        scores = verdict_scores(scores, np.array([True, False]))
    return list(scores.metrics)


def gate_metric_first(
    metrics: Sequence[str], chosen: str, shape: str, config: EvaluationConfig
) -> list[str]:
    """Return the metrics with the one that the gate decides by in front.

    Args:
        metrics: The metrics of rows, the primary one first.
        chosen: `gate.metric`.
        shape: The shape of the rows.
        config: The settings of the evaluation.

    Raises:
        ConfigError: The rows don't give the chosen metric, or not a value for each of them.
    """
    primary, *further = metrics
    known = [AUTO, primary, *filter(_can_decide, further)]
    if chosen in known:
        return sorted(metrics, key=lambda name: name != chosen)

    way_out = did_you_mean(chosen, known)
    if chosen in INSTALLED_METRICS.names() and chosen not in config.metrics:
        way_out = f" Add it to evaluation.metrics: evaluation.metrics=[{chosen}]."
    elif answer_metrics_of([chosen]):
        way_out = " It is computed of written answers, and not every row has one."
    raise ConfigError(
        f"gate.metric must be a metric that has a value for each {shape} row "
        f"({', '.join(known)}), got {chosen!r}.{way_out}"
    )


def _can_decide(name: str) -> bool:
    """Tell whether a metric can decide: each row has a value that no other row has a part in."""
    metric = metric_named(name)
    return metric.per_example and metric.optimism is None and name not in _BEST_WHEN_COLLAPSED


def choose_monitor(
    monitors: Sequence[Monitor],
    chosen: str,
    model_type: str,
    shape: str,
    rows: int,
) -> Monitor:
    """Return what a training monitors.

    Args:
        monitors: What the validation rows give, the first for `auto`; empty for `val/loss` alone.
        chosen: `training.monitor`.
        model_type: The family's name, for messages.
        shape: The shape of the rows that the model is judged by.
        rows: Number of the validation rows.

    Raises:
        ConfigError: The rows don't give the metric that is asked for.
    """
    by_key = {monitor.key: monitor for monitor in (*monitors, Monitor())}
    if chosen == AUTO:
        return next(iter(by_key.values()))

    if chosen not in by_key:
        raise ConfigError(
            f"{model_type}.training.monitor must be {AUTO} or a metric that the {rows} "
            f"validation rows of the shape {shape} give ({', '.join(by_key)}), got {chosen!r}."
            f"{did_you_mean(chosen, list(by_key))}"
        )
    return by_key[chosen]


def _measure(
    metric: str,
    further: Sequence[FurtherMetric],
    shape: str,
    records: Sequence[Record],
    corpus: Sequence[Record],
    encode: Encode,
) -> float:
    encode_queries, encode_documents = (partial(encode, role=role) for role in (QUERY, DOCUMENT))
    # A validation is made often, so nothing is computed but what it monitors.
    scores = score_embedding(
        shape,
        records,
        encode_queries,
        encode_documents,
        corpus,
        needs=metric.__eq__,
        further=further,
    )
    return scores.metrics[metric]
