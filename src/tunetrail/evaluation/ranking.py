"""Scores of retrieval: how high a model ranks the documents that answer a query."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from tunetrail.errors import SampleError
from tunetrail.evaluation.classification import nearest_neighbour_codes, probe_codes
from tunetrail.evaluation.metric import Array, Floats
from tunetrail.evaluation.metrics import CUTOFFS, TIE
from tunetrail.evaluation.scores import Scores, check_equal, scores_from, unit_vectors

BEST_RANK, TOP_WRONG = "best_rank", "top_wrong"
"""Names of per-example values: the rank of the best relevant document, from 1, and the position of
the most similar irrelevant document, -1 if there is none."""

PREDICTED_LABEL = "predicted_label"
"""Name of a per-example value: the most common label among the query's nearest documents."""

_PRIMARY_CUTOFF = 10
# Similarities held in memory at a time.
_CELLS_AT_ONCE = 4_000_000


def retrieval_scores(
    query_vectors: Array,
    document_vectors: Array,
    relevant: Sequence[Sequence[int]],
    cutoffs: Sequence[int] = CUTOFFS,
) -> Scores:
    """Score the ranking of documents by cosine similarity to each query.

    nDCG@k with binary gains follows Järvelin and Kekäläinen (2002), with the ideal ranking of all
    relevant documents as its denominator; MRR@k is the reciprocal rank of the first relevant
    document (Voorhees, 1999); MAP@k is the mean of the precision at each relevant document, 0 for
    one that isn't among the first k (trec_eval's map_cut); recall@k is the share of a query's
    relevant documents among the first k; precision@k is the share of the first k that is relevant.
    A document that ties with a relevant one is ranked before it, so a model that says the same of
    everything scores worst. Give documents of equal content once.

    Args:
        query_vectors: [queries, dimensions].
        document_vectors: [documents, dimensions].
        relevant: Positions of the relevant documents of each query, at least one.
        cutoffs: The values of k; 10 is always among them, for the primary metric nDCG@10.

    Raises:
        ValueError: Shapes don't fit, a query has no relevant document, or a position is out of
            range.
        TrainingError: A vector is not finite.
    """
    queries = unit_vectors(query_vectors, "query_vectors")
    documents = unit_vectors(document_vectors, "document_vectors")
    check_equal("dimensions of document_vectors", documents.shape[1], queries.shape[1])
    check_equal("length of relevant", len(relevant), len(queries))

    # Lists of several lengths as flat arrays: pair i says that a document answers a query.
    listed_counts = np.array(list(map(len, relevant)))
    listed = np.fromiter(itertools.chain.from_iterable(relevant), np.int64, listed_counts.sum())
    query_of = np.repeat(np.arange(len(queries)), listed_counts)
    is_wrong = listed_counts == 0
    is_wrong[query_of[(listed < 0) | (listed >= len(documents))]] = True
    if is_wrong.any():
        query = int(np.argmax(is_wrong))
        raise ValueError(
            f"relevant[{query}] must hold positions from 0 to {len(documents) - 1}, "
            f"got {sorted(set(relevant[query]))[:5]}."
        )

    # A document that is listed twice counts once.
    pairs = np.unique(query_of * len(documents) + listed)
    query_of, flat_positions = np.divmod(pairs, len(documents))
    relevant_counts = np.bincount(query_of)
    ends = np.cumsum(relevant_counts)

    depth = max(_all_cutoffs(cutoffs))
    rankings = []
    for block in _blocks(len(queries), len(documents)):
        similarities = queries[block] @ documents.T
        counts = relevant_counts[block]
        first_pair, last_pair = ends[block][[0, -1]] - [counts[0], 0]
        pair_documents = flat_positions[first_pair:last_pair]
        pair_rows = np.repeat(np.arange(len(counts)), counts)

        # Few documents are relevant, so they are gathered instead of searched for under a mask.
        pair_columns = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
        relevant_similarities = np.full((len(counts), counts.max()), -np.inf, dtype=np.float32)
        relevant_similarities[pair_rows, pair_columns] = similarities[pair_rows, pair_documents]
        similarities[pair_rows, pair_documents] = -np.inf
        best = _best_first(relevant_similarities, depth)
        rankings.append(_ranking(best, similarities, depth))
    return _scores(rankings, relevant_counts, cutoffs)


