"""Matrix products of linear layers by the faster of torch's two libraries on a CPU.

torch multiplies float32 matrices with MKL, which leaves the AVX-512 of CPUs that aren't Intel's unused; oneDNN, which
every x86 build of torch has as well, uses it, with the same rounding errors. Without AVX-512, and for everything but
float32, the products stay torch's.
"""

import os
from functools import cache
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tunetrail.learning.engine.recomputing import keep, kept

_LEAST_PRODUCTS = 2**22
"""Multiplications under which the call costs more than is gained."""
_KEPT_PRODUCTS = 128
"""Compiled products, one per mix of sizes, that each of oneDNN's two caches keeps: a step needs fewer than 30. Each
takes about a megabyte, and of the usual 1,024 a training with ever new numbers of tokens would fill gigabytes."""


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `input @ weight.T + bias` like `torch.nn.functional.linear`, differentiable once.

    Args:
        input: [..., inputs].
        weight: [outputs, inputs]; either may be a transposed view.
        bias: [outputs].
    """
    if not _is_for_onednn(input, weight):
        return functional.linear(input, weight, bias)
    if torch.is_grad_enabled() and any(
        each is not None and each.requires_grad for each in (input, weight, bias)
    ):
        return _Linear.apply(input, weight, bias)  # type: ignore[no-any-return, no-untyped-call]
    return _product(input, weight, bias)


class FastLinear(nn.Linear):
    """Takes the place of `nn.Linear`, with the same weights under the same names."""

    def forward(self, input: Tensor) -> Tensor:
        """Return `linear` of the input."""
        return linear(input, self.weight, self.bias)


def replace_linear(module: nn.Module) -> None:
    """Make every `nn.Linear` within a module a `FastLinear`; subclasses of it keep the forward that they have."""
    if has_faster_products():
        for each in module.modules():
            if type(each) is nn.Linear:
                each.__class__ = FastLinear


@cache
def has_faster_products() -> bool:
    """Tell whether this CPU has AVX-512 and this torch the function that brings it to float32 products."""
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    has_avx512 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    if not (has_onednn and has_avx512):
        return False

    for name in (
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY",
        "LRU_CACHE_CAPACITY",
    ):  # read at the first product, below
        os.environ.setdefault(name, str(_KEPT_PRODUCTS))
    ones = torch.ones(2, 2)
    try:
        return bool(torch.equal(_product(ones, ones, None), 2 * ones))
    except (AttributeError, RuntimeError, TypeError):  # it isn't part of torch's public API
        return False


def _is_for_onednn(input: Tensor, weight: Tensor) -> bool:
    return (
        input.dtype is torch.float32
        and weight.dtype is torch.float32
        and input.device.type == weight.device.type == "cpu"
        and input.numel() * weight.shape[0] >= _LEAST_PRODUCTS
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and has_faster_products()
    )


def _product(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")  # type: ignore[no-any-return]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        inputs = keep(ctx, input) if weight.requires_grad else ()
        ctx.save_for_backward(weight if input.requires_grad else None, *inputs)
        return _product(input, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_output: Tensor) -> tuple[Tensor | None, ...]:
        weight, *inputs = ctx.saved_tensors
        for_input, for_weight, for_bias = ctx.needs_input_grad
        of_rows = of_output.flatten(0, -2)
        return (
            _product(of_output, weight.T, None) if for_input else None,
            transposed_product(of_rows, kept(ctx, inputs).flatten(0, -2)) if for_weight else None,
            of_rows.sum(dim=0) if for_bias else None,
        )


def transposed_product(left: Tensor, right: Tensor) -> Tensor:
    """Return `left.T @ right`, [outputs, inputs]: the gradient of a linear layer's weight.

    Args:
        left: [rows, outputs].
        right: [rows, inputs].
    """
    if not _is_for_onednn(left, right.T):
        return left.T @ right
    return _product(left.T, right.T, None)
