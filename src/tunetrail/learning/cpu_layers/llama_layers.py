"""SwiGLU and RMSNorm layers, as in Llama, that keep less for the backward pass.

Per token, a feed-forward layer of torch's own operations keeps four rows of its inner width, and a
norm two rows of the model's width, one of them for the layers after it. Here it is two and one;
everything else is cheap to compute again.
"""

from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tunetrail.learning.cpu_layers.linear import FastLinear, linear, transposed_product
from tunetrail.learning.cpu_layers.recomputation import recomputable
from tunetrail.learning.evaluation_mode import evaluating

_TOLERANCE = 1e-5


class _Gated(torch.autograd.Function):
    """silu(gate) * up, keeping gate and up."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, product_gradient: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return _gated_gradients(product_gradient.clone(), gate, up, functional.silu(gate))


class _GatedDown(torch.autograd.Function):
    """(silu(gate) * up) @ weight.T, keeping gate and up."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up, weight)
        return linear(functional.silu(gate).mul_(up), weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output_gradient: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, weight = ctx.saved_tensors
        activated, weight_gradient = functional.silu(gate), None
        if ctx.needs_input_grad[2]:
            product = (activated * up).flatten(0, -2)
            weight_gradient = transposed_product(output_gradient.flatten(0, -2), product)

        product_gradient = linear(output_gradient, weight.T)
        return *_gated_gradients(product_gradient, gate, up, activated), weight_gradient


def _gated_gradients(
    product_gradient: Tensor, gate: Tensor, up: Tensor, activated: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of gate and up.

    Changes `product_gradient` and `activated`, which is silu(gate), in place.
    """
    up_gradient = activated.mul_(product_gradient)
    gate_gradient = torch.ops.aten.silu_backward(product_gradient.mul_(up), gate)
    return gate_gradient, up_gradient


class _Normalized(torch.autograd.Function):
    """weight * x / sqrt(mean(x^2) + epsilon) (Zhang and Sennrich 2019), keeping x."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        scale = _inverse_root_mean_square(values, epsilon)
        ctx.save_for_backward(values, weight, scale)
        ctx.mark_non_differentiable(scale)
        return _scaled(values, scale, weight), scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output_gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        values, weight, scale = ctx.saved_tensors
        normalized, weight_gradient = values * scale, None
        if ctx.needs_input_grad[1]:
            weight_gradient = (output_gradient * normalized).flatten(0, -2).sum(dim=0)

        # The gradient of x / rms(x): the part along the normalised values drops out.
        gradient = output_gradient * weight
        along = (gradient * normalized).mean(dim=-1, keepdim=True)
        values_gradient = gradient.sub_(normalized.mul_(along)).mul_(scale)
        return values_gradient, weight_gradient, None


def _scaled(values: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
    return (values * scale).mul_(weight)


def _inverse_root_mean_square(values: Tensor, epsilon: float) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    return norm.square_().div_(values.shape[-1]).add_(epsilon).rsqrt_()


class _ReplacedLayer(nn.Module):
    """Mixed into a layer's class: uses `forward_saving_memory` wherever it is exact."""

    def forward(self, values: Tensor) -> Tensor:
        """Return what the layer's own forward returns."""
        is_plain = values.dtype is torch.float32 and values.device.type == "cpu"
        is_transformed = torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
        if torch.is_grad_enabled() and is_plain and not is_transformed:
            return self.forward_saving_memory(values)
        return super().forward(values)  # type: ignore[no-any-return]

    def forward_saving_memory(self, values: Tensor) -> Tensor:
        """Return the layer's output, [..., width] like `values`."""
        raise NotImplementedError


class _GatedLayer(_ReplacedLayer):
    def forward_saving_memory(self, values: Tensor) -> Tensor:
        layer: Any = self
        gate, up, down = layer.gate_proj(values), layer.up_proj(values), layer.down_proj
        if type(down) in (nn.Linear, FastLinear) and down.bias is None:
            return _GatedDown.apply(gate, up, down.weight)  # type: ignore[no-any-return, no-untyped-call]
        return down(_Gated.apply(gate, up))  # type: ignore[no-any-return, no-untyped-call]


class _NormLayer(_ReplacedLayer):
    def forward_saving_memory(self, values: Tensor) -> Tensor:
        layer: Any = self
        weight = layer.weight
        normalized, scale = _Normalized.apply(values, weight, layer.variance_epsilon)  # type: ignore[no-untyped-call]
        return recomputable(normalized, _scaled, values.detach(), scale, weight.detach())


def replace_llama_layers(model: nn.Module) -> None:
    """Make a model's SwiGLU feed-forward layers and RMSNorms keep less for the backward pass.

    One layer of each class is tried first; if its result differs, layers of that class stay.
    """
    replacements: dict[type, type] = {}
    for layer in list(model.modules()):
        layer_class, mixin = type(layer), _mixin_for(layer)
        if mixin is None:
            continue
        if layer_class not in replacements:
            replacement = type(f"MemorySaving{layer_class.__name__}", (mixin, layer_class), {})
            is_equal = _gives_equal_result(layer, replacement)
            replacements[layer_class] = replacement if is_equal else layer_class
        layer.__class__ = replacements[layer_class]


def restore_llama_layers(model: nn.Module) -> None:
    """Give replaced layers their own classes back; pickling would not find the others by name."""
    for layer in model.modules():
        if isinstance(layer, _ReplacedLayer):
            layer.__class__ = type(layer).__bases__[1]


def _mixin_for(layer: nn.Module) -> type[_ReplacedLayer] | None:
    """Return the class that replaces the layer's forward pass; None if the layer stays."""
    is_float32 = all(parameter.dtype is torch.float32 for parameter in layer.parameters())
    if isinstance(layer, _ReplacedLayer) or not is_float32:
        return None

    children = {name for name, _ in layer.named_children()}
    if children == {"gate_proj", "up_proj", "down_proj", "act_fn"}:
        return _GatedLayer
    is_norm = type(layer).__name__.endswith("RMSNorm") and hasattr(layer, "variance_epsilon")
    return _NormLayer if is_norm and not children else None


def _gives_equal_result(layer: nn.Module, replacement: type) -> bool:
    """Tell whether a layer of the replacing class gives the same output for a probe."""
    layer_class, weight = type(layer), next(layer.parameters())
    probe = torch.linspace(-2, 2, 2 * weight.shape[-1], device=weight.device).view(1, 2, -1)
    with evaluating(layer):
        expected = layer(probe)
        try:
            layer.__class__ = replacement
            output = layer(probe)
        finally:
            layer.__class__ = layer_class
    return bool((output - expected).abs().max() <= _TOLERANCE * expected.abs().max())
