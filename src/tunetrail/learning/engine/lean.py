"""Lean layers: those of Llama's kind that keep less for the backward pass, the gradients unchanged.

Per token, a feed-forward layer of torch's own operations keeps four rows of its inner width and a norm two of the
model's, one of them for the layers behind it; here it's two and one, and the rest is cheap to compute again.
"""

from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tunetrail.learning.engine.evaluation_mode import evaluating
from tunetrail.learning.engine.products import FastLinear, linear, transposed_product
from tunetrail.learning.engine.recomputing import recomputable

_TOLERANCE = 1e-5


class _Gated(torch.autograd.Function):
    """silu(gate) * up, keeping gate and up."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_product: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return _gated_gradients(of_product.clone(), gate, up, functional.silu(gate))


class _GatedDown(torch.autograd.Function):
    """(silu(gate) * up) @ weight.T, keeping gate and up."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up, weight)
        return linear(functional.silu(gate).mul_(up), weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_output: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, weight = ctx.saved_tensors
        activated, of_weight = functional.silu(gate), None
        if ctx.needs_input_grad[2]:
            of_weight = transposed_product(
                of_output.flatten(0, -2), (activated * up).flatten(0, -2)
            )
        of_product = linear(of_output, weight.T)
        return *_gated_gradients(of_product, gate, up, activated), of_weight


def _gated_gradients(
    of_product: Tensor, gate: Tensor, up: Tensor, activated: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of gate and up; `of_product` and `activated`, silu(gate), are changed in place."""
    of_up = activated.mul_(of_product)
    return torch.ops.aten.silu_backward(of_product.mul_(up), gate), of_up


class _Normalized(torch.autograd.Function):
    """weight * x / sqrt(mean(x^2) + epsilon) (Zhang and Sennrich 2019, arXiv:1910.07467), keeping x."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        scale = _inverse_root_mean_square(values, epsilon)
        ctx.save_for_backward(values, weight, scale)
        ctx.mark_non_differentiable(scale)
        return _scaled(values, scale, weight), scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_output: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        values, weight, scale = ctx.saved_tensors
        normalized = values * scale
        of_weight = (
            (of_output * normalized).flatten(0, -2).sum(dim=0) if ctx.needs_input_grad[1] else None
        )
        of_normalized = of_output * weight
        mean = (of_normalized * normalized).mean(dim=-1, keepdim=True)
        return of_normalized.sub_(normalized.mul_(mean)).mul_(scale), of_weight, None


def _scaled(values: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
    return (values * scale).mul_(weight)


def _inverse_root_mean_square(values: Tensor, epsilon: float) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    return norm.square_().div_(values.shape[-1]).add_(epsilon).rsqrt_()


class _LeanLayer(nn.Module):
    """Mixed into the class of a layer: its forward here wherever that is exact, else the layer's own."""

    def forward(self, values: Tensor) -> Tensor:
        """Return what the layer's own forward returns."""
        is_plain = (
            torch.is_grad_enabled()
            and values.dtype is torch.float32
            and values.device.type == "cpu"
        )
        if is_plain and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling():
            return self.lean(values)
        return super().forward(values)  # type: ignore[no-any-return]

    def lean(self, values: Tensor) -> Tensor:
        """Return the layer's output, [..., width] like `values`."""
        raise NotImplementedError


class _LeanGated(_LeanLayer):
    def lean(self, values: Tensor) -> Tensor:
        layer: Any = self
        gate, up, down = layer.gate_proj(values), layer.up_proj(values), layer.down_proj
        if type(down) in (nn.Linear, FastLinear) and down.bias is None:
            return _GatedDown.apply(gate, up, down.weight)  # type: ignore[no-any-return, no-untyped-call]
        return down(_Gated.apply(gate, up))  # type: ignore[no-any-return, no-untyped-call]


class _LeanNorm(_LeanLayer):
    def lean(self, values: Tensor) -> Tensor:
        layer: Any = self
        weight = layer.weight
        normalized, scale = _Normalized.apply(values, weight, layer.variance_epsilon)  # type: ignore[no-untyped-call]
        return recomputable(normalized, _scaled, values.detach(), scale, weight.detach())


def make_lean(model: nn.Module) -> None:
    """Let a model's gated feed-forward layers (SwiGLU) and norms (RMSNorm) keep less for the backward pass.

    Of each kind of layer one is tried first: where the result isn't the same, they stay as they are.
    """
    kinds: dict[type, type | None] = {}
    for layer in list(model.modules()):
        kind, mixin = type(layer), _mixin_of(layer)
        if mixin is None:
            continue
        if kind not in kinds:
            lean = type(f"Lean{kind.__name__}", (mixin, kind), {})
            kinds[kind] = lean if _is_same(layer, lean) else None
        layer.__class__ = kinds[kind] or kind


def unmake_lean(model: nn.Module) -> None:
    """Let layers be of their own classes again: others than these can't be found by name, as pickling does."""
    for layer in model.modules():
        if isinstance(layer, _LeanLayer):
            layer.__class__ = type(layer).__bases__[1]


def _mixin_of(layer: nn.Module) -> type[_LeanLayer] | None:
    if isinstance(layer, _LeanLayer) or any(
        each.dtype is not torch.float32 for each in layer.parameters()
    ):
        return None
    parts = {name for name, _ in layer.named_children()}
    if parts == {"gate_proj", "up_proj", "down_proj", "act_fn"}:
        return _LeanGated
    is_norm = (
        not parts
        and type(layer).__name__.endswith("RMSNorm")
        and hasattr(layer, "variance_epsilon")
    )
    return _LeanNorm if is_norm else None


def _is_same(layer: nn.Module, lean: type) -> bool:
    kind, weight = type(layer), next(layer.parameters())
    probe = torch.linspace(-2, 2, 2 * weight.shape[-1], device=weight.device).view(1, 2, -1)
    with evaluating(layer):
        expected = layer(probe)
        try:
            layer.__class__ = lean
            found = layer(probe)
        finally:
            layer.__class__ = kind
    return bool((found - expected).abs().max() <= _TOLERANCE * expected.abs().max())