def label_retrieval_scores(
    vectors: Array, labels: Sequence[str], cutoffs: Sequence[int] = CUTOFFS
) -> Scores:
    """Score each row as a query over all other rows, of which the rows with its label are relevant.

    The metrics are the same as of `retrieval_scores`. A row whose label no other row has is a
    document but no query.

    Args:
        vectors: [rows, dimensions].
        labels: [rows].
        cutoffs: The values of k.

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

    depth = max(_all_cutoffs(cutoffs))
    rankings = []
    for block in _blocks(len(queries), len(unit)):
        rows = queries[block]
        similarities = unit[rows] @ unit.T
        is_relevant = codes[rows][:, np.newaxis] == codes[np.newaxis, :]

        # A row doesn't retrieve itself.
        itself = np.arange(len(rows)), rows
        similarities[itself] = -np.inf
        is_relevant[itself] = False
        rankings.append(_masked_ranking(similarities, is_relevant, depth))

    # Less one, since the row itself doesn't count among the rows of its label.
    relevant_counts = counts[codes[queries]] - 1
    return _scores(rankings, relevant_counts, cutoffs)


def labelled_document_scores(
    query_vectors: Array,
    query_labels: Sequence[str],
    document_vectors: Array,
    document_labels: Sequence[str],
    cutoffs: Sequence[int] = CUTOFFS,
    *,
    knn: bool = True,
    probe: bool = True,
) -> Scores:
    """Score each query over labelled documents, of which the documents with its label are relevant.

    The metrics of `retrieval_scores`, and two accuracies: `knn_accuracy` is the share of the
    queries whose label is the most common one among their 10 nearest documents, and
    `probe_accuracy` the share whose label a logistic regression on the documents' vectors predicts.
    Documents of a single label can't teach a regression, so there is no `probe_accuracy` then.

    Args:
        query_vectors: [queries, dimensions].
        query_labels: [queries]; each label occurs among the documents.
        document_vectors: [documents, dimensions].
        document_labels: [documents].
        cutoffs: The values of k.
        knn: Whether to compute `knn_accuracy` and the predicted labels.
        probe: Whether to compute `probe_accuracy`.

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

    depth = max(_all_cutoffs(cutoffs))
    rankings = []
    for block in _blocks(len(queries), len(documents)):
        similarities = queries[block] @ documents.T
        is_relevant = query_codes[block][:, np.newaxis] == document_codes[np.newaxis, :]
        rankings.append(_masked_ranking(similarities, is_relevant, depth))

    scores = _scores(rankings, relevant_counts, cutoffs)

    if knn:
        predicted_codes = nearest_neighbour_codes(documents, document_codes, queries)
        label_of_code = dict(zip(codes.tolist(), map(str, labels), strict=True))
        predicted = list(map(label_of_code.__getitem__, predicted_codes.tolist()))
        is_right = (predicted_codes == query_codes).astype(np.float64)
        values = {"knn_accuracy": is_right, PREDICTED_LABEL: np.array(predicted, dtype=object)}
        scores = scores.extended(values, "knn_accuracy")
    if probe and len(np.unique(document_codes)) > 1:
        probed_codes = probe_codes(documents, document_codes, queries)
        is_right = (probed_codes == query_codes).astype(np.float64)
        scores = scores.extended({"probe_accuracy": is_right}, "probe_accuracy")
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


