"""A loss of pairs: each anchor has to be nearer to its positive than to all others, by a margin."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tunetrail.config.checks import POSITIVE, setting
from tunetrail.config.losses import Loss, Negatives


@dataclass(kw_only=True)
class HingeOptions:
    """Options of the loss: `embedding.extensions.cosine_hinge.OPTION`."""

    margin: float = setting(0.2, POSITIVE)
    """Difference of the cosines that is asked for."""


def build(options: HingeOptions) -> Callable[[list[Tensor], Tensor | None], Tensor]:
    """Return the loss of a batch; the columns are anchors, positives and perhaps negatives."""

    def loss(vectors: list[Tensor], target: Tensor | None) -> Tensor:
        anchors, documents = vectors[0], torch.cat(vectors[1:])
        cosines = functional.normalize(anchors) @ functional.normalize(documents).T
        positive = cosines.diagonal()[:, None]

        # The positive itself isn't wrong.
        itself = torch.eye(*cosines.shape, dtype=torch.bool, device=cosines.device)
        excess = (options.margin - positive + cosines).clamp(min=0).masked_fill(itself, 0.0)
        return excess.sum(dim=1).mean()

    return loss


COSINE_HINGE = Loss(
    name="cosine_hinge",
    shapes=("pair",),
    negatives=Negatives.IN_BATCH,
    build=build,
    options_class=HingeOptions,
)
