"""Which scores suit which shape of samples, for a model given as a function of texts."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tunetrail.evaluation.ranking import label_retrieval_scores, retrieval_scores
from tunetrail.evaluation.scores import Scores, similarity_scores, vector_scores

NDArray = np.ndarray[Any, np.dtype[Any]]
Encode = Callable[[Sequence[str]], NDArray]
"""Texts to vectors [texts, dimensions]."""
Record = Mapping[str, Any]


def score_embedding(
    shape: str, records: Sequence[Record], encode: Encode, encode_documents: Encode | None = None
) -> Scores:
    """Score an embedding model on held-out records of one shape.

    Pairs are scored by retrieval: each anchor is a query, the documents are all positives and
    negatives of the records. A labelled text retrieves the texts of its label. A plain text's first
    half retrieves its second half (the inverse cloze task of Lee et al. 2019,
    https://arxiv.org/abs/1906.00300, section 4).

    Args:
        shape: Name of the samples' shape.
        records: The records to score on.
        encode: The model, as it reads queries and texts that are compared with one another.
        encode_documents: The model as it reads the documents of pairs, if it reads them in another
            way.

    Returns:
        The scores with the row id and the cluster of each example.
    """
    if shape == "pair":
        return _score_pairs(records, encode, encode_documents or encode)
    return _SCORERS[shape](records, encode)


def _score_pairs(records: Sequence[Record], encode: Encode, encode_documents: Encode) -> Scores:
    # Equal anchors are one query, which stands for the first of its rows.
    first_records: dict[str, Record] = {}
    positives_by_anchor: dict[str, set[str]] = {}
    for record in records:
        first_records.setdefault(record["anchor"], record)
        positives_by_anchor.setdefault(record["anchor"], set()).add(record["positive"])

    # A document of several rows is ranked once, or it would tie with itself.
    negatives = [record["negative"] for record in records if record.get("negative")]
    documents = list(dict.fromkeys([*_column(records, "positive"), *negatives]))
    position_of = dict(zip(documents, range(len(documents)), strict=True))

    relevant = [
        sorted(map(position_of.__getitem__, positives))
        for positives in positives_by_anchor.values()
    ]
    query_vectors, document_vectors = encode(list(first_records)), encode_documents(documents)
    scores = retrieval_scores(query_vectors, document_vectors, relevant)
    return scores.identified(list(first_records.values()))


def _score_similarity(records: Sequence[Record], encode: Encode) -> Scores:
    first = encode(_column(records, "sentence1"))
    second = encode(_column(records, "sentence2"))
    scores = similarity_scores(first, second, _column(records, "score"))
    return scores.identified(records)


def _score_labels(records: Sequence[Record], encode: Encode) -> Scores:
    labels = _column(records, "label")
    scores = label_retrieval_scores(encode(_column(records, "text")), labels)

    # A row whose label no other row has is no query.
    counts = Counter(labels)
    queries = [record for record in records if counts[record["label"]] > 1]
    return scores.identified(queries)


def _score_vectors(records: Sequence[Record], encode: Encode) -> Scores:
    targets = np.array(_column(records, "embedding"), dtype=np.float32)
    scores = vector_scores(encode(_column(records, "text")), targets)
    return scores.identified(records)


def _score_texts(records: Sequence[Record], encode: Encode) -> Scores:
    first_halves, second_halves = zip(*map(_halves, _column(records, "text")), strict=True)
    relevant = [[row] for row in range(len(records))]
    scores = retrieval_scores(encode(list(first_halves)), encode(list(second_halves)), relevant)
    return scores.identified(records)


def _column(records: Sequence[Record], name: str) -> list[Any]:
    return [record[name] for record in records]


def _halves(text: str) -> tuple[str, str]:
    """Return the first half of a text's words and the second; a text of one word is both."""
    words = text.split()
    if len(words) < 2:
        return text, text
    middle = (len(words) + 1) // 2
    return " ".join(words[:middle]), " ".join(words[middle:])


_SCORERS: dict[str, Callable[[Sequence[Record], Encode], Scores]] = {
    "score": _score_similarity,
    "label": _score_labels,
    "vector": _score_vectors,
    "text": _score_texts,
}
