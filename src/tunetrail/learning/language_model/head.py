"""The language model's head and its loss, a few tokens at a time: never more than [chunk, vocabulary] logits exist.

Knows nothing of models and batches: it takes hidden states, targets and the head's matrix.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tunetrail.learning.cpu_layers.linear import linear, transposed_product

CHUNK_TOKENS = 512
"""Fewer cost time for adding up the gradient of the head's matrix (measured with 49,152 x 576), more only memory."""

_Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def supervised_nats(
    hidden: Tensor,
    targets: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    chunk_tokens: int = CHUNK_TOKENS,
) -> Tensor:
    """Return each token's negative log-likelihood; the backward pass computes the logits a second time.

    It is logsumexp(logits) - logits[target], in float32 at least: two digits more exact than torch's `cross_entropy`.
    Under autocast the matrix products have autocast's type, as in the model's own head.

    Args:
        hidden: The last hidden states, [tokens, dimensions].
        targets: Ids of the tokens to predict from them, int64 [tokens].
        weight: The head's matrix, [vocabulary, dimensions].
        bias: The head's bias, [vocabulary].
        chunk_tokens: Tokens whose logits are in memory at a time.

    Returns:
        Nats, float32 [tokens] (float64 for float64 inputs).
    """
    head = _Head(hidden, targets, weight, bias, chunk_tokens)
    return _SupervisedNats.apply(hidden, weight, bias, head)  # type: ignore[no-any-return, no-untyped-call]


def supervised_loss(
    hidden: Tensor,
    targets: Tensor,
    weights: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    chunk_tokens: int = CHUNK_TOKENS,
) -> Tensor:
    """Return the weighted sum of the tokens' negative log-likelihoods, for training.

    The gradients with respect to `hidden`, `weight` and `bias` are computed chunk by chunk together with the loss, as
    in Liger Kernel's fused linear cross-entropy (Hsu et al. 2024, arXiv:2410.10989): the logits are computed once and
    not kept, and the backward pass only scales. What needs no gradient (a frozen head) costs nothing.

    Args:
        hidden: The last hidden states, [tokens, dimensions].
        targets: Ids of the tokens to predict from them, int64 [tokens].
        weights: What each token counts, [tokens]; None: each counts 1. They get no gradient.
        weight: The head's matrix, [vocabulary, dimensions].
        bias: The head's bias, [vocabulary].
        chunk_tokens: Tokens whose logits are in memory at a time.

    Returns:
        sum_i weights_i * nats_i, a float32 scalar (float64 for float64 inputs). Its backward pass can run once.
    """
    head = _Head(hidden, targets, weight, bias, chunk_tokens)
    weights = (
        torch.ones(len(targets), device=hidden.device) if weights is None else weights.detach()
    )
    trained = any(each is not None and each.requires_grad for each in (hidden, weight, bias))
    if not (trained and torch.is_grad_enabled()):
        return (head.nats() * weights).sum()
    return _SupervisedLoss.apply(hidden, weight, bias, head, weights)  # type: ignore[no-any-return, no-untyped-call]


