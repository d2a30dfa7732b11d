"""The weights of a module: which are trained, and how much memory they take."""

from collections.abc import Iterable

from torch import Tensor, nn


def trained_weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights that are trained, by name; tied weights are listed once."""
    return {name: weight for name, weight in module.named_parameters() if weight.requires_grad}


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Return the bytes that tensors take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