def _masked_ranking(
    similarities: Array, is_relevant: npt.NDArray[np.bool_], depth: int
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return what `_ranking` does, with the relevant documents as a mask [queries, documents]."""
    relevant = np.where(is_relevant, similarities, -np.inf)
    most = int(is_relevant.sum(axis=1).max())
    irrelevant = np.where(is_relevant, -np.inf, similarities)
    return _ranking(_best_first(relevant, min(depth, most)), irrelevant, depth)


def _best_first(similarities: Array, count: int) -> Array:
    """Return the `count` highest similarities of each query, the highest first."""
    # np.partition puts the smallest first, hence the signs.
    count = min(count, similarities.shape[1])
    best = np.partition(-similarities, count - 1, axis=1)[:, :count]
    return -np.sort(best, axis=1)


def _ranking(best: Array, irrelevant: Array, depth: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return the ranks of each query's relevant documents and its most similar irrelevant one.

    Args:
        best: Similarities of the best relevant documents, the best first, [queries, best]; a query
            with fewer of them is padded with minus infinity.
        irrelevant: Similarities of the irrelevant documents, [queries, documents]; minus infinity
            for all others.
        depth: Number of ranks to return. Further relevant documents can't be among the first ones.

    Returns:
        The ranks (from 1), [queries, depth]; infinity if a query has fewer relevant documents. Then
        the position of the irrelevant document, [queries]; -1 if all documents are relevant.
    """
    # The k-th best relevant document comes after k-1 relevant ones and after every irrelevant one
    # that is as similar.
    ranks = np.full((len(best), depth), np.inf)
    for position in range(best.shape[1]):
        similarity = best[:, position]
        before = np.count_nonzero(irrelevant >= similarity[:, np.newaxis] - TIE, axis=1)
        ranks[:, position] = np.where(np.isfinite(similarity), position + 1 + before, np.inf)

    top_wrong = irrelevant.argmax(axis=1)
    has_wrong = np.isfinite(irrelevant[np.arange(len(irrelevant)), top_wrong])
    return ranks, np.where(has_wrong, top_wrong, -1)


def _scores(
    rankings: Sequence[tuple[Floats, npt.NDArray[np.int64]]],
    relevant_counts: Array,
    cutoffs: Sequence[int],
) -> Scores:
    """Return the scores that follow from the rankings of blocks of queries.

    Args:
        rankings: The result of `_ranking` for each block.
        relevant_counts: The number of relevant documents of each query.
        cutoffs: The values of k.
    """
    ranks, top_wrong = map(np.concatenate, zip(*rankings, strict=True))
    metrics = _ranking_values(ranks, relevant_counts, cutoffs)
    # No metrics, but what a person asks first of a query that went wrong.
    outcome = {BEST_RANK: ranks[:, 0], TOP_WRONG: top_wrong}
    return scores_from({**metrics, **outcome}, *metrics)


def _all_cutoffs(cutoffs: Sequence[int]) -> list[int]:
    """Return the cutoffs with the primary metric's first, then in ascending order."""
    return [_PRIMARY_CUTOFF, *sorted({*cutoffs} - {_PRIMARY_CUTOFF})]


def _ranking_values(
    ranks: Floats, relevant_counts: Array, cutoffs: Sequence[int]
) -> dict[str, Array]:
    """Return each metric's values from the ranks [queries, depth] of the relevant documents."""
    # 1 / log2(rank + 1), as in the DCG of Järvelin and Kekäläinen.
    discounts = 1.0 / np.log2(ranks + 1.0)
    ideal_gains = np.cumsum(1.0 / np.log2(np.arange(2, ranks.shape[1] + 2)))
    precisions = np.arange(1, ranks.shape[1] + 1) / ranks

    values: dict[str, Array] = {}
    for cutoff in _all_cutoffs(cutoffs):
        among_first = ranks <= cutoff
        hits = among_first.sum(axis=1)
        # The best that a ranking can do: all relevant documents, or k of them, come first.
        ideal = ideal_gains[np.minimum(relevant_counts, cutoff) - 1]
        gains = np.where(among_first, discounts, 0.0).sum(axis=1)

        values[f"ndcg_at_{cutoff}"] = gains / ideal
        values[f"mrr_at_{cutoff}"] = np.where(among_first[:, 0], 1.0 / ranks[:, 0], 0.0)
        summed_precisions = np.where(among_first, precisions, 0.0).sum(axis=1)
        values[f"map_at_{cutoff}"] = summed_precisions / relevant_counts
        values[f"recall_at_{cutoff}"] = hits / relevant_counts
        values[f"precision_at_{cutoff}"] = hits / cutoff
    return values
