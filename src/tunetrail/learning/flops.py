"""Floating-point operations: how many tokens need, and how many this machine does per second."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from tunetrail.learning.cpu_layers.linear import linear

# Rows and columns of the matrices. A GPU is done with small ones before the next one is there.
_PEAK_SIZE, _PEAK_SIZE_GPU = 2048, 8192
_PEAK_SECONDS = 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenCost:
    """The cost of a token in a transformer, as Kaplan et al. 2020 (arXiv:2001.08361) count it.

    Attributes:
        trained: Number of weights in linear layers that are trained.
        frozen: Number of weights in linear layers that only pass the gradient on.
        attention: Number of layers times the width of their attention.
    """

    trained: int
    frozen: int
    attention: int

    def forward(self, lengths: Sequence[int]) -> float:
        """Return the operations of a forward pass: two per weight and token."""
        linear = 2.0 * (self.trained + self.frozen) * sum(lengths)
        # Scores and weighted sum: two products over all pairs of tokens, two operations each.
        return linear + 4.0 * self.attention * sum(length * length for length in lengths)

    def training(self, lengths: Sequence[int]) -> float:
        """Return the operations of a forward and a backward pass.

        These are six per trained weight and token, and four per frozen weight and token.
        """
        linear = (6.0 * self.trained + 4.0 * self.frozen) * sum(lengths)
        return linear + 12.0 * self.attention * sum(length * length for length in lengths)


def token_cost(transformer: nn.Module, head: nn.Module | None = None) -> TokenCost:
    """Return the cost of a token: all linear layers except `head` and a pooler such as BERT's."""
    excluded = {head}
    for name, module in transformer.named_modules():
        # A pooler sees one token of a text, so it is no cost of every token.
        if name.endswith("pooler"):
            excluded.update(module.modules())

    trained, frozen = 0, 0
    for module in transformer.modules():
        if not isinstance(module, nn.Linear) or module in excluded:
            continue
        # Not the tensor's size: two weights of 4 bits share a byte.
        weights = module.in_features * module.out_features
        if module.weight.requires_grad:
            trained += weights
        else:
            frozen += weights

    config = getattr(transformer, "config", None)
    layers = int(getattr(config, "num_hidden_layers", 0) or 0)
    width = int(getattr(config, "hidden_size", 0) or 0)
    return TokenCost(trained=trained, frozen=frozen, attention=layers * width)


@cache
def peak_flops(device: str = "cpu", dtype: torch.dtype = torch.float32) -> float:
    """Return the FLOP/s of a large matrix product, measured once per process, device and type."""
    return measured_peak(_PEAK_SECONDS, device, dtype)


def measured_peak(seconds: float, device: str = "cpu", dtype: torch.dtype = torch.float32) -> float:
    """Return the FLOP/s of the fastest product of two large matrices, tried for some seconds.

    On a CPU the faster of torch's two libraries multiplies.
    """
    # A generator of its own leaves the random numbers of a training as they are.
    generator = torch.Generator(device).manual_seed(0)
    size = _PEAK_SIZE if device == "cpu" else _PEAK_SIZE_GPU
    shape = (2, size, size)
    with torch.inference_mode():
        left, right = torch.randn(shape, device=device, dtype=dtype, generator=generator)

        # The fastest of many: the first ones warm up, and other processes slow some down.
        best, begin = float("inf"), time.perf_counter()
        while best == float("inf") or time.perf_counter() - begin < seconds:
            start = time.perf_counter()
            linear(left, right)
            if device != "cpu":
                torch.accelerator.synchronize()
            best = min(best, time.perf_counter() - start)
    return float(2.0 * size**3 / best)
