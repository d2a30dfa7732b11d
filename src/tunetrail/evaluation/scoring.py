"""Scores of an embedding model by shape of samples, and the metrics that can tell models apart."""

from collections.abc import Sequence

import numpy as np

from tunetrail.errors import SampleError
from tunetrail.evaluation.further_metrics import FurtherMetric
from tunetrail.evaluation.health import HEALTH_METRICS
from tunetrail.evaluation.metric import Array, Needs
from tunetrail.evaluation.metrics import CUTOFFS
from tunetrail.evaluation.scores import Scores
from tunetrail.evaluation.shape_scorers import SCORERS, Encode, Record, ScoringTask

# Metrics that don't choose weights: a regression takes long, and a collapsed model has the best
# alignment.
_UNMONITORED = ("probe_accuracy", "alignment", *HEALTH_METRICS.values())


def score_embedding(
    shape: str,
    records: Sequence[Record],
    encode: Encode,
    encode_documents: Encode | None = None,
    corpus: Sequence[Record] = (),
    *,
    cutoffs: Sequence[int] = CUTOFFS,
    needs: Needs = lambda metric: True,
    further: Sequence[FurtherMetric] = (),
) -> Scores:
    """Score an embedding model on held-out records of one shape.

    Pairs are scored by retrieval: each anchor is a query, the documents are all positives and
    negatives of the records and of the corpus. A labelled text retrieves the corpus' texts of its
    label. A plain text's first half retrieves its second half (the inverse cloze task of Lee et al.
    2019, https://arxiv.org/abs/1906.00300, section 4) among the second halves of all texts.

    Few documents are easy to rank, so that a metric of retrieval is near its best value for any
    model: the more documents, the more a difference of two models shows.

    Args:
        shape: Name of the samples' shape.
        records: The records to score on.
        encode: The model, as it reads queries and texts that are compared with one another.
        encode_documents: The model as it reads the documents of pairs, if it reads them in another
            way.
        corpus: Further records of the shape; see `corpus_rows`. Without them, the scored records
            retrieve one another. For pairs, a record with a `text` only is a document as well.
        cutoffs: Numbers of first documents that rankings are scored by.
        needs: Tells by its name whether a metric is computed that takes more than the primary one:
            k-NN, a linear probe, triplets, health, and further ones. By default, all are.
        further: Metrics of installed packages.

    Returns:
        The scores with the row id and the cluster of each example, and what was ranked.

    Raises:
        SampleError: There is nothing to score, as no label occurs in the corpus.
    """
    task = ScoringTask(
        shape=shape,
        records=records,
        encode=encode,
        encode_documents=encode_documents or encode,
        corpus=corpus,
        cutoffs=cutoffs,
        needs=needs,
        further=further,
    )
    return SCORERS[shape](task)


def distinguishing_metrics(
    shape: str, records: Sequence[Record], corpus: Sequence[Record] = ()
) -> list[str]:
    """Return the metrics by which records can tell models apart, the primary one first.

    Only those by which weights can be chosen: neither a linear probe nor the health of vectors.

    Returns:
        An empty list if none can: there is a single example or document, all gold scores are
        equal, or no label occurs in the corpus.
    """
    if len(records) < 2:
        return []
    if shape == "score" and len({record["score"] for record in records}) < 2:
        return []

    dimensions = len(records[0]["embedding"]) if shape == "vector" else 1

    def encode_equally(texts: Sequence[str]) -> Array:
        return np.ones((len(texts), dimensions), dtype=np.float32)

    try:
        scores = score_embedding(
            shape,
            records,
            encode_equally,
            corpus=corpus,
            needs=lambda metric: metric not in _UNMONITORED,
        )
    except SampleError:
        return []
    # Equal vectors make the worst ranking that there is: if it is perfect, all are.
    is_perfect = scores.documents is not None and scores.value >= 1.0
    return [] if is_perfect or scores.examples < 2 else list(scores.metrics)
