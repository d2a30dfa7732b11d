"""Linear layers that multiply with the faster of torch's two libraries on a CPU.

torch multiplies float32 matrices with MKL, which doesn't use the AVX-512 of CPUs that aren't
Intel's. oneDNN, which every x86 build of torch has as well, uses it and has the same rounding
errors. Without AVX-512, and for other types than float32, the products stay torch's. On Intel's
CPUs both are as fast, except for the gradient of a weight: oneDNN copies its transposed matrices.
"""

import os
from functools import cache
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tunetrail.hardware import cpu_name
from tunetrail.learning.cpu_layers.recomputation import save, saved
from tunetrail.learning.torch_internals import onednn_linear

# Multiplications below which the call costs more than it gains.
_LEAST_PRODUCTS = 2**22
# Outputs of a layer up to which MKL computes the gradient of its weight faster on an Intel CPU: it
# does for 1,536, and takes longer for a language model's 49,152.
_MOST_MKL_OUTPUTS = 8192
# Compiled products, one per combination of sizes, in each of oneDNN's two caches.
#
# A step needs fewer than 30. Each takes about a megabyte, so the default of 1,024 would fill
# gigabytes in a training whose steps all have different numbers of tokens.
_CACHED_PRODUCTS = 128
# Environment variables with the capacities of the caches, read at the first product.
_CACHE_VARIABLES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `input @ weight.T + bias` like `torch.nn.functional.linear`, differentiable once.

    Args:
        input: [..., inputs].
        weight: [outputs, inputs]; either may be a transposed view.
        bias: [outputs].
    """
    if not _is_for_onednn(input, weight):
        return functional.linear(input, weight, bias)
    tensors = (input, weight) if bias is None else (input, weight, bias)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return _Linear.apply(input, weight, bias)  # type: ignore[no-any-return, no-untyped-call]
    return onednn_linear(input, weight, bias)


def linear_gelu(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the exact GELU of `linear`, for inference only.

    oneDNN applies the function while a block of the product is in the cache.

    Args:
        input: [rows, inputs].
        weight: [outputs, inputs].
        bias: [outputs].
    """
    if _is_for_onednn(input, weight):
        return onednn_linear(input, weight, bias, has_gelu=True)
    return functional.gelu(functional.linear(input, weight, bias))


class FastLinear(nn.Linear):
    """Replaces `nn.Linear`, with the same weights under the same names."""

    def forward(self, input: Tensor) -> Tensor:
        """Return `linear` of the input."""
        return linear(input, self.weight, self.bias)


def replace_linear(module: nn.Module) -> None:
    """Replace every `nn.Linear` within a module; its subclasses keep their own forward pass."""
    if has_faster_products():
        for layer in module.modules():
            if type(layer) is nn.Linear:
                layer.__class__ = FastLinear


def restore_linear(module: nn.Module) -> None:
    """Undo `replace_linear`."""
    for layer in module.modules():
        if type(layer) is FastLinear:
            layer.__class__ = nn.Linear  # type: ignore[assignment]


@cache
def has_faster_products() -> bool:
    """Tell whether this CPU has AVX-512 and this torch can use it for float32 products."""
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    has_avx512 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    if not (has_onednn and has_avx512):
        return False

    for variable in _CACHE_VARIABLES:
        os.environ.setdefault(variable, str(_CACHED_PRODUCTS))
    ones = torch.ones(2, 2)
    try:
        return bool(torch.equal(onednn_linear(ones, ones, None), 2 * ones))
    # The function isn't part of torch's public API.
    except (AttributeError, RuntimeError, TypeError):
        return False


@cache
def has_full_mkl() -> bool:
    """Tell whether torch multiplies with MKL on a CPU whose instructions MKL uses: Intel's."""
    has_mkl = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    return has_mkl and "Intel" in cpu_name()


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


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        inputs = save(ctx, input) if weight.requires_grad else ()
        ctx.save_for_backward(weight if input.requires_grad else None, *inputs)
        return onednn_linear(input, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output_gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, *inputs = ctx.saved_tensors
        needs_input, needs_weight, needs_bias = ctx.needs_input_grad
        row_gradients = output_gradient.flatten(0, -2)

        input_gradient, weight_gradient = None, None
        if needs_input:
            input_gradient = onednn_linear(output_gradient, weight.T, None)
        if needs_weight:
            input_rows = saved(ctx, inputs).flatten(0, -2)
            weight_gradient = transposed_product(row_gradients, input_rows)
        bias_gradient = row_gradients.sum(dim=0) if needs_bias else None
        return input_gradient, weight_gradient, bias_gradient


def transposed_product(left: Tensor, right: Tensor) -> Tensor:
    """Return `left.T @ right`, [outputs, inputs]: the gradient of a linear layer's weight.

    Args:
        left: [rows, outputs].
        right: [rows, inputs].
    """
    is_for_mkl = left.shape[1] <= _MOST_MKL_OUTPUTS and has_full_mkl()
    if is_for_mkl or not _is_for_onednn(left, right.T):
        return left.T @ right
    return onednn_linear(left.T, right.T, None)
