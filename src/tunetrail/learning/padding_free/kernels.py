"""Compute attention within the segments of a row, by the fastest way that a device has.

A CPU takes segments of equal length as one block. On a GPU each block would be several kernels of
its own, so one kernel takes segments of any length: flash attention's for half precision without
dropout, otherwise torch's attention over nested tensors, which has dropout and float32 as well.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as functional
from torch import Tensor

from tunetrail.learning.cpu_layers.dropout import cheap_dropout
from tunetrail.learning.padding_free.segments import Segments

logger = logging.getLogger(__name__)

_HALF = (torch.float16, torch.bfloat16)
_PROBE = Segments(groups=((1, 9), (2, 4), (1, 1)))
# Largest difference from attention in blocks, relative to the largest entry; other types: 1e-4.
_TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 5e-2}


@dataclass(frozen=True, kw_only=True, slots=True)
class Heads:
    """Queries, keys and values of all tokens of a row.

    Attributes:
        query: [tokens, heads, dimensions].
        key: [tokens, key heads, dimensions]; groups of query heads share fewer key heads.
        value: As `key`.
        ends: Where each segment ends, after a 0: int32 [segments + 1], on the same device.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    ends: Tensor

    @property
    def are_grouped(self) -> bool:
        """Whether several query heads share a key head."""
        return self.query.shape[1] != self.key.shape[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Weighting:
    """How scores become weights.

    Attributes:
        scaling: Factor of the scores; 1 / sqrt(dimensions) if None.
        dropout: Probability with which a weight is set to 0.
        causal: Whether a token sees only itself and the tokens before it.
    """

    scaling: float | None = None
    dropout: float = 0.0
    causal: bool = False


Kernel = Callable[[Heads, Segments, Weighting], Tensor]
"""Returns the attention within each segment, [tokens, heads, dimensions]."""


def kernel_for(heads: Heads, weighting: Weighting) -> Kernel:
    """Return the fastest kernel that takes these heads on their device."""
    query = heads.query
    if query.device.type == "cpu":
        return attend_in_blocks
    sizes = (query.shape[1], heads.key.shape[1], query.shape[2])
    has_dropout = weighting.dropout > 0.0
    return _working_kernel(query.device, query.dtype, sizes, weighting.causal, has_dropout)


def attend_at_once(heads: Heads, segments: Segments, weighting: Weighting) -> Tensor:
    """Attend by flash attention's kernel for segments of any length; it has no dropout."""
    # Here, because torch has it only since 2.10.
    from torch.nn.attention.varlen import varlen_attn

    longest = segments.longest
    attended = varlen_attn(
        heads.query,
        heads.key,
        heads.value,
        heads.ends,
        heads.ends,
        longest,
        longest,
        scale=weighting.scaling,
        # Tokens to the left and to the right; -1 is no limit.
        window_size=(-1, 0) if weighting.causal else (-1, -1),
        enable_gqa=heads.are_grouped,
    )
    assert isinstance(attended, Tensor)
    return attended


def attend_nested(heads: Heads, segments: Segments, weighting: Weighting) -> Tensor:
    """Attend by torch's attention over nested tensors, whose kernel depends on type and device."""
    shortest = min(length for _, length in segments.groups)
    # Nested attention wants as many key heads as query heads.
    repeats = heads.query.shape[1] // heads.key.shape[1]

    def nested(tensor: Tensor) -> Tensor:
        """Return [segments, heads, ragged tokens, dimensions]."""
        ragged: Tensor = torch.nested.nested_tensor_from_jagged(
            tensor.contiguous(), heads.ends, min_seqlen=shortest, max_seqlen=segments.longest
        )
        return ragged.transpose(1, 2)

    attended = functional.scaled_dot_product_attention(
        nested(heads.query),
        nested(heads.key.repeat_interleave(repeats, dim=1)),
        nested(heads.value.repeat_interleave(repeats, dim=1)),
        dropout_p=weighting.dropout,
        is_causal=weighting.causal,
        scale=weighting.scaling,
    )
    values: Tensor = attended.transpose(1, 2).values()
    return values


def attend_in_blocks(heads: Heads, segments: Segments, weighting: Weighting) -> Tensor:
    """Attend by torch's attention, once for the segments of each length."""
    # The segments of one length are a view of the row.
    sizes = segments.group_tokens
    tensors = (heads.query, heads.key, heads.value)
    splits = (torch.split(tensor, sizes) for tensor in tensors)

    blocks = []
    for shape, *group in zip(segments.groups, *splits, strict=True):
        block = [tensor.reshape(*shape, *tensor.shape[1:]).transpose(1, 2) for tensor in group]
        attended = _attend(block, weighting)
        blocks.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(blocks)


def _attend(block: Sequence[Tensor], weighting: Weighting) -> Tensor:
    """Return the attention of sequences of one length, [sequences, heads, length, dimensions].

    Args:
        block: Query, key and value of this shape.
        weighting: How scores become weights.
    """
    query, key, value = block
    scaling, dropout, causal = weighting.scaling, weighting.dropout, weighting.causal
    # Grouped queries: torch repeats the key heads by itself.
    shared = query.shape[1] != key.shape[1]
    if dropout == 0.0 or causal or shared or query.device.type != "cpu":
        return functional.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, is_causal=causal, scale=scaling, enable_gqa=shared
        )

    # torch's own dropout would take longer than the attention itself.
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    weights = (query * scale @ key.transpose(-1, -2)).softmax(dim=-1)
    return cheap_dropout(weights, dropout) @ value


