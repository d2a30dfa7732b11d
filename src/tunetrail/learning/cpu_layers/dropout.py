"""Dropout whose mask costs a fraction of torch's on a CPU: four elements per random number."""

from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

# 16 random bits per element, so a probability is met to within 1 / 131,072.
_LEVELS = 2**16


class _CheapDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, probability: float) -> Tensor:
        dropped = round(probability * _LEVELS)
        # The whole range of int64, or every fourth lane would lack its highest bit.
        draws = torch.empty((values.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        lanes = draws.view(torch.int16)[: values.numel()].view(values.shape)

        mask = lanes >= dropped - _LEVELS // 2
        ctx.save_for_backward(mask)
        ctx.scale = _LEVELS / (_LEVELS - dropped)
        return (values * mask).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return (gradients[0] * mask).mul_(ctx.scale), None


def cheap_dropout(values: Tensor, probability: float, training: bool = True) -> Tensor:
    """Set each element to 0 with this probability and scale the others by 1 / (1 - probability).

    The distribution is that of `torch.nn.functional.dropout`, to within 16 bits of the probability,
    from torch's global generator. On a GPU it is that function.
    """
    if not training or probability == 0.0:
        return values
    if values.device.type != "cpu" or probability >= 1.0 or values.numel() == 0:
        return functional.dropout(values, probability, training)
    dropped: Tensor = _CheapDropout.apply(values, probability)  # type: ignore[no-untyped-call]
    return dropped


class CheapDropout(nn.Dropout):
    """Replaces `nn.Dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return `cheap_dropout` of the input."""
        return cheap_dropout(input, self.p, self.training)


def replace_dropout(module: nn.Module) -> None:
    """Replace every `nn.Dropout` of a module by `CheapDropout`."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, CheapDropout(child.p, inplace=False).train(child.training))
