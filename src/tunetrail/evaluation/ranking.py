"""Scores of retrieval: how high a model ranks the documents that answer a query."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from sklearn.neighbors import KNeighborsClassifier

from tunetrail.errors import SampleError
from tunetrail.evaluation.metrics import Array, Floats
from tunetrail.evaluation.scores import Scores, check_equal, scores_from, unit_vectors

BEST_RANK, TOP_WRONG = "best_rank", "top_wrong"
"""Names of per-example values: the rank of the best relevant document, from 1, and the position of
the most similar irrelevant document, -1 if there is none."""

PREDICTED_LABEL = "predicted_label"
"""Name of a per-example value: the most common label among the query's nearest documents."""

_CUTOFF = 10
_NEIGHBOURS = 10
"""Documents that vote for the label of a query."""
# 1 / log2(rank + 1) for the ranks 1 to 10, as in the DCG of Järvelin and Kekäläinen.
_DISCOUNTS = 1.0 / np.log2(np.arange(2, _CUTOFF + 2))
_TIE = 1e-6
"""Cosines that differ by less are equal: rounding must not order documents."""
_CELLS_AT_ONCE = 4_000_000
"""Similarities held in memory at a time."""


def retrieval_scores(
    query_vectors: Array, document_vectors: Array, relevant: Sequence[Sequence[int]]
) -> Scores:
    """Score the ranking of documents by cosine similarity to each query.

    nDCG@10 with binary gains follows Järvelin and Kekäläinen (2002), with the ideal ranking of all
    relevant documents as its denominator; MRR@10 is the reciprocal rank of the first relevant
    document (Voorhees, 1999); recall@k is the share of a query's relevant documents among the first
    k. A document that ties with a relevant one is ranked before it, so a model that says the same
    of everything scores worst. Give documents of equal content once.

    Args:
        query_vectors: [queries, dimensions].
        document_vectors: [documents, dimensions].
        relevant: Positions of the relevant documents of each query, at least one.

    Raises:
        ValueError: Shapes don't fit, a query has no relevant document, or a position is out of
            range.
        TrainingError: A vector is not finite.
    """
    queries = unit_vectors(query_vectors, "query_vectors")
    documents = unit_vectors(document_vectors, "document_vectors")
    check_equal("dimensions of document_vectors", documents.shape[1], queries.shape[1])
    check_equal("length of relevant", len(relevant), len(queries))

    relevant_positions = []
    for query, query_relevant in enumerate(relevant):
        positions = np.unique(np.asarray(query_relevant, dtype=np.int64))
        if len(positions) == 0 or positions[0] < 0 or positions[-1] >= len(documents):
            raise ValueError(
                f"relevant[{query}] must hold positions from 0 to {len(documents) - 1}, "
                f"got {positions.tolist()[:5]}."
            )
        relevant_positions.append(positions)

    rankings = []
    for block in _blocks(len(queries), len(documents)):
        similarities = queries[block] @ documents.T
        # Positions of different number per query become one mask.
        is_relevant = np.zeros(similarities.shape, dtype=bool)
        for row, positions in enumerate(relevant_positions[block]):
            is_relevant[row, positions] = True
        rankings.append(_ranking(similarities, is_relevant))

    relevant_counts = np.array(list(map(len, relevant_positions)))
    return _scores(rankings, relevant_counts)


def label_retrieval_scores(vectors: Array, labels: Sequence[str]) -> Scores:
    """Score each row as a query over all other rows, of which the rows with its label are relevant.

    The metrics are the same as of `retrieval_scores`. A row whose label no other row has is a
    document but no query.

    Args:
        vectors: [rows, dimensions].
        labels: [rows].

    Raises:
        ValueError: There are more labels than rows, or fewer.
        SampleError: No label occurs twice.
        TrainingError: A vector is not finite.
    """
    unit = unit_vectors(vectors, "vectors")
    check_equal("length of labels", len(labels), len(unit))
    codes, counts = _codes(labels)
    queries = np.flatnonzero(counts[codes] > 1)
    if len(queries) == 0:
        raise SampleError(
            f"labels must occur at least twice to be scored, got {len(counts)} once each. "
            "Collect more samples."
        )

    rankings = []
    for block in _blocks(len(queries), len(unit)):
        rows = queries[block]
        similarities = unit[rows] @ unit.T
        is_relevant = codes[rows][:, np.newaxis] == codes[np.newaxis, :]

        # A row doesn't retrieve itself.
        itself = np.arange(len(rows)), rows
        similarities[itself] = -np.inf
        is_relevant[itself] = False
        rankings.append(_ranking(similarities, is_relevant))

    # Less one, since the row itself doesn't count among the rows of its label.
    relevant_counts = counts[codes[queries]] - 1
    return _scores(rankings, relevant_counts)


