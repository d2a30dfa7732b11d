"""How each shape of samples is scored, by a model given as a function of texts."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

import numpy as np

from tunetrail.errors import SampleError
from tunetrail.evaluation.further_metrics import FurtherMetric
from tunetrail.evaluation.health import (
    label_alignments,
    triplet_values,
    with_health,
    with_pair_health,
)
from tunetrail.evaluation.metric import Array, Needs
from tunetrail.evaluation.ranking import (
    TOP_WRONG,
    label_retrieval_scores,
    labelled_document_scores,
    retrieval_scores,
)
from tunetrail.evaluation.scores import Scores, similarity_scores, unit_vectors, vector_scores
from tunetrail.fingerprints import value_fingerprint
from tunetrail.samples import shape_named

Encode = Callable[[Sequence[str]], Array]
"""Texts to vectors [texts, dimensions]."""
Record = Mapping[str, Any]

TOP_WRONG_ROW, TOP_WRONG_HASH = "top_wrong_row", "top_wrong_hash"
"""Names of per-example values of a ranking: a row that holds the most similar wrong document, and
the fingerprint of the document's text. None if there is no wrong document."""
NO_ROW = -1
"""The row id of a document that is in no row of the session."""


@dataclass(frozen=True, kw_only=True)
class ScoringTask:
    """What is scored: see the arguments of `score_embedding`."""

    shape: str
    records: Sequence[Record]
    encode: Encode
    encode_documents: Encode
    corpus: Sequence[Record]
    cutoffs: Sequence[int]
    needs: Needs
    further: Sequence[FurtherMetric]


def _score_pairs(task: ScoringTask) -> Scores:
    # Equal anchors are one query, which stands for the first of its rows.
    first_records: dict[str, Record] = {}
    for record in task.records:
        first_records.setdefault(record["anchor"], record)

    everything = [*task.records, *filter(_is_pair, task.corpus)]
    positives_by_anchor: dict[str, set[str]] = {anchor: set() for anchor in first_records}
    for record in everything:
        # An answer in the corpus is right as well.
        if record["anchor"] in positives_by_anchor:
            positives_by_anchor[record["anchor"]].add(record["positive"])

    # A document of several rows is ranked once, or it would tie with itself.
    negatives = [record["negative"] for record in everything if record.get("negative")]
    texts = [record["text"] for record in task.corpus if not _is_pair(record)]
    documents = list(dict.fromkeys([*_column(everything, "positive"), *negatives, *texts]))
    position_of = dict(zip(documents, range(len(documents)), strict=True))

    relevant = [
        sorted(map(position_of.__getitem__, positives))
        for positives in positives_by_anchor.values()
    ]
    query_vectors = task.encode(list(first_records))
    document_vectors = task.encode_documents(documents)
    scores = retrieval_scores(query_vectors, document_vectors, relevant, task.cutoffs)

    queries = unit_vectors(query_vectors, "query_vectors")
    answers = unit_vectors(document_vectors, "document_vectors")
    scores = with_pair_health(scores, queries, answers, relevant, task.needs)
    triplets = [record for record in task.records if record.get("negative")]
    if triplets and task.needs("triplet_accuracy"):
        query_of = dict(zip(first_records, range(len(first_records)), strict=True))
        columns = (
            list(map(query_of.__getitem__, _column(triplets, "anchor"))),
            list(map(position_of.__getitem__, _column(triplets, "positive"))),
            list(map(position_of.__getitem__, _column(triplets, "negative"))),
        )
        scores = scores.extended(triplet_values(queries, answers, *columns), "triplet_accuracy")

    row_ids = dict(zip(_column(everything, "positive"), _row_ids(everything), strict=True))
    for record in everything:
        if record.get("negative"):
            row_ids.setdefault(record["negative"], record.get("row_id"))
    identified = _identified(scores, list(first_records.values()), task)
    identified = replace(identified, scored_rows=len(task.records))
    return _among(identified, documents, list(map(row_ids.get, documents)))


def _identified(scores: Scores, records: Sequence[Record], task: ScoringTask) -> Scores:
    """Return the scores with the rows of the examples, and with the further metrics of these.

    Args:
        scores: The scores of the examples.
        records: The record of each example.
        task: What is scored.
    """
    documents = shape_named(task.shape).documents

    def vectors(column: str) -> Array:
        encode = task.encode_documents if column in documents else task.encode
        return unit_vectors(encode(_column(records, column)), column)

    for further in task.further:
        name = further.metric.name
        if task.needs(name):
            scores = scores.extended({name: further.values(records, vectors)}, name)
    return scores.identified(records)


def _among(scores: Scores, documents: Sequence[Any], row_ids: Sequence[int | None]) -> Scores:
    """Return the scores with what was ranked, which decides what they can be compared with.

    The position of each query's top wrong document becomes the id of a row that holds the document
    and the fingerprint of its text, which mean the same in every corpus.

    Args:
        scores: The scores of the ranking.
        documents: The texts that were ranked, or texts with their labels.
        row_ids: The row that each document is from; None if the records don't name theirs.
    """
    top_wrong = scores.per_example[TOP_WRONG]
    fingerprints: dict[int, str | None] = {-1: None}
    for position in np.unique(top_wrong[top_wrong >= 0]).tolist():
        document = documents[position]
        text = document if isinstance(document, str) else document[0]
        fingerprints[position] = value_fingerprint([text])

    # The last entry stands for -1, no wrong document.
    rows = np.array([*row_ids, None], dtype=object)[top_wrong]
    hashes = np.array(list(map(fingerprints.get, top_wrong.tolist())), dtype=object)
    values = {name: column for name, column in scores.per_example.items() if name != TOP_WRONG}
    values |= {TOP_WRONG_ROW: rows, TOP_WRONG_HASH: hashes}
    corpus = value_fingerprint(list(documents))
    return replace(scores, per_example=values, documents=len(documents), corpus=corpus)


