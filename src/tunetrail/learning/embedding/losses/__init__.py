"""Losses for each shape of embedding samples: functions of vectors, sentence-transformers' own where they exist."""

from tunetrail.learning.embedding.losses.choice import (
    check_loss,
    check_matryoshka,
    check_records,
    loss_name,
)
from tunetrail.learning.embedding.losses.matryoshka import EmbeddingLoss
from tunetrail.learning.embedding.losses.supervised import supervised_contrastive_loss
from tunetrail.learning.embedding.losses.vector_loss import build_vector_loss

__all__ = [
    "EmbeddingLoss",
    "build_vector_loss",
    "check_loss",
    "check_matryoshka",
    "check_records",
    "loss_name",
    "supervised_contrastive_loss",
]
