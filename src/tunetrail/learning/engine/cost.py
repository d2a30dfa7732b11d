"""Cost: the floating-point operations that tokens need, and the most that this machine does per second."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from tunetrail.learning.engine.products import linear

_PEAK_SIZE = 2048
_PEAK_SECONDS = 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenCost:
    """What one token costs in a transformer, as Kaplan et al. 2020 (https://arxiv.org/abs/2001.08361) count it.

    Attributes:
        trained: Weights of the linear layers that are trained.
        frozen: Weights of the linear layers through which only the gradient passes.
        attention: Layers times the width of their attention.
    """

    trained: int
    frozen: int
    attention: int

    def forward(self, lengths: Sequence[int]) -> float:
        """Return the operations of sequences of these lengths, forwards only: two per weight and token."""
        linear = 2.0 * (self.trained + self.frozen) * sum(lengths)
        return linear + 4.0 * self.attention * sum(length * length for length in lengths)

    def training(self, lengths: Sequence[int]) -> float:
        """Return the operations forwards and backwards: six per trained weight and token, four per frozen one."""
        linear = (6.0 * self.trained + 4.0 * self.frozen) * sum(lengths)
        return linear + 12.0 * self.attention * sum(length * length for length in lengths)


def token_cost(transformer: nn.Module, head: nn.Module | None = None) -> TokenCost:
    """Count the linear layers of a transformer, without `head`, which not every token goes through."""
    linear = [each for each in transformer.modules() if isinstance(each, nn.Linear) and each is not head]
    config = getattr(transformer, "config", None)
    layers, width = (int(getattr(config, name, 0) or 0) for name in ("num_hidden_layers", "hidden_size"))
    return TokenCost(
        trained=sum(each.weight.numel() for each in linear if each.weight.requires_grad),
        frozen=sum(each.weight.numel() for each in linear if not each.weight.requires_grad),
        attention=layers * width,
    )


@cache
def peak_flops(device: str = "cpu", dtype: torch.dtype = torch.float32) -> float:
    """Measure the floating-point operations per second of a large matrix product, once per process and kind."""
    with torch.inference_mode():
        left, right = (torch.ones(_PEAK_SIZE, _PEAK_SIZE, device=device, dtype=dtype) for _ in range(2))
        best, begun = float("inf"), time.perf_counter()
        while time.perf_counter() - begun < _PEAK_SECONDS or best == float("inf"):
            started = time.perf_counter()
            linear(left, right)
            if device != "cpu":
                torch.accelerator.synchronize()
            best = min(best, time.perf_counter() - started)
    return float(2.0 * _PEAK_SIZE**3 / best)
