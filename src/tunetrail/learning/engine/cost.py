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
    """Count the linear layers that every token goes through: `head` doesn't count, nor does a pooler (BERT's)."""
    pooler = [
        each
        for name, part in transformer.named_modules()
        if name.endswith("pooler")
        for each in part.modules()
    ]
    left_out = {id(each) for each in (head, *pooler)}
    linear = [
        each
        for each in transformer.modules()
        if isinstance(each, nn.Linear) and id(each) not in left_out
    ]
    config = getattr(transformer, "config", None)
    layers, width = (
        int(getattr(config, name, 0) or 0) for name in ("num_hidden_layers", "hidden_size")
    )
    return TokenCost(
        trained=sum(each.weight.numel() for each in linear if each.weight.requires_grad),
        frozen=sum(each.weight.numel() for each in linear if not each.weight.requires_grad),
        attention=layers * width,
    )


@cache
def peak_flops(device: str = "cpu", dtype: torch.dtype = torch.float32) -> float:
    """Measure the floating-point operations per second of a large matrix product, once per process and kind."""
    return measured_peak(_PEAK_SECONDS, device, dtype)


def measured_peak(seconds: float, device: str = "cpu", dtype: torch.dtype = torch.float32) -> float:
    """Return the speed of the fastest product of two 2048 x 2048 matrices within so many seconds, in FLOP/s.

    By whichever of torch's two libraries is faster for it on a CPU.
    """
    generator = torch.Generator(device).manual_seed(
        0
    )  # its own: a training draws what it draws without
    with torch.inference_mode():
        left, right = (
            torch.randn(_PEAK_SIZE, _PEAK_SIZE, device=device, dtype=dtype, generator=generator)
            for _ in range(2)
        )
        best, begun = float("inf"), time.perf_counter()
        while best == float("inf") or time.perf_counter() - begun < seconds:
            started = time.perf_counter()
            linear(left, right)
            if device != "cpu":
                torch.accelerator.synchronize()
            best = min(best, time.perf_counter() - started)
    return float(2.0 * _PEAK_SIZE**3 / best)
