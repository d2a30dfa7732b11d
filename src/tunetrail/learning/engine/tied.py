"""Embeddings that share their matrix with a model's head: their gradient is added to the head's, row by row.

torch makes a matrix of zeros for the few rows that a batch looks up, and adds it to the head's; here none is made.
"""

from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class TiedEmbedding(nn.Embedding):
    """Takes the place of an `nn.Embedding` whose matrix has a gradient from elsewhere in every backward pass."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the rows of the ids, [..., dimensions]."""
        is_trained = torch.is_grad_enabled() and self.weight.requires_grad
        if not is_trained or input.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(input)  # a GPU would add up the rows in an order of its own
        pending = _PendingRows(self.weight)
        rows: Tensor = _LookUp.apply(input, self.weight, self.padding_idx, pending)  # type: ignore[no-untyped-call]
        return rows


class _PendingRows:
    """Gradients of rows that wait, within a backward pass, for the matrix's own gradient, the sum of all others."""

    def __init__(self, weight: Tensor) -> None:
        self._waiting: tuple[int, Tensor, Tensor] | None = None
        self._handle = weight.register_hook(self._add)  # type: ignore[no-untyped-call]

    def wait(self, ids: Tensor, of_rows: Tensor) -> None:
        """Take the gradients of the rows `ids`; called in the backward pass that they are of."""
        self._waiting = torch._C._current_graph_task_id(), ids, of_rows

    def _add(self, gradient: Tensor) -> Tensor | None:
        if self._waiting is None:  # the loss that is of this look-up has not gone backwards yet
            return None
        (task, ids, of_rows), self._waiting = self._waiting, None
        self._handle.remove()
        if task != torch._C._current_graph_task_id():  # it failed on its way
            return None
        return gradient.index_add_(0, ids, of_rows.to(gradient.dtype))


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor, padding: int | None, pending: _PendingRows) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.padding, ctx.pending = padding, pending
        return functional.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_rows: Tensor) -> tuple[None, ...]:
        ids, of_rows = ctx.saved_tensors[0].flatten(), of_rows.flatten(0, -2)
        if ctx.padding is not None:  # torch's embedding learns nothing for it
            learnt = ids != ctx.padding
            ids, of_rows = ids[learnt], of_rows[learnt]
        ctx.pending.wait(ids, of_rows)
        return None, None, None, None


def tie_gradients(embedding: nn.Module, head: nn.Module) -> None:
    """Make an embedding that shares its trained matrix with the head a `TiedEmbedding`; others stay as they are."""
    if type(embedding) is not nn.Embedding or embedding.weight is not head.weight or not embedding.weight.requires_grad:
        return
    if embedding.max_norm is None and not embedding.scale_grad_by_freq and not embedding.sparse:
        embedding.__class__ = TiedEmbedding


def untie_gradients(embedding: nn.Module) -> None:
    """Let a `TiedEmbedding` be an `nn.Embedding` again."""
    if isinstance(embedding, TiedEmbedding):
        embedding.__class__ = nn.Embedding  # type: ignore[assignment]
