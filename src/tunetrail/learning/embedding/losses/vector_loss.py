"""A loss of vectors by its name: what the embedding module trains with. Knows nothing of texts, models or Lightning."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tunetrail.config import EMBEDDING_LOSSES
from tunetrail.config.embedding import LossConfig, check_loss_options
from tunetrail.learning.embedding.losses.choice import check_fits, check_negatives
from tunetrail.learning.embedding.losses.library import GUIDE_VECTORS, VECTORS, library_loss
from tunetrail.learning.embedding.losses.matryoshka import EmbeddingLoss, matryoshka_loss
from tunetrail.learning.embedding.losses.supervised import supervised_contrastive_loss

_WITHOUT_TARGET = (
    "multiple_negatives_ranking",
    "multiple_negatives_symmetric_ranking",
    "mega_batch_margin",
    "triplet",
)


def build_vector_loss(
    shape: str,
    name: str,
    options: LossConfig | None = None,
    *,
    matryoshka_dimensions: Sequence[int] = (),
    matryoshka_weights: Sequence[float] | None = None,
) -> EmbeddingLoss:
    """Return the loss of that name as a function of the vectors and the target of a batch.

    A batch has one tensor [rows, dimensions] per text column; that of a pair's negatives may be absent or shorter.
    `simcse` takes two, the two views of each text. The target is, by the shape and the loss:

    - score: scores [rows]; label: label numbers [rows]; vector: vectors [rows, dimensions].
    - text with `mse`, `cosine` or `l2`: the teacher's vectors [rows, dimensions].
    - pair with `margin_mse` or `distill_kl_div`: the teacher's scores [rows, 2] of the positive and of the negative.
    - pair with `gist_embed`: the guide's vectors of all texts, column after column [texts, its dimensions].

    The value is the library's own, one number per batch. For most losses it is the mean over the rows; for `cosent` and
    `angle` it is one logarithm over all pairs of rows, for `online_contrastive` a sum over the hard rows. Vectors of
    half precision are taken as float32, autocast or not.

    Args:
        shape: Name of the samples' shape.
        name: A loss of `EMBEDDING_LOSSES`, or `auto`: the shape's default without a teacher. `loss_name` knows of
            teachers.
        options: Options of the loss.
        matryoshka_dimensions: The loss is summed over vectors cut to these dimensions and the full ones.
        matryoshka_weights: One for each of them.

    Raises:
        ConfigError: The loss doesn't fit the shape, or doesn't have an option.
    """
    check_fits(shape, name)
    name = EMBEDDING_LOSSES[shape][0] if name == "auto" else name
    options = options or LossConfig()
    check_loss_options(name, options)
    loss = _named_loss(name, options)
    if options.orthogonality:
        loss = _with_orthogonality(loss, options.orthogonality)
    if matryoshka_dimensions:
        loss = matryoshka_loss(
            loss,
            matryoshka_dimensions,
            matryoshka_weights,
            cuts_target=name in EMBEDDING_LOSSES["vector"],
        )
    return _checked(loss, name, options)


def _named_loss(name: str, options: LossConfig) -> EmbeddingLoss:
    if name == "supervised_contrastive":
        temperature = {} if options.temperature is None else {"temperature": options.temperature}
        return lambda vectors, target: supervised_contrastive_loss(
            vectors[0], _present(target), **temperature
        )
    module = library_loss(name, options)

    def loss(vectors: list[Tensor], target: Tensor | None) -> Tensor:
        features = [{VECTORS: each} for each in vectors]
        if name == "gist_embed":
            guides = torch.split(_present(target), [len(each) for each in vectors])
            features = [
                {**own, GUIDE_VECTORS: guide} for own, guide in zip(features, guides, strict=True)
            ]
        value: Tensor = module(features, target)
        return value

    return loss


def _with_orthogonality(loss: EmbeddingLoss, weight: float) -> EmbeddingLoss:
    """Add the global orthogonal regularisation of Zhang et al. 2017 (https://arxiv.org/abs/1708.06320)."""
    regularization = library_loss("global_orthogonal_regularization", LossConfig())

    def regularized(vectors: list[Tensor], target: Tensor | None) -> Tensor:
        terms: dict[str, Tensor] = regularization([{VECTORS: each} for each in vectors])
        return loss(vectors, target) + weight * torch.stack(list(terms.values())).sum()

    return regularized


def _checked(loss: EmbeddingLoss, name: str, options: LossConfig) -> EmbeddingLoss:
    """Refuse batches that the loss can't take, and compute it in full precision."""
    takes_target = name not in (*_WITHOUT_TARGET, "simcse")

    def checked(vectors: list[Tensor], target: Tensor | None) -> Tensor:
        if takes_target:
            _present(target)
        check_negatives(name, len(vectors[2]) if len(vectors) > 2 else 0, len(vectors[0]), options)
        halves = (torch.float16, torch.bfloat16)
        with torch.autocast(vectors[0].device.type, enabled=False):
            return loss(
                [each.float() if each.dtype in halves else each for each in vectors], target
            )

    return checked


def _present(target: Tensor | None) -> Tensor:
    if target is None:
        raise ValueError("this loss needs a target per row")
    return target
