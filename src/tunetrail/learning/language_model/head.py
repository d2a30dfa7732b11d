"""The language model's head and its loss, computed for a chunk of tokens at a time.

There are never more than [chunk, vocabulary] logits in memory.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tunetrail.learning.cpu_layers.linear import linear, transposed_product

CHUNK_TOKENS = 512
"""Fewer tokens cost time for adding up the head's gradient, more tokens only memory."""

_Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def supervised_nats(
    hidden: Tensor,
    targets: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    chunk_tokens: int = CHUNK_TOKENS,
) -> Tensor:
    """Return each token's negative log-likelihood; the backward pass computes the logits again.

    It is logsumexp(logits) - logits[target] in at least float32, which is two digits more exact
    than torch's `cross_entropy`. Under autocast, the matrix products have autocast's type, as in
    the model's own head.

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


def scored_tokens(
    hidden: Tensor, targets: Tensor, weight: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return each token's nats, and whether it is the likeliest one; without gradients.

    Args:
        hidden: The last hidden states, [tokens, dimensions].
        targets: Ids of the tokens to predict from them, int64 [tokens].
        weight: The head's matrix, [vocabulary, dimensions].
        bias: The head's bias, [vocabulary].

    Returns:
        Nats as `supervised_nats` gives them, and bool [tokens].
    """
    return _Head(hidden, targets, weight, bias, CHUNK_TOKENS).nats_and_hits()


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

    The gradients with respect to `hidden`, `weight` and `bias` are computed chunk by chunk together
    with the loss, as in Liger Kernel's fused linear cross-entropy (Hsu et al. 2024,
    arXiv:2410.10989): the logits are computed once and not kept, and the backward pass only scales.
    A frozen head costs nothing.

    Args:
        hidden: The last hidden states, [tokens, dimensions].
        targets: Ids of the tokens to predict from them, int64 [tokens].
        weights: Weight of each token, [tokens], without gradient; 1 each if None.
        weight: The head's matrix, [vocabulary, dimensions].
        bias: The head's bias, [vocabulary].
        chunk_tokens: Tokens whose logits are in memory at a time.

    Returns:
        sum_i weights_i * nats_i, a float32 scalar (float64 for float64 inputs). Its backward pass
        can run once.
    """
    head = _Head(hidden, targets, weight, bias, chunk_tokens)
    if weights is None:
        weights = torch.ones(len(targets), device=hidden.device)
    weights = weights.detach()

    tensors = (hidden, weight) if bias is None else (hidden, weight, bias)
    is_trained = any(tensor.requires_grad for tensor in tensors)
    # Validation needs no gradients, which cost more than the loss itself.
    if not (is_trained and torch.is_grad_enabled()):
        return (head.nats() * weights).sum()
    return _SupervisedLoss.apply(hidden, weight, bias, head, weights)  # type: ignore[no-any-return, no-untyped-call]


class _Head:
    """The head and its loss without autograd.

    Types are chosen once, because autocast leaves products alone whose factors have its type.
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
        # Autocast itself leaves float64 as it is, too.
        if torch.is_autocast_enabled(device) and self.dtype != torch.float64:
            self.dtype = torch.get_autocast_dtype(device)
        # Exponentials and their sums over a vocabulary need more digits than half precision has.
        self.exact = torch.promote_types(self.dtype, torch.float32)
        self.hidden, self.weight = hidden.detach().to(self.dtype), weight.detach().to(self.dtype)
        self.bias = None if bias is None else bias.detach().to(self.dtype)
        self.targets = targets[:, None]
        # Chunks of equal size, because a small last chunk would be slow.
        chunks = max(1, math.ceil(len(hidden) / chunk_tokens))
        self.chunk = max(1, math.ceil(len(hidden) / chunks))

    def nats(self) -> Tensor:
        """Return the nats of each token, [tokens]."""
        nats = self.hidden.new_empty(len(self.hidden), dtype=self.exact)
        with torch.no_grad():
            for tokens in self._chunks():
                _, _, nats[tokens] = self._exponentials(self._logits(tokens), tokens)
        return nats

    def nats_and_hits(self) -> tuple[Tensor, Tensor]:
        """Return the nats of each token, and whether its logit is the highest, both [tokens]."""
        nats = self.hidden.new_empty(len(self.hidden), dtype=self.exact)
        hits = torch.empty_like(nats, dtype=torch.bool)
        with torch.no_grad():
            for tokens in self._chunks():
                logits = self._logits(tokens)
                # As greedy decoding chooses: of equal logits, the first.
                hits[tokens] = logits.argmax(dim=1) == self.targets[tokens].squeeze(1)
                _, _, nats[tokens] = self._exponentials(logits, tokens)
        return nats, hits

    def nats_and_gradients(
        self, weights: Tensor, needed: tuple[bool, bool, bool]
    ) -> tuple[Tensor, _Gradients]:
        """Return the nats, and the gradients of sum_i weights_i * nats_i.

        Args:
            weights: [tokens].
            needed: Whether the gradients of hidden, weight and bias are needed; else they are None.
        """
        needs_hidden, needs_weight, needs_bias = needed
        nats = self.hidden.new_empty(len(self.hidden), dtype=self.exact)
        hidden_gradient, bias_gradient = None, None
        weight_gradient: Tensor | None = None
        if needs_hidden:
            hidden_gradient = torch.empty_like(self.hidden, dtype=self.exact)
        if needs_bias and self.bias is not None:
            bias_gradient = torch.zeros_like(self.bias, dtype=self.exact)
        weights = weights.to(self.exact)[:, None]

        with torch.no_grad():
            for tokens in self._chunks():
                # The gradient of the nats with respect to the logits is softmax, less 1 at the
                # target.
                logits = self._logits(tokens)
                exponentials, sums, nats[tokens] = self._exponentials(logits, tokens)
                logit_gradient = exponentials.mul_(weights[tokens] / sums)
                logit_gradient.scatter_add_(1, self.targets[tokens], -weights[tokens])

                if bias_gradient is not None:
                    bias_gradient += logit_gradient.sum(dim=0)
                # In the head's own type, as its ordinary backward pass would multiply them.
                rounded = logit_gradient.to(self.dtype)
                if hidden_gradient is not None:
                    hidden_gradient[tokens] = linear(rounded, self.weight.T)
                if needs_weight:
                    product = transposed_product(rounded, self.hidden[tokens]).to(self.exact)
                    # Zeros to begin with would be another whole head in memory.
                    if weight_gradient is None:
                        weight_gradient = product
                    else:
                        weight_gradient.add_(product)
                    del product

                # Release the memory before the next chunk's logits exist.
                del logits, exponentials, logit_gradient, rounded

        has_no_tokens = needs_weight and weight_gradient is None
        if has_no_tokens:
            weight_gradient = torch.zeros_like(self.weight, dtype=self.exact)
        return nats, (hidden_gradient, weight_gradient, bias_gradient)

    def _chunks(self) -> Iterator[slice]:
        for start in range(0, len(self.hidden), self.chunk):
            yield slice(start, min(start + self.chunk, len(self.hidden)))

    def _logits(self, tokens: slice) -> Tensor:
        return linear(self.hidden[tokens], self.weight, self.bias).to(self.exact)

    def _exponentials(self, logits: Tensor, tokens: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Overwrite a chunk's logits x with exp(x - max x).

        Returns:
            Them, their sums [chunk, 1], and the nats [chunk].
        """
        # No exponential overflows then; in place, as logits are a step's largest tensor.
        logits.sub_(logits.amax(dim=1, keepdim=True))
        # Before `exp_` overwrites them.
        target_logits = logits.gather(1, self.targets[tokens])
        exponentials = logits.exp_()
        sums = exponentials.sum(dim=1, keepdim=True)
        return exponentials, sums, (sums.log() - target_logits).squeeze(1)


class _SupervisedNats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, head: _Head
    ) -> Tensor:
        # Saved so that autograd refuses a backward pass after they have changed.
        ctx.save_for_backward(hidden, weight, bias)
        ctx.head = head
        return head.nats()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, nats_gradient: Tensor) -> tuple[Tensor | None, ...]:
        magnitude = _magnitude(nats_gradient)
        # Products of weights near 1 keep their digits in half precision.
        weights = nats_gradient / magnitude
        _, gradients = ctx.head.nats_and_gradients(weights, ctx.needs_input_grad[:3])
        return (*_scale(gradients, magnitude, _dtypes(*ctx.saved_tensors)), None)


class _SupervisedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, head: _Head, weights: Tensor
    ) -> Tensor:
        ctx.magnitude = _magnitude(weights)
        scaled_weights = weights / ctx.magnitude
        nats, ctx.gradients = head.nats_and_gradients(scaled_weights, ctx.needs_input_grad[:3])
        # Only the types are kept: the gradients are there already, the tensors can go.
        ctx.dtypes = _dtypes(hidden, weight, bias)
        return (nats * weights).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_gradient: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError(
                "The backward pass of supervised_loss can run only once, because it scales its "
                "gradients in place."
            )
        gradients, ctx.gradients = ctx.gradients, None
        return (*_scale(gradients, loss_gradient * ctx.magnitude, ctx.dtypes), None, None)


def _dtypes(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[torch.dtype, ...]:
    """Return the types of the gradients; a bias that isn't there counts as the weight's."""
    return hidden.dtype, weight.dtype, weight.dtype if bias is None else bias.dtype


def _magnitude(weights: Tensor) -> Tensor:
    """Return the mean of |weights|, above 0.

    Divided by it, gradients neither vanish nor overflow in float16.
    """
    mean = weights.abs().sum() / max(len(weights), 1)
    return mean.clamp(min=torch.finfo(mean.dtype).tiny)


def _scale(
    gradients: _Gradients, factor: Tensor, dtypes: Sequence[torch.dtype]
) -> list[Tensor | None]:
    """Multiply the gradients by a factor, in place, and return them in the given types."""
    scaled = []
    for gradient, dtype in zip(gradients, dtypes, strict=True):
        scaled.append(None if gradient is None else gradient.mul_(factor).to(dtype))
    return scaled
