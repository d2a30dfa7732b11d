"""The loss that an embedding module trains with: a named loss with its options around it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tunetrail.config.embedding import LossConfig
from tunetrail.config.loss_choice import check_loss_options, resolve_loss
from tunetrail.config.losses import Loss
from tunetrail.config.typed_options import options_of
from tunetrail.learning.embedding.losses.checks import check_matryoshka, check_negatives
from tunetrail.learning.embedding.losses.constructors import (
    EmbeddingLoss,
    construct_loss,
    with_orthogonality,
)


def build_vector_loss(
    shape: str,
    name: str,
    options: LossConfig | None = None,
    *,
    extensions: Mapping[str, Mapping[str, Any]] | None = None,
    matryoshka_dimensions: Sequence[int] = (),
    matryoshka_weights: Sequence[float] | None = None,
) -> EmbeddingLoss:
    """Return the loss of that name as a function of the vectors and the target of a batch.

    A batch has one tensor [rows, dimensions] per text column; the column of a pair's negatives may
    be absent or shorter. `simcse` takes two columns, the two views of each text. The target is, by
    the shape and the loss:

    - score: scores [rows]; label: label indices [rows]; vector: vectors [rows, dimensions].
    - text with `mse`, `cosine` or `l2`: the teacher's vectors [rows, dimensions].
    - pair with `margin_mse` or `distill_kl_div`: the teacher's scores [rows, 2] of the positive
      and of the negative.
    - pair with `gist_embed`: the guide's vectors of all texts, column after column
      [texts, dimensions of the guide].

    The value is the library's own, one number per batch. For most losses it is the mean over the
    rows; for `cosent` and `angle` it is one logarithm over all pairs of rows, for
    `online_contrastive` a sum over the hard rows. Vectors of half precision are taken as float32,
    with autocast or without.

    Args:
        shape: Name of the samples' shape.
        name: A loss of the shape, or `auto` for the shape's first loss without a teacher.
        options: Options of the loss.
        extensions: Options of installed packages' losses, by loss.
        matryoshka_dimensions: The loss is summed over the full vectors and the vectors cut to each
            of these numbers of dimensions.
        matryoshka_weights: A weight for each of them; None: 1.

    Raises:
        ConfigError: The loss doesn't fit the shape, or doesn't have an option.
    """
    loss = resolve_loss(shape, name)
    options = options or LossConfig()
    check_loss_options(loss, options)

    function = _function_of(loss, options, extensions or {})
    if options.orthogonality:
        function = with_orthogonality(function, options.orthogonality)
    if matryoshka_dimensions:
        weights = matryoshka_weights or [1.0] * len(matryoshka_dimensions)
        weight_by_dimensions = dict(zip(matryoshka_dimensions, weights, strict=True))
        function = _summed_over_dimensions(loss, function, weight_by_dimensions)
    return _checked(loss, function, options)


def _function_of(
    loss: Loss, options: LossConfig, extensions: Mapping[str, Mapping[str, Any]]
) -> EmbeddingLoss:
    """Return the loss with its options, without what is put around it."""
    if loss.build is not None:
        return loss.build(options_of(loss, "embedding.extensions", extensions))

    # What isn't set is left to the library's own default.
    set_options = {}
    for option in loss.options:
        value = getattr(options, option)
        if value is not None:
            set_options[option] = value
    return construct_loss(loss.name, set_options)


def _summed_over_dimensions(
    loss: Loss, function: EmbeddingLoss, weight_by_dimensions: dict[int, float]
) -> EmbeddingLoss:
    """Return the weighted sum of a loss over the leading dimensions of each vector.

    Equation 1 of Kusupati et al. 2022 (https://arxiv.org/abs/2205.13147). The full vectors are
    always included, with the weight 1 unless they have another. The leading parts aren't
    normalised, so that the full vectors' loss is the plain one; losses by cosines, which are most,
    normalise themselves.
    """

    def summed(vectors: list[Tensor], target: Tensor | None) -> Tensor:
        full = vectors[0].shape[1]
        check_matryoshka(list(weight_by_dimensions), full)

        total = vectors[0].new_zeros(())
        # Later keys win, so a configured weight for the full vectors replaces the 1.
        for dimensions, weight in {full: 1.0, **weight_by_dimensions}.items():
            # A target vector lives in the same space; a score or a label has no dimensions.
            cut_target = target
            if loss.target_is_vector and target is not None:
                cut_target = target[:, :dimensions]
            cut_vectors = [column[:, :dimensions] for column in vectors]
            total = total + weight * function(cut_vectors, cut_target)
        return total

    return summed


def _checked(loss: Loss, function: EmbeddingLoss, options: LossConfig) -> EmbeddingLoss:
    """Refuse batches that the loss can't take, and compute it in full precision."""

    def checked(vectors: list[Tensor], target: Tensor | None) -> Tensor:
        if loss.takes_target and target is None:
            raise ValueError(
                f"target must hold one value per row for the loss {loss.name}, got None"
            )
        negatives = len(vectors[2]) if len(vectors) > 2 else 0
        check_negatives(loss, negatives, len(vectors[0]), options)

        # Temperatures of 0.05 and sums over a batch need more digits than half precision has.
        full = list(map(_at_least_float32, vectors))
        # Or autocast would turn the products into half precision again.
        with torch.autocast(vectors[0].device.type, enabled=False):
            return function(full, target)

    return checked


def _at_least_float32(vectors: Tensor) -> Tensor:
    """Return vectors of half precision as float32, and all others (float64, too) as they are."""
    return vectors.to(torch.promote_types(vectors.dtype, torch.float32))
