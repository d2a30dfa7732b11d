"""What a teacher adds to records: its vectors of their texts, or its scores of their pairs.

Takes plain records and returns them with further columns; the teacher comes in as a function.
"""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunetrail.config.losses import Loss, Teaching
from tunetrail.errors import ConfigError, ModelError
from tunetrail.learning.embedding.losses import check_records
from tunetrail.learning.tokens.prompts import role_of
from tunetrail.learning.training.records import Record
from tunetrail.samples import shape_named

NDArray = np.ndarray[Any, np.dtype[Any]]
TeacherEncode = Callable[[Sequence[str], str], NDArray]
"""Takes texts and their role, `query` or `document`; returns vectors [texts, dimensions]."""

TEACHER_EMBEDDING = "teacher_embedding"
TEACHER_SCORES = "teacher_scores"
_PAIR_COLUMNS = shape_named("pair").texts


def taught_records(
    records: Sequence[Record],
    *,
    loss: Loss,
    encode: TeacherEncode,
    dimensions: int,
    similarity: str | None = None,
) -> list[Record]:
    """Return the records with what the teacher says of them; each distinct text is encoded once.

    The further columns follow from what the loss learns from a teacher:

    - vectors: `teacher_embedding`, the teacher's vector of the text.
    - scores: `teacher_scores`, its scores of the positive and of the negative.
    - guidance: `teacher_anchor`, `teacher_positive` and, if there is a negative,
      `teacher_negative`: vectors.

    Args:
        records: Texts, or pairs.
        loss: A loss that learns from a teacher.
        encode: Gives the teacher's vectors, scaled as the student's are to be.
        dimensions: Number of dimensions of the student's vectors.
        similarity: How the teacher scores, `dot` or `cosine`; None: `dot`, as the student is scored
            by default.

    Raises:
        ConfigError: The teacher's vectors have another number of dimensions than the student's,
            and the loss compares them.
        SampleError: A row lacks the negative that the loss needs.
        ModelError: A number in the teacher's vectors is not finite.
    """
    check_records(loss, records)
    if loss.teaching is Teaching.SCORES:
        return _with_scores(records, encode, similarity or "dot")
    if loss.teaching is Teaching.GUIDANCE:
        return _with_guide_vectors(records, encode)

    vectors = _encode_column(records, "text", encode)
    if len(vectors) and vectors.shape[1] != dimensions:
        raise ConfigError(
            f"embedding.teacher must give vectors of the model's {dimensions} dimensions for the "
            f"loss {loss.name}, got {vectors.shape[1]}. Choose another teacher, or learn from it "
            "on pairs (gist_embed, margin_mse, distill_kl_div)."
        )
    return _with_column(records, TEACHER_EMBEDDING, vectors)


def teacher_target(records: Sequence[Record]) -> Tensor | None:
    """Return the target of a batch in the form that the loss takes; None without a teacher.

    Returns:
        float32: vectors [rows, dimensions], scores [rows, 2], or the guide's vectors of all
        anchors, then of all positives, then of the negatives that are there
        [texts, dimensions of the guide].
    """
    if not records:
        return None

    for column in (TEACHER_EMBEDDING, TEACHER_SCORES):
        if column in records[0]:
            return _tensor(list(map(itemgetter(column), records)))

    # Column after column, as the student's vectors are; rows without a negative have none here.
    guide_vectors = []
    for column in map(_guide_column, _PAIR_COLUMNS):
        guide_vectors += [record[column] for record in records if column in record]
    # No column of a teacher at all: the target is the row's own, if it has one.
    return _tensor(guide_vectors) if guide_vectors else None


def _tensor(rows: Sequence[NDArray]) -> Tensor:
    return torch.from_numpy(np.stack(rows).astype(np.float32, copy=False))


def _guide_column(column: str) -> str:
    return f"teacher_{column}"


def _with_column(records: Sequence[Record], column: str, values: NDArray) -> list[Record]:
    return [{**record, column: value} for record, value in zip(records, values, strict=True)]


def _with_scores(records: Sequence[Record], encode: TeacherEncode, similarity: str) -> list[Record]:
    anchors, positives, negatives = (
        _encode_column(records, column, encode) for column in _PAIR_COLUMNS
    )
    if similarity == "cosine":
        anchors, positives, negatives = map(_normalized, (anchors, positives, negatives))

    positive_scores = (anchors * positives).sum(axis=1)
    negative_scores = (anchors * negatives).sum(axis=1)
    scores = np.stack([positive_scores, negative_scores], axis=1)
    return _with_column(records, TEACHER_SCORES, scores)


def _normalized(vectors: NDArray) -> NDArray:
    # The least norm is the one that torch's cosine similarity takes.
    norms: NDArray = np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-8)
    normalized: NDArray = vectors / norms
    return normalized


def _with_guide_vectors(records: Sequence[Record], encode: TeacherEncode) -> list[Record]:
    guided = list(map(dict, records))
    for column in _PAIR_COLUMNS:
        having = [record for record in guided if record.get(column)]
        for record, vector in zip(having, _encode_column(having, column, encode), strict=True):
            record[_guide_column(column)] = vector
    return list(guided)


def _encode_column(records: Sequence[Record], column: str, encode: TeacherEncode) -> NDArray:
    """Return the teacher's vectors of a column's texts, float32 [texts, dimensions]."""
    if not records:
        return np.zeros((0, 0), dtype=np.float32)

    # Texts repeat, in the negatives above all, and a teacher is slow.
    texts = list(map(itemgetter(column), records))
    distinct = list(dict.fromkeys(texts))
    vectors = np.asarray(encode(distinct, role_of(column)), dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(distinct):
        raise ValueError(
            f"encode must return [{len(distinct)}, dimensions], got {list(vectors.shape)}."
        )
    if not np.isfinite(vectors).all():
        raise ModelError(
            "the teacher's vectors must be finite numbers, got NaN or infinity. "
            "Choose another teacher."
        )

    vector_of = dict(zip(distinct, vectors, strict=True))
    return np.stack([vector_of[text] for text in texts])