class _Head:
    """The head and its loss as plain numbers: autograd sees nothing of what happens here.

    Types are chosen once, by hand: autocast leaves products alone whose factors have its type already.
    """

    def __init__(
        self,
        hidden: Tensor,
        targets: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        chunk_tokens: int,
    ) -> None:
        device = hidden.device.type
        self.dtype = torch.promote_types(hidden.dtype, weight.dtype)
        if torch.is_autocast_enabled(device) and self.dtype != torch.float64:
            self.dtype = torch.get_autocast_dtype(device)
        self.exact = torch.promote_types(self.dtype, torch.float32)
        self.hidden, self.weight = hidden.detach().to(self.dtype), weight.detach().to(self.dtype)
        self.bias = None if bias is None else bias.detach().to(self.dtype)
        self.targets = targets[:, None]
        chunks = max(1, math.ceil(len(hidden) / chunk_tokens))
        self.chunk = max(
            1, math.ceil(len(hidden) / chunks)
        )  # chunks of one size: a small last one would be slow

    def nats(self) -> Tensor:
        """Return the nats of each token, [tokens]."""
        nats = self.hidden.new_empty(len(self.hidden), dtype=self.exact)
        with torch.no_grad():
            for tokens in self._chunks():
                _, _, nats[tokens] = self._exponentials(tokens)
        return nats

    def nats_and_gradients(
        self, weights: Tensor, needed: tuple[bool, bool, bool]
    ) -> tuple[Tensor, _Gradients]:
        """Return the nats, and the gradients of sum_i weights_i * nats_i.

        Args:
            weights: [tokens].
            needed: Whether the gradients of hidden, weight and bias are needed; the others are None.
        """
        nats = self.hidden.new_empty(len(self.hidden), dtype=self.exact)
        of_hidden = torch.empty_like(self.hidden, dtype=self.exact) if needed[0] else None
        of_weight: Tensor | None = None
        of_bias = (
            torch.zeros_like(self.bias, dtype=self.exact)
            if needed[2] and self.bias is not None
            else None
        )
        weights = weights.to(self.exact)[:, None]
        with torch.no_grad():
            for tokens in self._chunks():
                exponentials, sums, nats[tokens] = self._exponentials(tokens)
                of_logits = exponentials.mul_(
                    weights[tokens] / sums
                )  # of nats: softmax, and 1 less at the target
                of_logits.scatter_add_(1, self.targets[tokens], -weights[tokens])
                if of_bias is not None:
                    of_bias += of_logits.sum(dim=0)
                rounded = of_logits.to(self.dtype)
                if of_hidden is not None:
                    of_hidden[tokens] = linear(rounded, self.weight.T)
                if needed[1]:
                    part = transposed_product(rounded, self.hidden[tokens]).to(self.exact)
                    of_weight = part if of_weight is None else of_weight.add_(part)
                    del part
                del exponentials, of_logits, rounded  # before the next chunk's logits exist
        if needed[1] and of_weight is None:  # no token at all
            of_weight = torch.zeros_like(self.weight, dtype=self.exact)
        return nats, (of_hidden, of_weight, of_bias)

    def _chunks(self) -> Iterator[slice]:
        for start in range(0, len(self.hidden), self.chunk):
            yield slice(start, min(start + self.chunk, len(self.hidden)))

    def _exponentials(self, tokens: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Return exp(x - max x) of a chunk's logits x, their sums, [chunk, 1], and the nats, [chunk]."""
        logits = linear(self.hidden[tokens], self.weight, self.bias).to(self.exact)
        logits.sub_(logits.amax(dim=1, keepdim=True))
        at_target = logits.gather(1, self.targets[tokens])
        sums = logits.exp_().sum(dim=1, keepdim=True)
        return logits, sums, (sums.log() - at_target).squeeze(1)


class _SupervisedNats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, head: _Head
    ) -> Tensor:
        ctx.save_for_backward(
            hidden, weight, bias
        )  # so that autograd refuses a backward pass after they changed
        ctx.head = head
        return head.nats()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_nats: Tensor) -> tuple[Tensor | None, ...]:
        inputs, magnitude = ctx.saved_tensors, _magnitude(of_nats)
        _, gradients = ctx.head.nats_and_gradients(of_nats / magnitude, ctx.needs_input_grad[:3])
        dtypes = [None if each is None else each.dtype for each in inputs]
        return (*_scaled(gradients, magnitude, dtypes), None)


class _SupervisedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, head: _Head, weights: Tensor
    ) -> Tensor:
        ctx.magnitude = _magnitude(weights)
        nats, ctx.gradients = head.nats_and_gradients(
            weights / ctx.magnitude, ctx.needs_input_grad[:3]
        )
        ctx.dtypes = [None if each is None else each.dtype for each in (hidden, weight, bias)]
        return (nats * weights).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_loss: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError(
                "The backward pass of supervised_loss can run only once: it changes what it has kept."
            )
        gradients, ctx.gradients = ctx.gradients, None
        return (*_scaled(gradients, of_loss * ctx.magnitude, ctx.dtypes), None, None)


def _magnitude(weights: Tensor) -> Tensor:
    """Return the mean of |weights|, above 0: divided by it, their gradients neither vanish nor overflow in float16."""
    mean = weights.abs().sum() / max(len(weights), 1)
    return mean.clamp(min=torch.finfo(mean.dtype).tiny)


def _scaled(
    gradients: _Gradients, factor: Tensor, dtypes: list[torch.dtype | None]
) -> list[Tensor | None]:
    """Return the gradients times `factor`, in place where the type stays."""
    pairs = zip(gradients, dtypes, strict=True)
    return [
        None if gradient is None else gradient.mul_(factor).to(dtype) for gradient, dtype in pairs
    ]
