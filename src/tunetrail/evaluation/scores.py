"""Scores: what a model is worth on held-out examples, with the per-example numbers that comparison resamples.

Takes vectors and likelihoods as NumPy arrays; knows no model, no rows and no tensors.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from tunetrail.errors import SampleError, TrainingError

Array = npt.NDArray[Any]
_Floats = npt.NDArray[np.float64]
_Statistic = Callable[[Mapping[str, Array], Array], _Floats]

_CUT = 10
_DISCOUNTS = 1.0 / np.log2(np.arange(2, _CUT + 2))
_TIE = 1e-6
_CELLS_AT_ONCE = 4_000_000
_LARGEST_EXPONENT = 709.0


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A model's scores on one set of examples.

    Attributes:
        metric: Name of the primary metric, a key of `metrics`.
        higher_is_better: Its direction.
        metrics: All metrics on all examples.
        per_example: Arrays [examples], in the order of the examples, from which the metrics follow.
        clusters: The cluster of each example, where examples are related (rows of one group); else None.
    """

    metric: str
    higher_is_better: bool
    metrics: dict[str, float]
    per_example: dict[str, Array]
    clusters: Sequence[str] | None = None

    @property
    def value(self) -> float:
        """The primary metric."""
        return self.metrics[self.metric]

    @property
    def examples(self) -> int:
        """Number of examples scored."""
        return len(next(iter(self.per_example.values())))

    def statistic(self, indices: Array | None = None) -> float:
        """Return the primary metric on the examples at `indices` ([examples], repeats allowed), or on all of them."""
        chosen = np.arange(self.examples) if indices is None else np.asarray(indices)
        return float(self.statistics(chosen[np.newaxis, :])[0])

    def statistics(self, indices: Array) -> _Floats:
        """Return the primary metric on each resample: indices [resamples, examples] to values [resamples]."""
        return _STATISTICS[self.metric](self.per_example, indices)

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics without the per-example arrays, JSON-serialisable."""
        return {
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            "value": self.value,
            "metrics": dict(self.metrics),
            "examples": self.examples,
        }


def retrieval_scores(
    query_vectors: Array, document_vectors: Array, relevant: Sequence[Sequence[int]]
) -> Scores:
    """Score the ranking of documents by cosine similarity to each query.

    nDCG@10 with binary gains follows Järvelin and Kekäläinen (2002), with the ideal ranking of all relevant documents
    as its denominator; MRR@10 is the reciprocal rank of the first relevant document (Voorhees, 1999); recall@k is the
    share of a query's relevant documents among the first k. A document that ties with a relevant one is ranked before
    it, so a model that says the same of everything scores worst. Give documents of equal content once.

    Args:
        query_vectors: [queries, dimensions].
        document_vectors: [documents, dimensions].
        relevant: Positions of the relevant documents of each query, at least one.

    Raises:
        ValueError: Shapes don't fit, a query has no relevant document, or a position is out of range.
        TrainingError: A vector is not finite.
    """
    queries, documents = (
        _unit(query_vectors, "query_vectors"),
        _unit(document_vectors, "document_vectors"),
    )
    _check_same("dimensions of document_vectors", documents.shape[1], queries.shape[1])
    _check_same("length of relevant", len(relevant), len(queries))
    wanted = [np.unique(np.asarray(positions, dtype=np.int64)) for positions in relevant]
    for number, positions in enumerate(wanted):
        if len(positions) == 0 or positions[0] < 0 or positions[-1] >= len(documents):
            raise ValueError(
                f"relevant[{number}] must hold positions from 0 to {len(documents) - 1}, got {positions.tolist()[:5]}."
            )
    ranks = []
    for block in _blocks(len(queries), len(documents)):
        similarities = queries[block] @ documents.T
        is_relevant = np.zeros(similarities.shape, dtype=bool)
        for row, positions in enumerate(wanted[block]):
            is_relevant[row, positions] = True
        ranks.append(_ranks_of_relevant(similarities, is_relevant))
    return _ranking_scores(
        np.concatenate(ranks), np.array([len(positions) for positions in wanted])
    )


def label_retrieval_scores(vectors: Array, labels: Sequence[str]) -> Scores:
    """Score each row as a query over all others, where those with its label are relevant.

    The metrics are those of `retrieval_scores`. Rows whose label no other row has are documents but no queries.

    Args:
        vectors: [rows, dimensions].
        labels: [rows].

    Raises:
        ValueError: There is not one label for each row.
        SampleError: No label occurs twice.
        TrainingError: A vector is not finite.
    """
    unit = _unit(vectors, "vectors")
    _check_same("length of labels", len(labels), len(unit))
    _, codes, counts = np.unique(
        np.asarray(labels, dtype=object).astype(str), return_inverse=True, return_counts=True
    )
    queries = np.flatnonzero(counts[codes] > 1)
    if len(queries) == 0:
        raise SampleError(
            f"labels must occur at least twice to be scored, got {len(counts)} once each. Collect more samples."
        )
    ranks = []
    for block in _blocks(len(queries), len(unit)):
        rows = queries[block]
        similarities = unit[rows] @ unit.T
        similarities[np.arange(len(rows)), rows] = -np.inf
        is_relevant = codes[rows][:, np.newaxis] == codes[np.newaxis, :]
        is_relevant[np.arange(len(rows)), rows] = False
        ranks.append(_ranks_of_relevant(similarities, is_relevant))
    return _ranking_scores(np.concatenate(ranks), counts[codes[queries]] - 1)


def similarity_scores(vectors_a: Array, vectors_b: Array, gold: Sequence[float] | Array) -> Scores:
    """Score how cosine similarities follow the gold scores: Spearman's rank correlation (primary) and Pearson's.

    The measure of the STS tasks (Cer et al., 2017). A constant side has no order and scores 0.

    Args:
        vectors_a: [pairs, dimensions].
        vectors_b: [pairs, dimensions].
        gold: [pairs].

    Raises:
        ValueError: Shapes don't fit, or there are fewer than two pairs.
        TrainingError: A vector is not finite.
    """
    first, second = _unit(vectors_a, "vectors_a"), _unit(vectors_b, "vectors_b")
    _check_same("shape of vectors_b", second.shape, first.shape)
    wanted = np.asarray(gold, dtype=np.float64)
    _check_same("length of gold", len(wanted), len(first))
    if len(wanted) < 2:
        raise ValueError(f"gold must hold at least 2 scores, got {len(wanted)}.")
    # Rounded, so that noise in the last bits doesn't order what is equal.
    cosine = np.round(np.sum(first * second, axis=1, dtype=np.float64), 6)
    per_example = {"cosine": cosine, "gold": wanted}
    everything = np.arange(len(wanted))[np.newaxis, :]
    spearman = float(_spearman(per_example, everything)[0])
    pearson = float(_correlation(cosine[everything], wanted[everything])[0])
    return Scores(
        metric="spearman",
        higher_is_better=True,
        metrics={"spearman": spearman, "pearson": pearson},
        per_example=per_example,
    )


def vector_scores(vectors: Array, targets: Array) -> Scores:
    """Score how near vectors are to their targets: mean cosine (primary) and `mse`, both of normalised vectors.

    Args:
        vectors: [rows, dimensions].
        targets: [rows, dimensions].

    Raises:
        ValueError: Shapes don't fit.
        TrainingError: A vector is not finite.
    """
    given, wanted = _unit(vectors, "vectors"), _unit(targets, "targets")
    _check_same("shape of targets", wanted.shape, given.shape)
    per_example: dict[str, Array] = {
        "cosine_to_target": (given * wanted).sum(axis=1).astype(np.float64),
        "mse": ((given - wanted) ** 2).mean(axis=1).astype(np.float64),
    }
    return Scores(
        metric="cosine_to_target",
        higher_is_better=True,
        metrics=_means(per_example),
        per_example=per_example,
    )


def language_scores(nats: Array, tokens: Array, bytes: Array) -> Scores:
    """Score a language model by the likelihood that it gives to held-out texts; lower is better.

    `bits_per_byte` (primary) = sum of nats / (ln 2 * sum of UTF-8 bytes), as in The Pile (Gao et al., 2020): unlike
    `loss` (nats per token) and `perplexity` = exp(loss), it can be compared across tokenizers.

    Args:
        nats: Sum of the negative log-likelihoods of each example's scored tokens, [examples].
        tokens: Number of those tokens, [examples].
        bytes: Number of UTF-8 bytes that they spell, [examples].

    Raises:
        ValueError: Lengths differ, there is no example, or one has no tokens or no bytes.
        TrainingError: A likelihood is not finite.
    """
    per_example = {
        name: np.asarray(values, dtype=np.float64) for name, values in _named(nats, tokens, bytes)
    }
    for name in ("tokens", "bytes"):
        _check_same(f"length of {name}", len(per_example[name]), len(per_example["nats"]))
        if len(per_example[name]) == 0 or not (per_example[name] > 0).all():
            raise ValueError(
                f"{name} must be above 0 for each of at least 1 example, got {per_example[name].tolist()[:5]}."
            )
    _check_finite(per_example["nats"], "nats")
    per_example["bits_per_byte"] = per_example["nats"] / (math.log(2.0) * per_example["bytes"])
    loss = float(per_example["nats"].sum() / per_example["tokens"].sum())
    everything = np.arange(len(per_example["nats"]))[np.newaxis, :]
    metrics = {
        "bits_per_byte": float(_bits_per_byte(per_example, everything)[0]),
        "loss": loss,
        # The largest double instead of infinity, which JSON and MLflow's plots can't hold.
        "perplexity": math.exp(min(loss, _LARGEST_EXPONENT)),
    }
    return Scores(
        metric="bits_per_byte", higher_is_better=False, metrics=metrics, per_example=per_example
    )


def _named(nats: Array, tokens: Array, bytes: Array) -> tuple[tuple[str, Array], ...]:
    return ("nats", nats), ("tokens", tokens), ("bytes", bytes)


def _check_same(name: str, got: object, wanted: object) -> None:
    if got != wanted:
        raise ValueError(f"{name} must be {wanted}, got {got}.")


def _check_finite(values: Array, name: str) -> None:
    if not np.isfinite(values).all():
        broken = int(np.count_nonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1)))
        raise TrainingError(
            f"{name} must be finite, got {broken} of {len(values)} rows that are not. Lower the learning rate, or turn "
            "use_mixed_precision off."
        )


def _unit(vectors: Array, name: str) -> npt.NDArray[np.float32]:
    """Return the vectors with norm 1, [rows, dimensions]; a zero vector stays zero and is similar to nothing."""
    values = np.asarray(vectors, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"{name} must have the shape [rows, dimensions], got {values.shape}.")
    _check_finite(values, name)
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    unit: npt.NDArray[np.float32] = (values / np.where(norms == 0.0, 1.0, norms)).astype(np.float32)
    return unit


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    height = max(1, _CELLS_AT_ONCE // columns)
    for start in range(0, rows, height):
        yield slice(start, start + height)


def _ranks_of_relevant(similarities: Array, is_relevant: npt.NDArray[np.bool_]) -> _Floats:
    """Return the ranks (from 1) of each query's best 10 relevant documents, [queries, 10].

    Infinity stands where a query has fewer.

    The k-th best relevant document comes after k-1 relevant ones and after every other document that is as similar.
    Documents beyond the best 10 can't be among the first 10.
    """
    kept = min(_CUT, int(is_relevant.sum(axis=1).max()))
    relevant = np.where(is_relevant, similarities, -np.inf)
    best = -np.sort(np.partition(-relevant, kept - 1, axis=1)[:, :kept], axis=1)
    others = np.where(is_relevant, -np.inf, similarities)
    ranks = np.full((len(similarities), _CUT), np.inf)
    for position in range(kept):
        before = np.count_nonzero(others >= best[:, position, np.newaxis] - _TIE, axis=1)
        ranks[:, position] = np.where(np.isfinite(best[:, position]), position + 1 + before, np.inf)
    return ranks


def _ranking_scores(ranks: _Floats, relevant_counts: Array) -> Scores:
    """Return the metrics from the ranks [queries, 10] and the number [queries] of relevant documents."""
    among = ranks <= _CUT
    gains = np.where(among, 1.0 / np.log2(np.where(among, ranks, 1.0) + 1.0), 0.0).sum(axis=1)
    ideal = np.cumsum(_DISCOUNTS)[np.minimum(relevant_counts, _CUT) - 1]
    per_example = {
        "ndcg_at_10": gains / ideal,
        "mrr_at_10": np.where(among[:, 0], 1.0 / ranks[:, 0], 0.0),
        **{f"recall_at_{k}": (ranks <= k).sum(axis=1) / relevant_counts for k in (1, 5, 10)},
    }
    return Scores(
        metric="ndcg_at_10",
        higher_is_better=True,
        metrics=_means(per_example),
        per_example=per_example,
    )


def _means(per_example: Mapping[str, Array]) -> dict[str, float]:
    return {name: float(values.mean()) for name, values in per_example.items()}


def _mean_of(name: str) -> _Statistic:
    def mean(per_example: Mapping[str, Array], indices: Array) -> _Floats:
        means: _Floats = per_example[name][indices].mean(axis=1)
        return means

    return mean


def _bits_per_byte(per_example: Mapping[str, Array], indices: Array) -> _Floats:
    bits: _Floats = per_example["nats"][indices].sum(axis=1) / math.log(2.0)
    bytes_read: _Floats = per_example["bytes"][indices].sum(axis=1)
    return bits / bytes_read


def _spearman(per_example: Mapping[str, Array], indices: Array) -> _Floats:
    return _correlation(
        rankdata(per_example["cosine"][indices], axis=1),
        rankdata(per_example["gold"][indices], axis=1),
    )


def _correlation(first: Array, second: Array) -> _Floats:
    """Return Pearson's correlation of each row, [rows]; 0 where a side is constant."""
    first = first - first.mean(axis=1, keepdims=True)
    second = second - second.mean(axis=1, keepdims=True)
    spread = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    constant = spread < 1e-12
    correlation: _Floats = (first * second).sum(axis=1) / np.where(constant, 1.0, spread)
    return np.where(constant, 0.0, correlation)


_STATISTICS: dict[str, _Statistic] = {
    "ndcg_at_10": _mean_of("ndcg_at_10"),
    "cosine_to_target": _mean_of("cosine_to_target"),
    "spearman": _spearman,
    "bits_per_byte": _bits_per_byte,
    "preference_accuracy": _mean_of("preference_accuracy"),
}
