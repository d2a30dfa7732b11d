"""Which scores suit which shape of samples. The model comes in as a function from texts to vectors."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tunetrail.evaluation.scores import (
    Scores,
    label_retrieval_scores,
    retrieval_scores,
    similarity_scores,
    vector_scores,
)

NDArray = np.ndarray[Any, np.dtype[Any]]
Encode = Callable[[Sequence[str]], NDArray]
"""Texts to vectors [texts, dimensions]."""
Record = Mapping[str, Any]


def score_embedding(
    shape: str, records: Sequence[Record], encode: Encode, encode_documents: Encode | None = None
) -> Scores:
    """Score an embedding model on held-out records of one shape.

    Pairs are scored by retrieval: each anchor is a query, the documents are all positives and negatives of the records.
    Labelled texts: each text retrieves those of its label. Plain texts: each text's first half retrieves its second
    half (the inverse cloze task of Lee et al. 2019, https://arxiv.org/abs/1906.00300, section 4).

    Args:
        shape: Name of the samples' shape.
        records: What to score on.
        encode: The model, as it reads queries and texts that are compared with one another.
        encode_documents: The model as it reads the documents of pairs, where that is another way.
    """
    if shape == "pair":
        scores = _score_pairs(records, encode, encode_documents or encode)
    else:
        scores = _SCORERS[shape](records, encode)
    return with_clusters(scores, _scored_records(shape, records))


def with_clusters(scores: Scores, records: Sequence[Record]) -> Scores:
    """Return the scores with the cluster of each example, where the records (one for each example) name theirs."""
    if not all("cluster" in record for record in records):
        return scores
    return dataclasses.replace(scores, clusters=[record["cluster"] for record in records])


def _scored_records(shape: str, records: Sequence[Record]) -> list[Record]:
    """Return one record for each example: equal anchors are one query, a label that occurs once is none."""
    if shape == "pair":
        first: dict[str, Record] = {}
        for record in records:
            first.setdefault(record["anchor"], record)
        return list(first.values())
    if shape == "label":
        counts = Counter(record["label"] for record in records)
        return [record for record in records if counts[record["label"]] > 1]
    return list(records)


def _score_pairs(records: Sequence[Record], encode: Encode, encode_documents: Encode) -> Scores:
    positives = [record["positive"] for record in records]
    negatives = [record["negative"] for record in records if record.get("negative")]
    documents = list(dict.fromkeys([*positives, *negatives]))
    place = {document: number for number, document in enumerate(documents)}
    wanted: dict[str, list[int]] = {}
    for record in records:
        wanted.setdefault(record["anchor"], []).append(place[record["positive"]])
    relevant = [sorted(set(places)) for places in wanted.values()]
    return retrieval_scores(encode(list(wanted)), encode_documents(documents), relevant)


def _score_similarity(records: Sequence[Record], encode: Encode) -> Scores:
    first = encode([record["sentence1"] for record in records])
    second = encode([record["sentence2"] for record in records])
    return similarity_scores(first, second, [record["score"] for record in records])


def _score_labels(records: Sequence[Record], encode: Encode) -> Scores:
    return label_retrieval_scores(
        encode([record["text"] for record in records]), [record["label"] for record in records]
    )


def _score_vectors(records: Sequence[Record], encode: Encode) -> Scores:
    vectors = encode([record["text"] for record in records])
    return vector_scores(
        vectors, np.array([record["embedding"] for record in records], dtype=np.float32)
    )


def _score_texts(records: Sequence[Record], encode: Encode) -> Scores:
    halves = [_halves(record["text"]) for record in records]
    queries, documents = (
        encode([first for first, _ in halves]),
        encode([second for _, second in halves]),
    )
    return retrieval_scores(queries, documents, [[number] for number in range(len(halves))])


def _halves(text: str) -> tuple[str, str]:
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
