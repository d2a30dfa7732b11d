"""Embeddings that share their matrix with a model's head and add their gradient to the head's.

torch creates a matrix of zeros for the few rows that a batch looks up and adds it to the head's
gradient; here no such matrix exists.
"""

from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tunetrail.learning.torch_internals import backward_pass_id


class TiedEmbedding(nn.Embedding):
    """Replaces an `nn.Embedding` whose matrix is also the head's.

    The head's gradient has to be a tensor of its own, as linear layers return it, because the rows
    are added to it in place.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the rows of the ids, [..., dimensions]."""
        is_trained = torch.is_grad_enabled() and self.weight.requires_grad
        # A GPU would add up the rows in an order of its own.
        if not is_trained or input.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(input)
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
    def backward(ctx: Any, row_gradients: Tensor) -> tuple[None, ...]:
        ids, row_gradients = ctx.saved_tensors[0].flatten(), row_gradients.flatten(0, -2)

        # torch's embedding learns nothing for the padding token.
        if ctx.padding is not None:
            is_learned = ids != ctx.padding
            ids, row_gradients = ids[is_learned], row_gradients[is_learned]

        _add_to_gradient(ctx.weight, ids, row_gradients)
        return None, None, None


def _add_to_gradient(weight: Tensor, ids: Tensor, row_gradients: Tensor) -> None:
    """Add rows to the matrix's gradient after this backward pass has summed up its other parts."""
    backward_pass = backward_pass_id()

    def add(gradient: Tensor | None) -> Tensor | None:
        handle.remove()
        # Another backward pass means that the one of these rows has failed.
        if backward_pass != backward_pass_id():
            return None
        if gradient is None:
            raise RuntimeError(
                "A tied embedding's matrix must have a gradient from the head, got none."
            )
        return gradient.index_add_(0, ids, row_gradients.to(gradient.dtype))

    handle = weight.register_hook(add)  # type: ignore[no-untyped-call]


def tie_gradients(embedding: nn.Module, head: nn.Module) -> None:
    """Replace an embedding that shares its trained matrix with the head; others stay."""
    if type(embedding) is not nn.Embedding:
        return
    is_shared = embedding.weight is head.weight and embedding.weight.requires_grad
    is_plain = embedding.max_norm is None and not embedding.scale_grad_by_freq
    if is_shared and is_plain and not embedding.sparse:
        embedding.__class__ = TiedEmbedding


def restore_embedding(embedding: nn.Module) -> None:
    """Turn a `TiedEmbedding` back into an `nn.Embedding`."""
    if isinstance(embedding, TiedEmbedding):
        embedding.__class__ = nn.Embedding  # type: ignore[assignment]
