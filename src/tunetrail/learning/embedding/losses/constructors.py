"""The formula of each loss, by the names of `tunetrail.config.losses.LOSSES`.

Most are sentence-transformers' own losses, unmodified, on vectors that are already there.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from sentence_transformers import util
from sentence_transformers.sentence_transformer import losses as library
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

EmbeddingLoss = Callable[[list[Tensor], Tensor | None], Tensor]
"""Takes a tensor [rows, dimensions] per text column, and the target; returns a single number."""

_Options = Mapping[str, Any]
_VECTORS = "sentence_embedding"
_GUIDE_VECTORS = "guide_embedding"

_MATRIX_SIMILARITIES = {"cosine": util.cos_sim, "dot": util.dot_score}
_PAIR_SIMILARITIES = {"cosine": util.pairwise_cos_sim, "dot": util.pairwise_dot_score}
_TRIPLET_DISTANCES = {
    "cosine": library.TripletDistanceMetric.COSINE,
    "euclidean": library.TripletDistanceMetric.EUCLIDEAN,
    "manhattan": library.TripletDistanceMetric.MANHATTAN,
}
_PAIR_DISTANCES = {
    "cosine": library.SiameseDistanceMetric.COSINE_DISTANCE,
    "euclidean": library.SiameseDistanceMetric.EUCLIDEAN,
    "manhattan": library.SiameseDistanceMetric.MANHATTAN,
}
_BATCH_DISTANCES = {
    "cosine": library.BatchHardTripletLossDistanceFunction.cosine_distance,
    "euclidean": library.BatchHardTripletLossDistanceFunction.euclidean_distance,
}


def construct_loss(name: str, options: _Options) -> EmbeddingLoss:
    """Return the loss of that name.

    Args:
        name: A key of `tunetrail.config.losses.LOSSES`.
        options: The options that are set, by their fields in `LossConfig`.
    """
    return _CONSTRUCTORS[name](options)


def with_orthogonality(loss: EmbeddingLoss, weight: float) -> EmbeddingLoss:
    """Add the global orthogonal regularisation of Zhang et al. 2017 to a loss.

    See https://arxiv.org/abs/1708.06320.
    """
    regularization_class: Callable[..., nn.Module] = library.GlobalOrthogonalRegularizationLoss
    regularization = regularization_class(_PassThrough(_VECTORS))

    def regularized(vectors: list[Tensor], target: Tensor | None) -> Tensor:
        # The library names its terms, already weighted among themselves.
        terms = regularization(_as_features(vectors))
        return loss(vectors, target) + weight * torch.stack(list(terms.values())).sum()

    return regularized


def supervised_contrastive_loss(
    embeddings: Tensor, labels: Tensor, temperature: float = 0.05
) -> Tensor:
    """Return the supervised contrastive loss, which sentence-transformers doesn't have.

    L_out of Khosla et al. 2020 (https://arxiv.org/abs/2004.11362), equation 2.

    Args:
        embeddings: Sentence vectors [rows, dimensions]; normalised here.
        labels: One label per row [rows].
        temperature: Divides the cosines.

    Returns:
        The mean over the rows that share their label with another row of the batch; 0 if none does.
    """
    vectors = functional.normalize(embeddings.float(), dim=1)
    itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    # A row is neither its own positive nor its own negative.
    logits = (vectors @ vectors.T / temperature).masked_fill(itself, -torch.inf)
    log_probability = logits - logits.logsumexp(dim=1, keepdim=True)

    # Rows without a partner get 0 here and are left out of the mean.
    positive = (labels[:, None] == labels[None, :]) & ~itself
    partners = positive.sum(dim=1)
    per_row = -log_probability.masked_fill(~positive, 0.0).sum(dim=1) / partners.clamp(min=1)

    has_partner = partners > 0
    # Without partners the loss is 0, but still a function of the vectors: it has a gradient.
    return per_row[has_partner].mean() if bool(has_partner.any()) else vectors.sum() * 0.0


def _as_features(vectors: Sequence[Tensor]) -> list[dict[str, Tensor]]:
    """Return the columns in the form that losses hand to `_PassThrough`."""
    return [{_VECTORS: column} for column in vectors]


class _PassThrough(nn.Module):
    """Stands in for a model: the vectors of a text are already among its features."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the vectors as they are, under the name that losses look for."""
        return {_VECTORS: features[self.key]}


class _PassThroughWithTokenizer(_PassThrough):
    """Stands in for a model or its guide.

    A guided loss tokenises texts again for a guide with another tokenizer or length: these have
    the same.
    """

    max_seq_length = 0

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer that guided losses compare."""
        return _empty_tokenizer()


@cache
def _empty_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer: Callable[..., PreTrainedTokenizerFast] = PreTrainedTokenizerFast
    # Never asked for a token: guided losses only compare the two tokenizers.
    return tokenizer(tokenizer_object=Tokenizer(WordLevel({}, unk_token="")))


class _GuidedLoss(library.GISTEmbedLoss):
    def sim_matrix(self, embed1: Tensor, embed2: Tensor) -> Tensor:
        """Return the library's cosines without its [rows, rows, dimensions] in memory."""
        return util.cos_sim(embed1, embed2)


def _library_loss(
    options: _Options,
    *,
    loss_class: Callable[..., nn.Module],
    similarities: Mapping[str, Any] | None = None,
    distances: Mapping[str, Any] | None = None,
    margin: str = "margin",
    **fixed: Any,
) -> EmbeddingLoss:
    """Return a loss of sentence-transformers.

    Args:
        options: The options that are set.
        loss_class: The library's class.
        similarities: The library's similarities, by our names.
        distances: The library's distances, by our names.
        margin: The library's name of the option `margin`.
        fixed: Further keywords of the class.
    """
    # Our options have one name for all losses; the library's keywords differ.
    keywords = {**fixed, **options}
    if similarities and "similarity" in keywords:
        keywords["similarity_fct"] = similarities[keywords.pop("similarity")]
    if distances and "distance" in keywords:
        keywords["distance_metric"] = distances[keywords.pop("distance")]
    if "margin" in keywords:
        keywords[margin] = keywords.pop("margin")

    module = loss_class(_PassThrough(_VECTORS), **keywords)
    return lambda vectors, target: module(_as_features(vectors), target)


def _guided_loss(options: _Options) -> EmbeddingLoss:
    """Return GISTEmbed, whose target holds the guide's vectors of all columns."""
    loss_class: Callable[..., nn.Module] = _GuidedLoss
    guide = _PassThroughWithTokenizer(_GUIDE_VECTORS)
    module = loss_class(_PassThroughWithTokenizer(_VECTORS), guide=guide, **options)

    def loss(vectors: list[Tensor], target: Tensor | None) -> Tensor:
        assert target is not None
        # The target holds the guide's vectors column after column, as long as ours.
        guide_vectors = torch.split(target, list(map(len, vectors)))
        features = [
            {_VECTORS: column, _GUIDE_VECTORS: guide_column}
            for column, guide_column in zip(vectors, guide_vectors, strict=True)
        ]
        value: Tensor = module(features, None)
        return value

    return loss


def _supervised_contrastive(options: _Options) -> EmbeddingLoss:
    def loss(vectors: list[Tensor], target: Tensor | None) -> Tensor:
        assert target is not None
        return supervised_contrastive_loss(vectors[0], target, **options)

    return loss


_ranking = partial(
    _library_loss,
    loss_class=library.MultipleNegativesRankingLoss,
    similarities=_MATRIX_SIMILARITIES,
)
_batch_triplet = partial(_library_loss, distances=_BATCH_DISTANCES)
_distance_to_target = partial(_library_loss, loss_class=library.EmbedDistillLoss)

_CONSTRUCTORS: Mapping[str, Callable[[_Options], EmbeddingLoss]] = {
    "multiple_negatives_ranking": _ranking,
    # The library's own class for it is deprecated; these are the keywords that it hands on.
    "multiple_negatives_symmetric_ranking": partial(
        _ranking,
        directions=("query_to_doc", "doc_to_query"),
        partition_mode="per_direction",
    ),
    # The library's mini-batches embed every text twice, but the vectors are there already.
    "mega_batch_margin": partial(
        _library_loss, loss_class=library.MegaBatchMarginLoss, use_mini_batched_version=False
    ),
    "triplet": partial(
        _library_loss,
        loss_class=library.TripletLoss,
        distances=_TRIPLET_DISTANCES,
        margin="triplet_margin",
    ),
    "gist_embed": _guided_loss,
    "margin_mse": partial(
        _library_loss, loss_class=library.MarginMSELoss, similarities=_PAIR_SIMILARITIES
    ),
    "distill_kl_div": partial(
        _library_loss, loss_class=library.DistillKLDivLoss, similarities=_PAIR_SIMILARITIES
    ),
    "cosent": partial(
        _library_loss, loss_class=library.CoSENTLoss, similarities=_PAIR_SIMILARITIES
    ),
    "angle": partial(_library_loss, loss_class=library.AnglELoss),
    "cosine_similarity": partial(_library_loss, loss_class=library.CosineSimilarityLoss),
    "contrastive": partial(
        _library_loss, loss_class=library.ContrastiveLoss, distances=_PAIR_DISTANCES
    ),
    "online_contrastive": partial(
        _library_loss, loss_class=library.OnlineContrastiveLoss, distances=_PAIR_DISTANCES
    ),
    "supervised_contrastive": _supervised_contrastive,
    "batch_all_triplet": partial(_batch_triplet, loss_class=library.BatchAllTripletLoss),
    "batch_hard_triplet": partial(_batch_triplet, loss_class=library.BatchHardTripletLoss),
    "batch_semi_hard_triplet": partial(_batch_triplet, loss_class=library.BatchSemiHardTripletLoss),
    "batch_hard_soft_margin_triplet": partial(
        _batch_triplet, loss_class=library.BatchHardSoftMarginTripletLoss
    ),
    # Two views of a text rank each other against the views of other texts.
    "simcse": _ranking,
    "mse": partial(_distance_to_target, distance_metric="mse"),
    "cosine": partial(_distance_to_target, distance_metric="cosine"),
    "l2": partial(_distance_to_target, distance_metric="l2"),
}
