"""Tensors that are computed again in the backward pass, from other tensors that are kept anyway.

A layer that can compute its output again says so with `recomputable`. An autograd function that
needs the tensor in its backward pass saves it with `save` and reads it with `saved`; the only
difference is in memory.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

_ATTRIBUTE = "_tunetrail_recomputation"


class _Recomputation:
    """Computes a tensor again, once for all functions that need it in a backward pass."""

    def __init__(self, compute: Callable[..., Tensor], version: int) -> None:
        # Functions that have saved the tensor and haven't read it yet.
        self.users = 0
        self.version = version
        self._compute = compute
        self._value: Tensor | None = None

    def value(self, *inputs: Tensor) -> Tensor:
        """Return the tensor, and release it with the last user."""
        value = self._compute(*inputs) if self._value is None else self._value
        self.users -= 1
        self._value = value if self.users > 0 else None
        return value


def recomputable(tensor: Tensor, compute: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Return the tensor, marked as equal to `compute(*inputs)` to the last bit.

    `compute` isn't differentiated.
    """
    setattr(tensor, _ATTRIBUTE, (_Recomputation(compute, tensor._version), inputs))
    return tensor


def save(ctx: Any, tensor: Tensor) -> tuple[Tensor, ...]:
    """Return what an autograd function has to keep until its backward pass, to call `saved` there.

    Either the tensor itself, or the inputs from which it is computed again. A function may save one
    tensor so.

    Args:
        ctx: The function's context, whose `save_for_backward` takes the result.
        tensor: The tensor that the backward pass needs.
    """
    recomputation, inputs = getattr(tensor, _ATTRIBUTE, (None, ()))

    # A tensor that was changed in place since can't be computed again.
    if recomputation is None or recomputation.version != tensor._version:
        ctx.recomputation = None
        return (tensor,)

    ctx.recomputation = recomputation
    recomputation.users += 1
    return tuple(inputs)


def saved(ctx: Any, tensors: tuple[Tensor, ...]) -> Tensor:
    """Return the tensor that was given to `save`, from the tensors that `save` returned."""
    value: Tensor = tensors[0] if ctx.recomputation is None else ctx.recomputation.value(*tensors)
    return value
