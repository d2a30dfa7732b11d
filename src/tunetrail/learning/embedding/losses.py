"""Losses for each shape of embedding samples: sentence-transformers' own where they exist.

A loss here is a function of the tokenised columns of a batch and its targets. Knows nothing of Lightning or of rows.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as functional
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    AnglELoss,
    CachedMultipleNegativesRankingLoss,
    CoSENTLoss,
    CosineSimilarityLoss,
    EmbedDistillLoss,
    MultipleNegativesRankingLoss,
)
from torch import Tensor

from tunetrail.config import EMBEDDING_LOSSES
from tunetrail.errors import ConfigError

Features = list[dict[str, Any]]
"""One dict of tensors [batch, tokens] per text column, as the model's tokenizer gives them."""
EmbeddingLoss = Callable[[Features, Tensor | None], Tensor]


def loss_name(shape: str, name: str) -> str:
    """Return the loss for `name` (`auto`: the shape's default); raises `ConfigError` where it doesn't fit the shape."""
    fitting = EMBEDDING_LOSSES[shape]
    if name == "auto":
        return fitting[0]
    if name not in fitting:
        raise ConfigError(
            f"embedding.loss must be one of auto, {', '.join(fitting)} for {shape} samples, got {name!r}."
        )
    return name


def build_embedding_loss(model: SentenceTransformer, shape: str, name: str, mini_batch_size: int) -> EmbeddingLoss:
    """Return the loss of that name for samples of that shape.

    Args:
        model: The model that the loss calls.
        shape: The samples' shape, which says how many columns a batch has.
        name: A loss of `EMBEDDING_LOSSES`, or `auto`.
        mini_batch_size: Above 0, contrastive batches go through the model in pieces of this size (GradCache, Gao et
            al. 2021).
    """
    name = loss_name(shape, name)
    if name == "multiple_negatives_ranking":
        return _contrastive(model, mini_batch_size)
    if name == "simcse":
        contrastive = _contrastive(model, mini_batch_size)
        return lambda features, target: contrastive([features[0], dict(features[0])], None)
    if name == "supervised_contrastive":
        return lambda features, target: supervised_contrastive_loss(
            model(dict(features[0]))["sentence_embedding"], _present(target)
        )
    paired: dict[str, Callable[[], EmbeddingLoss]] = {
        "cosent": lambda: CoSENTLoss(model),
        "angle": lambda: AnglELoss(model),
        "cosine_similarity": lambda: CosineSimilarityLoss(model),
        "mse": lambda: EmbedDistillLoss(model, distance_metric="mse"),
        "cosine": lambda: EmbedDistillLoss(model, distance_metric="cosine"),
    }
    return paired[name]()


def _contrastive(model: SentenceTransformer, mini_batch_size: int) -> EmbeddingLoss:
    if mini_batch_size:
        return CachedMultipleNegativesRankingLoss(model, mini_batch_size=mini_batch_size)
    return MultipleNegativesRankingLoss(model)


def _present(target: Tensor | None) -> Tensor:
    if target is None:
        raise ValueError("this loss needs a target per row")
    return target


def supervised_contrastive_loss(embeddings: Tensor, labels: Tensor, temperature: float = 0.05) -> Tensor:
    """Supervised contrastive loss, L_out of Khosla et al. 2020 (https://arxiv.org/abs/2004.11362), equation 2.

    Args:
        embeddings: Sentence vectors [batch, dimensions]; normalised here.
        labels: One label per row [batch].
        temperature: Divides the cosines.

    Returns:
        The mean over the rows that share their label with another row of the batch; 0 where no row does.
    """
    vectors = functional.normalize(embeddings.float(), dim=1)
    itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    logits = (vectors @ vectors.T / temperature).masked_fill(itself, -torch.inf)
    log_probability = logits - logits.logsumexp(dim=1, keepdim=True)
    positive = (labels[:, None] == labels[None, :]) & ~itself
    partners = positive.sum(dim=1)
    per_row = -log_probability.masked_fill(~positive, 0.0).sum(dim=1) / partners.clamp(min=1)
    return per_row[partners > 0].mean() if bool((partners > 0).any()) else (vectors.sum() * 0.0)
