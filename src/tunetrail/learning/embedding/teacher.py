"""What a teacher adds to records: its vectors of their texts, or its scores of their pairs.

Plain records in, plain records with further columns out; knows nothing of how the teacher is loaded or run.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunetrail.config.losses import Loss, Teaching
from tunetrail.errors import ConfigError, ModelError
from tunetrail.learning.embedding.losses import check_records
from tunetrail.learning.tokens.prompts import role_of
from tunetrail.samples import shape_named

Record = Mapping[str, Any]
NDArray = np.ndarray[Any, np.dtype[Any]]
TeacherEncode = Callable[[Sequence[str], str], NDArray]
"""Takes texts and their role, `query` or `document`; returns the teacher's vectors [texts, its dimensions]."""

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
    """Return the records with what the teacher says of them; each different text is encoded once.

    The further columns are, by the loss:

    - `mse`, `cosine`, `l2`: `teacher_embedding`, the teacher's vector of the text.
    - `margin_mse`, `distill_kl_div`: `teacher_scores`, its scores of the positive and of the negative.
    - `gist_embed`: `teacher_anchor`, `teacher_positive` and, where there is a negative, `teacher_negative`: vectors.

    Args:
        records: Texts, or pairs.
        loss: A loss that learns from a teacher.
        encode: Gives the teacher's vectors, scaled as the student's are to be.
        dimensions: Of the student's vectors.
        similarity: By which the teacher scores, `dot` or `cosine`; None: `dot`, as the student is scored by default.

    Raises:
        ConfigError: The teacher's vectors have other dimensions than the student's, which the loss compares.
        SampleError: A row lacks the negative that the loss needs.
        ModelError: The teacher's vectors hold something that isn't a finite number.
    """
    check_records(loss, records)
    if loss.teaching is Teaching.SCORES:
        return _with_scores(records, encode, similarity or "dot")
    if loss.teaching is Teaching.GUIDANCE:
        return _with_guide_vectors(records, encode)
    vectors = _vectors([record["text"] for record in records], "text", encode)
    if len(vectors) and vectors.shape[1] != dimensions:
        raise ConfigError(
            f"embedding.teacher must give vectors of the model's {dimensions} dimensions for the loss {loss.name}, got "
            f"{vectors.shape[1]}. Take another teacher, or learn from it on pairs (gist_embed, margin_mse, "
            "distill_kl_div)."
        )
    return [
        {**record, TEACHER_EMBEDDING: vector}
        for record, vector in zip(records, vectors, strict=True)
    ]


def teacher_target(records: Sequence[Record]) -> Tensor | None:
    """Return the target of a batch of taught records in the form that the loss takes; None for others.

    Returns:
        float32: vectors [rows, dimensions], scores [rows, 2], or the guide's vectors of all anchors, then of all
        positives, then of the negatives that are there [texts, its dimensions].
    """
    if not records:
        return None
    for column in (TEACHER_EMBEDDING, TEACHER_SCORES):
        if column in records[0]:
            return _tensor([record[column] for record in records])
    guides = [_guide_column(column) for column in _PAIR_COLUMNS]
    if guides[0] in records[0]:
        return _tensor([record[guide] for guide in guides for record in records if guide in record])
    return None


def _tensor(rows: Sequence[NDArray]) -> Tensor:
    return torch.from_numpy(np.stack(rows).astype(np.float32, copy=False))


def _guide_column(column: str) -> str:
    return f"teacher_{column}"


def _with_scores(records: Sequence[Record], encode: TeacherEncode, similarity: str) -> list[Record]:
    columns = [
        _vectors([record[name] for record in records], name, encode) for name in _PAIR_COLUMNS
    ]
    if similarity == "cosine":
        columns = [
            vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-8)
            for vectors in columns
        ]
    anchors, positives, negatives = columns
    scores = np.stack([(anchors * others).sum(axis=1) for others in (positives, negatives)], axis=1)
    return [{**record, TEACHER_SCORES: row} for record, row in zip(records, scores, strict=True)]


def _with_guide_vectors(records: Sequence[Record], encode: TeacherEncode) -> list[Record]:
    taught = [dict(record) for record in records]
    for column in _PAIR_COLUMNS:
        having = [record for record in taught if record.get(column)]
        vectors = _vectors([record[column] for record in having], column, encode)
        for record, vector in zip(having, vectors, strict=True):
            record[_guide_column(column)] = vector
    return list(taught)


def _vectors(texts: Sequence[str], column: str, encode: TeacherEncode) -> NDArray:
    """Return the teacher's vectors of a column's texts, float32 [texts, dimensions]."""
    if not texts:
        return np.zeros((0, 0), dtype=np.float32)
    different = list(dict.fromkeys(texts))
    vectors = np.asarray(encode(different, role_of(column)), dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(different):
        raise ValueError(
            f"encode must return [{len(different)}, dimensions], got {list(vectors.shape)}."
        )
    if not np.isfinite(vectors).all():
        raise ModelError(
            "the teacher's vectors must be finite numbers, got NaN or infinity. Take another teacher."
        )
    numbers = {text: number for number, text in enumerate(different)}
    return vectors[[numbers[text] for text in texts]]
