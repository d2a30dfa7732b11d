"""sentence-transformers' losses, unmodified, on vectors that are there already."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, cast

from sentence_transformers import util
from sentence_transformers.sentence_transformer.losses import (
    AnglELoss,
    BatchAllTripletLoss,
    BatchHardSoftMarginTripletLoss,
    BatchHardTripletLoss,
    BatchHardTripletLossDistanceFunction,
    BatchSemiHardTripletLoss,
    ContrastiveLoss,
    CoSENTLoss,
    CosineSimilarityLoss,
    DistillKLDivLoss,
    EmbedDistillLoss,
    GISTEmbedLoss,
    GlobalOrthogonalRegularizationLoss,
    MarginMSELoss,
    MegaBatchMarginLoss,
    MultipleNegativesRankingLoss,
    OnlineContrastiveLoss,
    SiameseDistanceMetric,
    TripletDistanceMetric,
    TripletLoss,
)
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from tunetrail.config.embedding import LOSS_OPTIONS, LossConfig

VECTORS = "sentence_embedding"
GUIDE_VECTORS = "guide_embedding"


class _GuidedLoss(GISTEmbedLoss):
    def sim_matrix(self, embed1: Tensor, embed2: Tensor) -> Tensor:
        """Return the same cosines by a matrix product: the library's way holds [rows, rows, dimensions] in memory."""
        return util.cos_sim(embed1, embed2)


_CLASSES: Mapping[str, Callable[..., nn.Module]] = {
    "multiple_negatives_ranking": MultipleNegativesRankingLoss,
    "multiple_negatives_symmetric_ranking": MultipleNegativesRankingLoss,
    "mega_batch_margin": MegaBatchMarginLoss,
    "triplet": TripletLoss,
    "gist_embed": _GuidedLoss,
    "margin_mse": MarginMSELoss,
    "distill_kl_div": DistillKLDivLoss,
    "cosent": CoSENTLoss,
    "angle": AnglELoss,
    "cosine_similarity": CosineSimilarityLoss,
    "contrastive": ContrastiveLoss,
    "online_contrastive": OnlineContrastiveLoss,
    "batch_all_triplet": BatchAllTripletLoss,
    "batch_hard_triplet": BatchHardTripletLoss,
    "batch_semi_hard_triplet": BatchSemiHardTripletLoss,
    "batch_hard_soft_margin_triplet": BatchHardSoftMarginTripletLoss,
    "mse": EmbedDistillLoss,
    "cosine": EmbedDistillLoss,
    "l2": EmbedDistillLoss,
    "simcse": MultipleNegativesRankingLoss,
    "global_orthogonal_regularization": GlobalOrthogonalRegularizationLoss,
}
_KEYWORDS: Mapping[str, Mapping[str, Any]] = {
    # what the library's own class for it, which is deprecated, hands on
    "multiple_negatives_symmetric_ranking": {
        "directions": ("query_to_doc", "doc_to_query"),
        "partition_mode": "per_direction",
    },
    "mega_batch_margin": {"use_mini_batched_version": False},
    "mse": {"distance_metric": "mse"},
    "cosine": {"distance_metric": "cosine"},
    "l2": {"distance_metric": "l2"},
}
_PAIRWISE = ("cosent", "margin_mse", "distill_kl_div")


class GivenVectors(nn.Module):
    """Takes the place of a model: the vectors of a text are among its features."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the vectors as they are, under the name that losses look for."""
        return {VECTORS: features[self.key]}


class _WithTokenizer(GivenVectors):
    """One whose tokenizer and length equal those of every other, so that nothing is tokenised for the guide."""

    max_seq_length = 0

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer that guided losses ask for."""
        return _no_tokenizer()


@cache
def _no_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer: Callable[..., PreTrainedTokenizerFast] = PreTrainedTokenizerFast
    return tokenizer(tokenizer_object=Tokenizer(WordLevel({}, unk_token="")))


def library_loss(name: str, options: LossConfig) -> nn.Module:
    """Return sentence-transformers' loss of that name, which takes the vectors among its features."""
    keywords = {**_KEYWORDS.get(name, {}), **_option_keywords(name, options)}
    if name == "gist_embed":
        return _CLASSES[name](
            _WithTokenizer(VECTORS), guide=_WithTokenizer(GUIDE_VECTORS), **keywords
        )
    return _CLASSES[name](GivenVectors(VECTORS), **keywords)


def _option_keywords(name: str, options: LossConfig) -> dict[str, Any]:
    given = {
        each: getattr(options, each) for each, losses in LOSS_OPTIONS.items() if name in losses
    }
    given = {
        each: value
        for each, value in given.items()
        if value is not None and each != "orthogonality"
    }
    if "similarity" in given:
        given["similarity_fct"] = _similarity(name, given.pop("similarity"))
    if "distance" in given:
        given["distance_metric"] = _distance(name, given.pop("distance"))
    if name == "triplet" and "margin" in given:
        given["triplet_margin"] = given.pop("margin")
    return given


def _similarity(name: str, similarity: str) -> Callable[[Tensor, Tensor], Tensor]:
    if name in _PAIRWISE:
        return util.pairwise_cos_sim if similarity == "cosine" else util.pairwise_dot_score
    return util.cos_sim if similarity == "cosine" else util.dot_score


def _distance(name: str, distance: str) -> Callable[..., Tensor]:
    if name == "triplet":
        return cast(Callable[..., Tensor], getattr(TripletDistanceMetric, distance.upper()))
    if name in ("contrastive", "online_contrastive"):
        metric = "COSINE_DISTANCE" if distance == "cosine" else distance.upper()
        return cast(Callable[..., Tensor], getattr(SiameseDistanceMetric, metric))
    return cast(
        Callable[..., Tensor], getattr(BatchHardTripletLossDistanceFunction, f"{distance}_distance")
    )
