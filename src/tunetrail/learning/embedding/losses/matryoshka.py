"""Matryoshka representation learning around any loss of vectors. Knows nothing of the loss."""

from collections.abc import Callable, Sequence

from torch import Tensor

from tunetrail.learning.embedding.losses.choice import check_matryoshka

EmbeddingLoss = Callable[[list[Tensor], Tensor | None], Tensor]
"""Takes one tensor [rows, dimensions] per text column and the target; returns the mean over the rows."""


def matryoshka_loss(
    loss: EmbeddingLoss,
    dimensions: Sequence[int],
    weights: Sequence[float] | None = None,
    *,
    cuts_target: bool = False,
) -> EmbeddingLoss:
    """Return the weighted sum of a loss over the first so many numbers of each vector.

    Equation 1 of Kusupati et al. 2022 (https://arxiv.org/abs/2205.13147). The full vectors are always among them, with
    the weight 1 unless given another. The parts aren't normalised, so that the full vectors' loss is the plain one;
    losses by cosines, which are most, normalise themselves.

    Args:
        loss: Called once for each number of dimensions.
        dimensions: How many numbers of each vector, in any order.
        weights: One for each of the dimensions; None: 1.
        cuts_target: Whether the target holds vectors of the same space, which are cut alike.
    """
    weighted = dict(zip(dimensions, weights or [1.0] * len(dimensions), strict=True))

    def summed(vectors: list[Tensor], target: Tensor | None) -> Tensor:
        full = vectors[0].shape[1]
        check_matryoshka(dimensions, full)
        total = vectors[0].new_zeros(())
        for part, weight in {full: 1.0, **weighted}.items():
            cut = target[:, :part] if cuts_target and target is not None else target
            total = total + weight * loss([each[:, :part] for each in vectors], cut)
        return total

    return summed
