"""Internals of torch and transformers: every name of them that is not public, in one place.

Written for torch 2.13 and transformers 5.23. `tests/unit/learning/test_torch_internals.py` has a
test per name, so that an upgrade says which one has gone.
"""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

# Its import takes longer than the vectors of a small session, which need the products here.
if TYPE_CHECKING:
    from transformers import PreTrainedModel


def backward_pass_id() -> int:
    """Return the id of the backward pass that is running; -1 outside of one."""
    return int(torch._C._current_graph_task_id())


def onednn_linear(
    input: Tensor, weight: Tensor, bias: Tensor | None, *, has_gelu: bool = False
) -> Tensor:
    """Return `input @ weight.T + bias`, or the exact GELU of it, computed by oneDNN.

    Raises:
        AttributeError: This build of torch comes without oneDNN.
    """
    function = "gelu" if has_gelu else "none"
    # The last argument is the function's approximation.
    return torch.ops.mkldnn._linear_pointwise(input, weight, bias, function, [], "none")  # type: ignore[no-any-return]


def integer_product(left: Tensor, right: Tensor) -> Tensor:
    """Return the product of two matrices of int8 as int32, exact.

    Args:
        left: [rows, inner].
        right: [inner, columns].
    """
    return torch._int_mm(left, right)


def undo_compile(module: nn.Module) -> None:
    """Let the submodules that `Module.compile` has compiled run uncompiled again."""
    for submodule in module.modules():
        submodule._compiled_call_impl = None


def set_last_rates(scheduler: LRScheduler, rates: Sequence[float]) -> None:
    """Set the learning rates that `get_last_lr` returns."""
    scheduler._last_lr = list(rates)


def attention_implementation(model: "PreTrainedModel") -> str:
    """Return the name of the attention that a transformers model computes with."""
    return str(model.config._attn_implementation)


@contextmanager
def without_gguf_bar() -> Iterator[None]:
    """Hide the bar of a conversion from GGUF, which no setting of transformers turns off."""
    from transformers import modeling_gguf_pytorch_utils

    # mypy takes what the module imports for private to it.
    conversion: Any = modeling_gguf_pytorch_utils
    bar = conversion.tqdm
    conversion.tqdm = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        conversion.tqdm = bar