def _score_similarity(task: ScoringTask) -> Scores:
    first = task.encode(_column(task.records, "sentence1"))
    second = task.encode(_column(task.records, "sentence2"))
    scores = similarity_scores(first, second, _column(task.records, "score"))

    vectors = unit_vectors(np.concatenate([first, second]), "vectors")
    return _identified(with_health(scores, vectors, task.needs), task.records, task)


def _score_labels(task: ScoringTask) -> Scores:
    records = task.records
    if not task.corpus:
        labels = _column(records, "label")
        vectors = task.encode(_column(records, "text"))
        scores = label_retrieval_scores(vectors, labels, task.cutoffs)

        # A row whose label no other row has is no query.
        counts = Counter(labels)
        is_query = [counts[label] > 1 for label in labels]
        queries = list(compress(records, is_query))
        query_vectors = unit_vectors(vectors, "vectors")[is_query]
        scores = with_health(scores, query_vectors, task.needs)
        identified = _identified(scores, queries, task)
        return _among(identified, _column(records, "text"), _row_ids(records))

    # Equal texts of one label are one document.
    row_ids = {(record["text"], record["label"]): record.get("row_id") for record in task.corpus}
    documents = list(row_ids)
    texts, document_labels = zip(*documents, strict=True)
    known_labels = set(document_labels)
    queries = [record for record in records if record["label"] in known_labels]
    if not queries:
        raise SampleError(
            "labels of held-out rows must occur among the rows to learn from, got none of "
            f"{len(records)} rows whose label does. Collect more samples of each label."
        )

    query_labels = _column(queries, "label")
    query_vectors, document_vectors = task.encode(_column(queries, "text")), task.encode(texts)
    scores = labelled_document_scores(
        query_vectors,
        query_labels,
        document_vectors,
        document_labels,
        task.cutoffs,
        knn=task.needs("knn_accuracy"),
        probe=task.needs("probe_accuracy"),
    )
    units = unit_vectors(query_vectors, "query_vectors")
    if task.needs("alignment"):
        answers = unit_vectors(document_vectors, "document_vectors")
        alignments = label_alignments(units, query_labels, answers, document_labels)
        scores = scores.extended({"alignment": alignments}, "alignment")
    scores = with_health(scores, units, task.needs)
    identified = _identified(scores, queries, task)
    return _among(identified, documents, list(row_ids.values()))


def _score_vectors(task: ScoringTask) -> Scores:
    targets = np.array(_column(task.records, "embedding"), dtype=np.float32)
    vectors = task.encode(_column(task.records, "text"))
    scores = _identified(vector_scores(vectors, targets), task.records, task)
    return with_health(scores, unit_vectors(vectors, "vectors"), task.needs)


def _score_texts(task: ScoringTask) -> Scores:
    records = task.records
    first_halves, second_halves = zip(*map(_halves, _column(records, "text")), strict=True)
    # Unlike the documents of pairs, halves of the scored rows stay as many as the rows.
    further_halves = [_halves(text)[1] for text in _column(task.corpus, "text")]
    further = dict(zip(further_halves, _row_ids(task.corpus), strict=True))
    for half in second_halves:
        further.pop(half, None)
    documents = [*second_halves, *further]

    relevant = [[row] for row in range(len(records))]
    query_vectors, document_vectors = task.encode(list(first_halves)), task.encode(documents)
    scores = retrieval_scores(query_vectors, document_vectors, relevant, task.cutoffs)
    queries = unit_vectors(query_vectors, "query_vectors")
    answers = unit_vectors(document_vectors, "document_vectors")
    scores = with_pair_health(scores, queries, answers, relevant, task.needs)

    row_ids = [*_row_ids(records), *further.values()]
    return _among(_identified(scores, records, task), documents, row_ids)


def _is_pair(record: Record) -> bool:
    return "anchor" in record


def _row_ids(records: Sequence[Record]) -> list[int | None]:
    """Return the row of each record; None if it is in no row of the session."""
    row_ids = []
    for record in records:
        row_id = record.get("row_id")
        row_ids.append(None if row_id == NO_ROW else row_id)
    return row_ids


def _column(records: Sequence[Record], name: str) -> list[Any]:
    return [record[name] for record in records]


def _halves(text: str) -> tuple[str, str]:
    """Return the first half of a text's words and the second; a text of one word is both."""
    words = text.split()
    if len(words) < 2:
        return text, text
    middle = (len(words) + 1) // 2
    return " ".join(words[:middle]), " ".join(words[middle:])


SCORERS: dict[str, Callable[[ScoringTask], Scores]] = {
    "pair": _score_pairs,
    "score": _score_similarity,
    "label": _score_labels,
    "vector": _score_vectors,
    "text": _score_texts,
}
"""What scores the samples of a shape, by the shape's name."""