def labelled_document_scores(
    query_vectors: Array,
    query_labels: Sequence[str],
    document_vectors: Array,
    document_labels: Sequence[str],
) -> Scores:
    """Score each query over labelled documents, of which the documents with its label are relevant.

    The metrics of `retrieval_scores`, and `knn_accuracy`: the share of the queries whose label is
    the most common one among their 10 nearest documents.

    Args:
        query_vectors: [queries, dimensions].
        query_labels: [queries]; each label occurs among the documents.
        document_vectors: [documents, dimensions].
        document_labels: [documents].

    Raises:
        ValueError: Shapes don't fit, or no document has the label of a query.
        TrainingError: A vector is not finite.
    """
    queries = unit_vectors(query_vectors, "query_vectors")
    documents = unit_vectors(document_vectors, "document_vectors")
    check_equal("dimensions of document_vectors", documents.shape[1], queries.shape[1])
    check_equal("length of query_labels", len(query_labels), len(queries))
    check_equal("length of document_labels", len(document_labels), len(documents))

    labels = [*query_labels, *document_labels]
    codes, _ = _codes(labels)
    query_codes, document_codes = codes[: len(queries)], codes[len(queries) :]
    relevant_counts = np.bincount(document_codes, minlength=codes.max() + 1)[query_codes]
    if not relevant_counts.all():
        unknown = query_labels[int(np.argmin(relevant_counts))]
        raise ValueError(f"query_labels must occur in document_labels, got {unknown!r}.")

    rankings = []
    for block in _blocks(len(queries), len(documents)):
        similarities = queries[block] @ documents.T
        is_relevant = query_codes[block][:, np.newaxis] == document_codes[np.newaxis, :]
        rankings.append(_ranking(similarities, is_relevant))

    neighbours = min(_NEIGHBOURS, len(documents))
    classifier = KNeighborsClassifier(neighbours, metric="cosine", algorithm="brute")
    predicted_codes = classifier.fit(documents, document_codes).predict(queries)
    is_right = (predicted_codes == query_codes).astype(np.float64)
    scores = _scores(rankings, relevant_counts, knn_accuracy=is_right)

    label_of_code = dict(zip(codes.tolist(), map(str, labels), strict=True))
    predicted = list(map(label_of_code.__getitem__, predicted_codes.tolist()))
    scores.per_example[PREDICTED_LABEL] = np.array(predicted, dtype=object)
    return scores


def _codes(labels: Sequence[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the number of each row's label, and how often each label occurs."""
    names = np.asarray(labels, dtype=object).astype(str)
    _, codes, counts = np.unique(names, return_inverse=True, return_counts=True)
    return codes, counts


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    """Yield the slices that cut a matrix into blocks of rows that fit into memory."""
    height = max(1, _CELLS_AT_ONCE // columns)
    for start in range(0, rows, height):
        yield slice(start, start + height)


def _ranking(
    similarities: Array, is_relevant: npt.NDArray[np.bool_]
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return the ranks of each query's relevant documents and its most similar irrelevant one.

    Returns:
        The ranks (from 1) of the best 10 relevant documents, [queries, 10]; infinity if a query has
        fewer. Documents beyond the best 10 can't be among the first 10. Then the position of the
        irrelevant document, [queries]; -1 if all documents are relevant.
    """
    best_count = min(_CUTOFF, int(is_relevant.sum(axis=1).max()))
    relevant = np.where(is_relevant, similarities, -np.inf)
    irrelevant = np.where(is_relevant, -np.inf, similarities)
    # np.partition puts the smallest first, hence the signs.
    best = -np.sort(np.partition(-relevant, best_count - 1, axis=1)[:, :best_count], axis=1)

    # The k-th best relevant document comes after k-1 relevant ones and after every irrelevant one
    # that is as similar.
    ranks = np.full((len(similarities), _CUTOFF), np.inf)
    for position in range(best_count):
        similarity = best[:, position]
        before = np.count_nonzero(irrelevant >= similarity[:, np.newaxis] - _TIE, axis=1)
        # A query with fewer relevant documents than others is padded with minus infinity.
        ranks[:, position] = np.where(np.isfinite(similarity), position + 1 + before, np.inf)

    top_wrong = irrelevant.argmax(axis=1)
    has_wrong = np.isfinite(irrelevant.max(axis=1))
    return ranks, np.where(has_wrong, top_wrong, -1)


def _scores(
    rankings: Sequence[tuple[Floats, npt.NDArray[np.int64]]],
    relevant_counts: Array,
    **further: Array,
) -> Scores:
    """Return the scores that follow from the rankings of blocks of queries.

    Args:
        rankings: The result of `_ranking` for each block.
        relevant_counts: The number of relevant documents of each query.
        further: Values of further metrics, each [queries].
    """
    ranks, top_wrong = map(np.concatenate, zip(*rankings, strict=True))
    metrics = {**_ranking_values(ranks, relevant_counts), **further}
    # No metrics, but what a person asks first of a query that went wrong.
    outcome = {BEST_RANK: ranks[:, 0], TOP_WRONG: top_wrong}
    return scores_from({**metrics, **outcome}, *metrics)


def _ranking_values(ranks: Floats, relevant_counts: Array) -> dict[str, Array]:
    """Return each metric's values from the ranks [queries, 10] and counts of relevant documents."""
    among_first = ranks <= _CUTOFF
    discounts = 1.0 / np.log2(np.where(among_first, ranks, 1.0) + 1.0)
    gains = np.where(among_first, discounts, 0.0).sum(axis=1)
    # The best that a ranking can do: all relevant documents, or 10 of them, come first.
    ideal_gains = np.cumsum(_DISCOUNTS)[np.minimum(relevant_counts, _CUTOFF) - 1]

    return {
        "ndcg_at_10": gains / ideal_gains,
        "mrr_at_10": np.where(among_first[:, 0], 1.0 / ranks[:, 0], 0.0),
        "recall_at_1": (ranks <= 1).sum(axis=1) / relevant_counts,
        "recall_at_5": (ranks <= 5).sum(axis=1) / relevant_counts,
        "recall_at_10": (ranks <= 10).sum(axis=1) / relevant_counts,
    }
