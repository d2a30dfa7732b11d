"""Scores: what a model is worth on held-out examples, with the values of each example.

Takes vectors and likelihoods as NumPy arrays; knows no model and no tensors.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.errors import SampleError, TrainingError
from tunetrail.evaluation.metric import Array, Floats
from tunetrail.evaluation.metrics import metric_named
from tunetrail.evaluation.thresholds import (
    accuracy_of_counts,
    best_threshold,
    f1_of_counts,
    is_binary,
)
from tunetrail.plain_values import NOT_PLAIN, plain_values

UNSHARED_BYTES = "unshared_bytes"
"""Name of per-example values: bytes that only one of two compared models' tokenizers reads, so that
neither model is scored on them. Only there if there are any."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A model's scores on a set of examples.

    Attributes:
        metric: Name of the primary metric, a key of `metrics`.
        metrics: All metrics on all examples.
        per_example: Arrays [examples], in the order of the examples, from which the metrics follow.
        row_ids: The row of each example, if the records name theirs.
        clusters: The cluster of each example, if examples are related (rows of one group).
        documents: Number of documents that the examples ranked; None for metrics without ranking.
        corpus: Fingerprint of these documents: a ranking of others says nothing of this one.
        scored_rows: Number of rows that the examples stand for; None if unknown. Rows with equal
            anchors are one example.
        side_rows: Number of rows that were to be scored; None if unknown.
        token_nats: Negative log-likelihoods of each example's scored tokens, [tokens]; None for
            models that aren't scored by tokens.
        thresholds: By metric, the cosine from which a pair counts as positive in it.
    """

    metric: str
    metrics: dict[str, float]
    per_example: dict[str, Array] = field(metadata=NOT_PLAIN)
    row_ids: Sequence[int] | None = field(default=None, metadata=NOT_PLAIN)
    clusters: Sequence[str] | None = field(default=None, metadata=NOT_PLAIN)
    documents: int | None = None
    corpus: str | None = None
    scored_rows: int | None = None
    side_rows: int | None = None
    token_nats: Sequence[Array] | None = field(default=None, metadata=NOT_PLAIN)
    thresholds: dict[str, float] = field(default_factory=dict)

    @property
    def higher_is_better(self) -> bool:
        """The direction of the primary metric."""
        return metric_named(self.metric).higher_is_better

    @property
    def value(self) -> float:
        """The primary metric."""
        return self.metrics[self.metric]

    @property
    def examples(self) -> int:
        """Number of examples scored."""
        return len(next(iter(self.per_example.values())))

    def statistic(self, indices: Array | None = None) -> float:
        """Return the primary metric on the examples at `indices`, or on all of them.

        Args:
            indices: Positions of examples, repeats allowed.
        """
        chosen = np.arange(self.examples) if indices is None else np.asarray(indices)
        return float(self.statistics(chosen[np.newaxis, :])[0])

    def statistics(self, indices: Array) -> Floats:
        """Return the primary metric on each resample: [resamples, examples] to [resamples]."""
        return metric_named(self.metric).statistic(self.per_example, indices)

    def judged_by(self, metric: str) -> "Scores":
        """Return the scores with another primary metric, of which each example has a value.

        Raises:
            SampleError: It isn't computed of these examples, or not of all.
        """
        if metric == self.metric:
            return self
        if metric not in self.metrics or metric not in self.per_example:
            raise SampleError(
                f"gate.metric must be a metric of these rows ({', '.join(self.metrics)}), got "
                f"{metric!r}. Choose one of them."
            )

        missing = int(np.count_nonzero(np.isnan(self.per_example[metric])))
        if missing:
            raise SampleError(
                f"gate.metric must have a value for each scored row, got {metric!r} without one "
                f"for {missing} of {self.examples}. Choose another metric, or remove these rows."
            )
        metrics = {metric: self.metrics[metric], **self.metrics}
        return dataclasses.replace(self, metric=metric, metrics=metrics)

    def table(self) -> pd.DataFrame:
        """Return one line per example: `row_id` and `cluster` if known, then its values by name."""
        identity = {"row_id": self.row_ids, "cluster": self.clusters}
        known = {name: list(column) for name, column in identity.items() if column is not None}
        return pd.DataFrame({**known, **self.per_example})

    def identified(self, records: Sequence[Mapping[str, Any]]) -> "Scores":
        """Return the scores with the row id and the cluster of each example.

        Args:
            records: One record for each example, in the order of the examples. What not all of them
                name, in the columns `row_id` and `cluster`, stays unknown.

        Raises:
            ValueError: There are more or fewer records than examples.
        """
        check_equal("number of records", len(records), self.examples)

        row_ids, clusters = _column_of(records, "row_id"), _column_of(records, "cluster")
        return dataclasses.replace(self, row_ids=row_ids, clusters=clusters)

    def at(self, indices: Array) -> "Scores":
        """Return the scores on the examples at `indices`, with the primary metric only."""
        per_example = {name: column[indices] for name, column in self.per_example.items()}
        row_ids, clusters = self.row_ids, self.clusters
        return dataclasses.replace(
            scores_from(per_example, self.metric),
            row_ids=None if row_ids is None else [row_ids[index] for index in indices],
            clusters=None if clusters is None else [clusters[index] for index in indices],
            documents=self.documents,
            corpus=self.corpus,
        )

    def of_side(self, side_rows: int) -> "Scores":
        """Return the scores with the number of rows of the side, of which some can't be scored."""
        scored_rows = self.examples if self.scored_rows is None else self.scored_rows
        return dataclasses.replace(self, scored_rows=scored_rows, side_rows=side_rows)

    @property
    def counts(self) -> dict[str, int]:
        """What the metrics rest on, as far as it is known: rows of the side, and documents."""
        counts = {
            "scored_rows": self.scored_rows,
            "side_rows": self.side_rows,
            # Among more documents, the same model scores less.
            "documents": self.documents,
        }
        return {name: count for name, count in counts.items() if count is not None}

    def extended(self, per_example: Mapping[str, Array], *metrics: str) -> "Scores":
        """Return the scores with further per-example values, and metrics that follow from them."""
        values = {**self.per_example, **per_example}
        further = scores_from(values, *metrics).metrics if metrics else {}
        return dataclasses.replace(self, metrics={**self.metrics, **further}, per_example=values)

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics without the per-example values, as plain values."""
        return plain_values(self, "higher_is_better", "value", "examples")


def scores_from(per_example: dict[str, Array], primary: str, *further: str) -> Scores:
    """Return the scores that follow from per-example values.

    Args:
        per_example: Arrays [examples] by name.
        primary: Name of the primary metric.
        further: Names of further metrics.
    """
    # All examples in their order are a resample like any other.
    examples = len(next(iter(per_example.values())))
    everything = np.arange(examples)[np.newaxis, :]
    metrics = {
        name: float(metric_named(name).statistic(per_example, everything)[0])
        for name in (primary, *further)
    }
    return Scores(metric=primary, metrics=metrics, per_example=per_example)


def similarity_scores(vectors_a: Array, vectors_b: Array, gold: Sequence[float] | Array) -> Scores:
    """Score how cosine similarities follow gold scores: Spearman's rank correlation and Pearson's.

    The measure of the STS tasks (Cer et al., 2017); Spearman's is the primary metric. A constant
    side has no order and scores 0.

    Gold scores of 0 and 1 make it a classification too: `average_precision`, and `best_f1` and
    `best_accuracy` at the threshold that is best for these very pairs, so a little higher than for
    new ones.

    Args:
        vectors_a: [pairs, dimensions].
        vectors_b: [pairs, dimensions].
        gold: [pairs].

    Raises:
        ValueError: Shapes don't fit, or there are fewer than two pairs.
        SampleError: A gold score is not finite.
        TrainingError: A vector is not finite.
    """
    first, second = unit_vectors(vectors_a, "vectors_a"), unit_vectors(vectors_b, "vectors_b")
    gold_scores = np.asarray(gold, dtype=np.float64)
    check_equal("shape of vectors_b", second.shape, first.shape)
    check_equal("length of gold", len(gold_scores), len(first))
    if len(gold_scores) < 2:
        raise ValueError(f"gold must hold at least 2 scores, got {len(gold_scores)}.")
    broken = int(np.count_nonzero(~np.isfinite(gold_scores)))
    if broken:
        raise SampleError(
            f"score must be a finite number, got {broken} of {len(gold_scores)} scores that are "
            "not. Correct or remove these rows."
        )

    # Rounded, so that noise in the last bits doesn't order what is equal.
    cosine = np.round(np.sum(first * second, axis=1, dtype=np.float64), 6)
    scores = scores_from({"cosine": cosine, "gold": gold_scores}, "spearman", "pearson")
    return _with_classification(scores) if is_binary(gold_scores) else scores


def _with_classification(scores: Scores) -> Scores:
    """Return the scores of pairs with how well a threshold tells positive from negative pairs."""
    cosine, gold = scores.per_example["cosine"], scores.per_example["gold"]
    goals = {"best_f1": f1_of_counts, "best_accuracy": accuracy_of_counts}
    thresholds = {name: best_threshold(cosine, gold, goal) for name, goal in goals.items()}

    predicted = cosine >= thresholds["best_accuracy"]
    is_right = (predicted == (gold == 1.0)).astype(np.float64)
    metrics = ("average_precision", "best_f1", "best_accuracy")
    scores = scores.extended({"best_accuracy": is_right}, *metrics)
    return dataclasses.replace(scores, thresholds=thresholds)


def vector_scores(vectors: Array, targets: Array) -> Scores:
    """Score how near vectors are to their targets: mean cosine (primary) and mean squared error.

    Both are of normalised vectors.

    Args:
        vectors: [rows, dimensions].
        targets: [rows, dimensions].

    Raises:
        ValueError: Shapes don't fit.
        TrainingError: A vector is not finite.
    """
    predicted, expected = unit_vectors(vectors, "vectors"), unit_vectors(targets, "targets")
    check_equal("shape of targets", expected.shape, predicted.shape)

    per_example: dict[str, Array] = {
        "cosine_to_target": (predicted * expected).sum(axis=1).astype(np.float64),
        "mse": ((predicted - expected) ** 2).mean(axis=1).astype(np.float64),
    }
    return scores_from(per_example, "cosine_to_target", "mse")


def check_equal(name: str, value: object, expected: object) -> None:
    """Raise `ValueError` if a size isn't the expected one."""
    if value != expected:
        raise ValueError(f"{name} must be {expected}, got {value}.")


def unit_vectors(vectors: Array, name: str) -> npt.NDArray[np.float32]:
    """Return the vectors with norm 1, [rows, dimensions].

    A zero vector stays zero and is similar to nothing.
    """
    values = np.asarray(vectors, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"{name} must have the shape [rows, dimensions], got {values.shape}.")
    check_finite(values, name)

    # In float64 first: a vector of tiny numbers would lose its norm in float32.
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    unit: npt.NDArray[np.float32] = (values / np.where(norms == 0.0, 1.0, norms)).astype(np.float32)
    return unit


def _column_of(records: Sequence[Mapping[str, Any]], name: str) -> list[Any] | None:
    """Return the column of that name; None if a record lacks it."""
    column = [record.get(name) for record in records]
    return None if None in column else column


def check_finite(values: Array, name: str) -> None:
    """Raise `TrainingError` if rows of an array are not finite."""
    finite_rows = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite_rows.all():
        broken = int(np.count_nonzero(~finite_rows))
        raise TrainingError(
            f"{name} must be finite, got {broken} of {len(values)} rows that are not. "
            "Lower the learning rate, or turn use_mixed_precision off."
        )