@cache
def _working_kernel(
    device: torch.device,
    dtype: torch.dtype,
    sizes: tuple[int, int, int],
    causal: bool,
    has_dropout: bool,
) -> Kernel:
    """Return the first kernel that gives the right attention, found by trying it once.

    What a kernel takes depends on the card, on the build of torch and on the size of the heads.

    Args:
        device: Where the heads are.
        dtype: Their type.
        sizes: Heads, key heads and dimensions of a head.
        causal: Whether a token sees only itself and the tokens before it.
        has_dropout: Whether weights are dropped.
    """
    kernels: list[Kernel] = [attend_nested]
    if dtype in _HALF and not has_dropout:
        kernels.insert(0, attend_at_once)

    for kernel in kernels:
        reason = why_unfit(kernel, device, dtype, sizes, causal=causal)
        if reason is None:
            return kernel
        logger.info("%s isn't used on %s: %s", kernel.__name__, device, reason)
    logger.warning(
        "attention within texts is computed for one length after the other on %s, which is slow: "
        "torch has no kernel for %s with heads of %d dimensions",
        device,
        dtype,
        sizes[-1],
    )
    return attend_in_blocks


def why_unfit(
    kernel: Kernel,
    device: torch.device,
    dtype: torch.dtype,
    sizes: tuple[int, int, int],
    *,
    causal: bool,
) -> str | None:
    """Return why a kernel doesn't take such heads, None if output and gradients are right.

    Draws no random numbers, and may be called anywhere in a forward pass.
    """
    heads_count, key_heads, dimensions = sizes
    weighting = Weighting(causal=causal)

    # The caller may be within autocast, inference or checkpointing, none of which is meant here:
    # checkpointing counts the tensors that are saved while its hooks are the innermost.
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor),
    ):
        ends = torch.tensor([0, *_PROBE.lengths]).cumsum(0).to(device, torch.int32)
        query = _probe_tensor(heads_count, dimensions, device, dtype)
        key = _probe_tensor(key_heads, dimensions, device, dtype)
        value = _probe_tensor(key_heads, dimensions, device, dtype)
        heads = Heads(query=query, key=key, value=value, ends=ends)
        expected = _output_and_gradients(attend_in_blocks, heads, weighting)
        # Third-party code on unknown hardware: any error means that it isn't for us.
        try:
            outputs = _output_and_gradients(kernel, heads, weighting)
        except (RuntimeError, ValueError, TypeError, ImportError, AttributeError) as error:
            return f"{type(error).__name__}: {error}".splitlines()[0]

    tolerance = _TOLERANCE.get(dtype, 1e-4)
    for output, correct in zip(outputs, expected, strict=True):
        difference = float((output - correct).abs().max() / correct.abs().max())
        # A difference of NaN isn't within the tolerance either.
        if not difference <= tolerance:
            return f"its result differs by {difference:.1e}"
    return None


def _probe_tensor(heads: int, dimensions: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    shape = (_PROBE.tokens, heads, dimensions)
    steps = torch.arange(_PROBE.tokens * heads * dimensions, dtype=torch.float32)
    # Sines tell tokens apart, without a draw from the training's random numbers.
    return steps.mul(0.7).sin().view(shape).to(device, dtype).requires_grad_()


def _output_and_gradients(kernel: Kernel, heads: Heads, weighting: Weighting) -> tuple[Tensor, ...]:
    output = kernel(heads, _PROBE, weighting)
    gradients = torch.autograd.grad(
        output.float().square().sum(), (heads.query, heads.key, heads.value)
    )
    return (output.detach().float(), *map(torch.Tensor.float, gradients))
