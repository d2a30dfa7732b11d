"""Health of an embedding: whether its vectors spread over the sphere, or collapse."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from tunetrail.evaluation.metric import Array, Floats, Needs
from tunetrail.evaluation.metrics import TIE
from tunetrail.evaluation.scores import Scores

# Vectors compared with one another; more of them are compared in chunks of this size.
_CHUNK = 2_000
HEALTH_METRICS = {"gaussian_potential": "uniformity", "log_effective_rank": "effective_rank"}
"""The metric that follows from each of the values of `health_values`."""
# Examples whose vectors are examined for collapse; of more, a fixed sample of as many.
_MOST_EXAMPLES = 10_000


def with_pair_health(
    scores: Scores,
    queries: Array,
    answers: Array,
    relevant: Sequence[Sequence[int]],
    needs: Needs,
) -> Scores:
    """Return the scores with alignment and what `with_health` adds, from unit vectors."""
    if needs("alignment"):
        alignments = pair_alignments(queries, answers, relevant)
        scores = scores.extended({"alignment": alignments}, "alignment")
    return with_health(scores, queries, needs)


def with_health(scores: Scores, vectors: Array, needs: Needs) -> Scores:
    """Return the scores with the metrics that tell whether the vectors collapse.

    Args:
        scores: The scores.
        vectors: Unit vectors, [examples, dimensions]; if examples have several, the
            vectors of all first texts come first.
        needs: Tells whether to compute a metric.
    """
    if not any(map(needs, HEALTH_METRICS.values())):
        return scores
    # A sample tells as much as anybody reads from it, and singular values of all take long.
    shuffled = np.random.default_rng(0).permutation(scores.examples)
    sample = np.sort(shuffled[:_MOST_EXAMPLES])
    texts = vectors.reshape(-1, scores.examples, vectors.shape[1])[:, sample]

    values = {}
    for name, column in health_values(texts.reshape(-1, vectors.shape[1])).items():
        # An example's value is the mean of its texts' values; NaN outside the sample.
        values[name] = np.full(scores.examples, np.nan)
        values[name][sample] = column.reshape(-1, len(sample)).mean(axis=0)
    return scores.extended(values, *map(HEALTH_METRICS.__getitem__, values))


def health_values(vectors: Array, seed: int = 0) -> dict[str, Array]:
    """Return the values of each example from which uniformity and effective rank follow.

    Uniformity (Wang and Isola 2020, https://arxiv.org/abs/2005.10242, section 4.1.2) is the
    logarithm of the mean Gaussian potential exp(-2 |x - y|^2) of two different examples: near 0 if
    all vectors are equal, about -4 if they are spread evenly in many dimensions. Of more than 2,000
    examples, each is compared with some 2,000 drawn ones.

    The effective rank (Roy and Vetterli 2007, "The effective rank: A measure of effective
    dimensionality") is the exponential of the entropy of the singular values as shares of their
    sum: 1 if all vectors lie on a line, and the number of dimensions if all are used equally.

    Args:
        vectors: Unit vectors, [examples, dimensions].
        seed: Seed of the chunks.

    Returns:
        `gaussian_potential` and `log_effective_rank`, [examples]; nothing for a single example, and
        no `log_effective_rank` if all vectors are zero.
    """
    if len(vectors) < 2:
        return {}
    values: dict[str, Array] = {"gaussian_potential": _gaussian_potentials(vectors, seed)}
    if vectors.any():
        values["log_effective_rank"] = _log_effective_ranks(vectors.astype(np.float64))
    return values


def _gaussian_potentials(vectors: Array, seed: int) -> Floats:
    """Return each example's mean potential with the others of its chunk, [examples]."""
    potentials = np.empty(len(vectors))
    # Shuffled, since neighbouring rows may be related.
    shuffled = np.random.default_rng(seed).permutation(len(vectors))
    for chunk in np.array_split(shuffled, math.ceil(len(vectors) / _CHUNK)):
        members = vectors[chunk]
        squares = (members**2).sum(axis=1)
        distances = squares[:, np.newaxis] + squares - 2.0 * (members @ members.T)

        kernel = np.exp(-2.0 * np.maximum(distances, 0.0))
        np.fill_diagonal(kernel, 0.0)
        potentials[chunk] = kernel.sum(axis=1, dtype=np.float64) / (len(chunk) - 1)
    return potentials


def _log_effective_ranks(vectors: Floats) -> Floats:
    """Return values [examples] whose mean is the entropy of the singular values' shares.

    An example's value is the entropy plus its influence: how the entropy changes, to first order,
    as the example gains weight. So the mean over a resample is the resample's own entropy, to first
    order, without a singular value decomposition of each.
    """
    # The triangular factor has the same singular values, and few rows.
    triangle = np.linalg.qr(vectors, mode="r")
    _, singular, directions = np.linalg.svd(triangle, full_matrices=False)
    is_used = singular > singular[0] * max(vectors.shape) * np.finfo(np.float64).eps
    singular, directions = singular[is_used], directions[is_used]

    shares = singular / singular.sum()
    entropy = -float((shares * np.log(shares)).sum())

    # A singular value s grows by (direction . x)^2 / 2s with the weight of x, and the entropy
    # grows with s by -(log share + entropy) / sum of s.
    slopes = -(np.log(shares) + entropy) / singular.sum() / (2.0 * singular)
    influences = ((vectors @ directions.T) ** 2) @ slopes
    ranks: Floats = entropy + len(vectors) * influences
    return ranks


def pair_alignments(queries: Array, documents: Array, relevant: Sequence[Sequence[int]]) -> Floats:
    """Return the mean squared distance of each query to its relevant documents, [queries].

    Alignment of Wang and Isola with the exponent 2, in which each query counts the same.

    Args:
        queries: Unit vectors, [queries, dimensions].
        documents: Unit vectors, [documents, dimensions].
        relevant: Positions of the relevant documents of each query, at least one.
    """
    counts = np.array(list(map(len, relevant)))
    query_of = np.repeat(np.arange(len(queries)), counts)
    differences = queries[query_of] - documents[np.concatenate(relevant)]
    distances = (differences.astype(np.float64) ** 2).sum(axis=1)
    alignments: Floats = np.bincount(query_of, weights=distances) / counts
    return alignments


def label_alignments(
    queries: Array, query_labels: Sequence[str], documents: Array, document_labels: Sequence[str]
) -> Floats:
    """Return the mean squared distance of each query to the documents of its label, [queries].

    Args:
        queries: Unit vectors, [queries, dimensions].
        query_labels: [queries]; each label occurs among the documents.
        documents: Unit vectors, [documents, dimensions].
        document_labels: [documents].
    """
    # |q - d|^2 = |q|^2 - 2 q d + |d|^2, so that the means of d and |d|^2 say it for all d at once.
    answers = documents.astype(np.float64)
    columns = pd.DataFrame(answers).assign(square=(answers**2).sum(axis=1))
    means = columns.groupby(list(map(str, document_labels))).mean()
    of_query = means.loc[list(map(str, query_labels))].to_numpy()

    vectors = queries.astype(np.float64)
    products = (vectors * of_query[:, :-1]).sum(axis=1)
    alignments: Floats = (vectors**2).sum(axis=1) - 2.0 * products + of_query[:, -1]
    return alignments


def triplet_values(
    queries: Array,
    documents: Array,
    query_of: Sequence[int],
    positive_of: Sequence[int],
    negative_of: Sequence[int],
) -> dict[str, Array]:
    """Return how many triplets each query has, and in how many the positive is the nearer one.

    Equal cosines count against the model.

    Args:
        queries: Unit vectors, [queries, dimensions].
        documents: Unit vectors, [documents, dimensions].
        query_of: Position of the query of each triplet.
        positive_of: Position of its positive document.
        negative_of: Position of its negative document.

    Returns:
        `triplet_hits` and `triplets`, [queries].
    """
    anchors = queries[query_of]
    positive = (anchors * documents[positive_of]).sum(axis=1)
    negative = (anchors * documents[negative_of]).sum(axis=1)
    hits = (positive > negative + TIE).astype(np.float64)
    return {
        "triplet_hits": np.bincount(query_of, weights=hits, minlength=len(queries)),
        "triplets": np.bincount(query_of, minlength=len(queries)).astype(np.float64),
    }
