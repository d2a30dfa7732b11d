"""Tensors that are computed again in the backward pass, from others that are kept anyway.

What computes such a tensor says how (`recomputable`); an autograd function that needs it asks for that (`keep`,
`kept`), and never notices the difference but in memory.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

_ATTRIBUTE = "_tunetrail_recomputation"


class _Recomputation:
    """How a tensor is computed again, once for all that need it in a backward pass; it holds no tensor before."""

    def __init__(self, compute: Callable[..., Tensor], version: int) -> None:
        self.users = 0
        self.version = version
        self._compute = compute
        self._value: Tensor | None = None

    def value(self, *inputs: Tensor) -> Tensor:
        """Return the tensor; whoever is the last to ask lets go of it."""
        value = self._compute(*inputs) if self._value is None else self._value
        self.users -= 1
        self._value = value if self.users > 0 else None
        return value


def recomputable(tensor: Tensor, compute: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Return the tensor, marked as being `compute(*inputs)` to the last bit; `compute` isn't differentiated."""
    setattr(tensor, _ATTRIBUTE, (_Recomputation(compute, tensor._version), inputs))
    return tensor


def keep(ctx: Any, tensor: Tensor) -> tuple[Tensor, ...]:
    """Return what `save_for_backward` of an autograd function has to keep for `kept`; once for each function."""
    recomputation, inputs = getattr(tensor, _ATTRIBUTE, (None, ()))
    if recomputation is None or recomputation.version != tensor._version:  # changed in place since
        ctx.recomputation = None
        return (tensor,)
    ctx.recomputation = recomputation
    recomputation.users += 1
    return tuple(inputs)


def kept(ctx: Any, tensors: tuple[Tensor, ...]) -> Tensor:
    """Return the tensor that `keep` was given, from what it returned."""
    value: Tensor = tensors[0] if ctx.recomputation is None else ctx.recomputation.value(*tensors)
    return value
