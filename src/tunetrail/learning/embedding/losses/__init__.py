"""Losses of vectors: the formulas, what is put around them, and what they need of the records."""

from tunetrail.learning.embedding.losses.checks import check_loss, check_matryoshka, check_records
from tunetrail.learning.embedding.losses.constructors import (
    EmbeddingLoss,
    supervised_contrastive_loss,
)
from tunetrail.learning.embedding.losses.vector_loss import build_vector_loss

__all__ = [
    "EmbeddingLoss",
    "build_vector_loss",
    "check_loss",
    "check_matryoshka",
    "check_records",
    "supervised_contrastive_loss",
]
