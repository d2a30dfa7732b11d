"""Embeddings that share their matrix with a model's head: their gradient is added to the head's, row by row.

torch makes a matrix of zeros for the few rows that a batch looks up, and adds it to the head's; here none is made.
"""

from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class TiedEmbedding(nn.Embedding):
    """Takes the place of an `nn.Embedding` whose matrix the head multiplies with in every backward pass.

    The head's gradient has to be a tensor of its own, as linear layers give it: the rows are added in place.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the rows of the ids, [..., dimensions]."""
        is_trained = torch.is_grad_enabled() and self.weight.requires_grad
        if not is_trained or input.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(input)  # a GPU would add up the rows in an order of its own
        rows: Tensor = _LookUp.apply(input, self.weight, self.padding_idx)  # type: ignore[no-untyped-call]
        return rows


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor, padding: int | None) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.weight, ctx.padding = weight, padding
        return functional.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_rows: Tensor) -> tuple[None, ...]:
        ids, of_rows = ctx.saved_tensors[0].flatten(), of_rows.flatten(0, -2)
        if ctx.padding is not None:  # torch's embedding learns nothing for it
            learnt = ids != ctx.padding
            ids, of_rows = ids[learnt], of_rows[learnt]
        _add_to_gradient(ctx.weight, ids, of_rows)
        return None, None, None


def _add_to_gradient(weight: Tensor, ids: Tensor, of_rows: Tensor) -> None:
    """Add rows to the matrix's gradient once this backward pass has summed up all that it gets from elsewhere."""
    backward_pass = torch._C._current_graph_task_id()

    def add(gradient: Tensor | None) -> Tensor | None:
        handle.remove()
        if (
            backward_pass != torch._C._current_graph_task_id()
        ):  # the one that the rows are of has failed
            return None
        if gradient is None:
            raise RuntimeError(
                "A tied embedding's matrix must have a gradient from the head, got none."
            )
        return gradient.index_add_(0, ids, of_rows.to(gradient.dtype))

    handle = weight.register_hook(add)  # type: ignore[no-untyped-call]


def tie_gradients(embedding: nn.Module, head: nn.Module) -> None:
    """Make an embedding that shares its trained matrix with the head a `TiedEmbedding`; others stay as they are."""
    if (
        type(embedding) is not nn.Embedding
        or embedding.weight is not head.weight
        or not embedding.weight.requires_grad
    ):
        return
    if embedding.max_norm is None and not embedding.scale_grad_by_freq and not embedding.sparse:
        embedding.__class__ = TiedEmbedding


def untie_gradients(embedding: nn.Module) -> None:
    """Let a `TiedEmbedding` be an `nn.Embedding` again."""
    if isinstance(embedding, TiedEmbedding):
        embedding.__class__ = nn.Embedding  # type: ignore[assignment]
