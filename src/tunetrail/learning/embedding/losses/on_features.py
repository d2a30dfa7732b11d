"""Losses that run the model themselves, from tokenised columns."""

from collections.abc import Callable
from typing import Any

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

from tunetrail.learning.embedding.losses.choice import loss_name
from tunetrail.learning.embedding.losses.supervised import supervised_contrastive_loss

Features = list[dict[str, Any]]
"""One dict of tensors [batch, tokens] per text column, as the model's tokenizer gives them."""
FeatureLoss = Callable[[Features, Tensor | None], Tensor]


def build_embedding_loss(model: SentenceTransformer, shape: str, name: str, mini_batch_size: int) -> FeatureLoss:
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
    paired: dict[str, Callable[[], FeatureLoss]] = {
        "cosent": lambda: CoSENTLoss(model),
        "angle": lambda: AnglELoss(model),
        "cosine_similarity": lambda: CosineSimilarityLoss(model),
        "mse": lambda: EmbedDistillLoss(model, distance_metric="mse"),
        "cosine": lambda: EmbedDistillLoss(model, distance_metric="cosine"),
    }
    return paired[name]()


def _contrastive(model: SentenceTransformer, mini_batch_size: int) -> FeatureLoss:
    if mini_batch_size:
        return CachedMultipleNegativesRankingLoss(model, mini_batch_size=mini_batch_size)
    return MultipleNegativesRankingLoss(model)


def _present(target: Tensor | None) -> Tensor:
    if target is None:
        raise ValueError("this loss needs a target per row")
    return target
