"""Attention within the segments of a concatenated row, for unmodified transformers models.

Registered with transformers under `SEGMENT_ATTENTION`; a model that is set to it passes the keyword
`segments` down to here. Segments of one length go through torch's attention as one block; on a GPU
in half precision, flash attention's kernel for segments of any length takes the whole row.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, PreTrainedModel

from tunetrail.learning.cpu_layers.dropout import cheap_dropout
from tunetrail.learning.padding_free.segments import Segments

SEGMENT_ATTENTION = "tunetrail_segments"
_UNSUPPORTED = ("softcap", "s_aux", "position_bias")


def segment_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    segments: Segments | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend within each segment; transformers' signature of an attention function.

    Args:
        module: The attention layer; its `is_causal` counts where the argument isn't given.
        query: [1, heads, tokens, dimensions].
        key: [1, key heads, tokens, dimensions]; fewer heads than `query` are shared by groups of
            them.
        value: As `key`.
        attention_mask: None.
        scaling: Factor of the scores; 1 / sqrt(dimensions) where None.
        dropout: Probability with which an attention weight is set to 0.
        is_causal: Whether a token sees only itself and those before it.
        segments: Where the sequences lie in the row.
        sliding_window: How far a token sees; has to reach over the longest segment.
        others: Keywords of other attention functions.

    Returns:
        [1, tokens, heads, dimensions], and None for the weights.

    Raises:
        NotImplementedError: The model wants something that attention within segments doesn't have.
    """
    wanted = [name for name in _UNSUPPORTED if others.get(name) is not None]
    if segments is None or attention_mask is not None or wanted:
        raise NotImplementedError(
            f"attention within segments takes segments and no mask, got {wanted or 'neither'}"
        )
    if sliding_window is not None and segments.longest > sliding_window:
        raise NotImplementedError(
            f"segments of {segments.longest} tokens are longer than the sliding window"
        )
    causal = bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal
    if torch.is_autocast_enabled(query.device.type):  # rotary positions make float32 of it
        query, key, value = (
            each.to(torch.get_autocast_dtype(query.device.type)) for each in (query, key, value)
        )
    rows = [each[0].transpose(0, 1) for each in (query, key, value)]  # [tokens, heads, dimensions]
    if dropout == 0.0 and _has_varlen_kernel(query):
        ends = others["cu_seq_lens_q"]
        attended = varlen_attn(
            rows[0],
            rows[1],
            rows[2],
            ends,
            ends,
            segments.longest,
            segments.longest,
            scale=scaling,
            window_size=(-1, 0) if causal else (-1, -1),
            enable_gqa=query.shape[1] != key.shape[1],
        )
        assert isinstance(attended, Tensor)
        return attended[None], None
    sizes = [count * length for count, length in segments.groups]
    queries, keys, values = (
        torch.split(each, sizes) for each in rows
    )  # those of one length are a view of the row
    blocks = []
    for (count, length), *parts in zip(segments.groups, queries, keys, values, strict=True):
        block = [part.reshape(count, length, *part.shape[1:]).transpose(1, 2) for part in parts]
        within = _attend(*block, scaling=scaling, dropout=dropout, causal=causal)
        blocks.append(within.transpose(1, 2).flatten(0, 1))
    return torch.cat(blocks)[None], None


def _has_varlen_kernel(query: Tensor) -> bool:
    """Whether flash attention takes these numbers: half precision on a GPU of the Ampere generation or later."""
    if not query.is_cuda or query.dtype not in (torch.float16, torch.bfloat16):
        return False
    return torch.cuda.get_device_capability(query.device) >= (8, 0)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scaling: float | None,
    dropout: float,
    causal: bool,
) -> Tensor:
    """Return attention [sequences, heads, length, dimensions] of sequences of one length."""
    shared = query.shape[1] != key.shape[1]
    if dropout == 0.0 or causal or shared or query.device.type != "cpu":
        return functional.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, is_causal=causal, scale=scaling, enable_gqa=shared
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    weights = (query * scale @ key.transpose(-1, -2)).softmax(dim=-1)
    return cheap_dropout(weights, dropout) @ value


@contextmanager
def segment_attention_of(
    model: PreTrainedModel, implementation: str = SEGMENT_ATTENTION
) -> Iterator[None]:
    """Let a model attend within segments; afterwards it attends as before."""
    before = model.config._attn_implementation
    model.set_attn_implementation(implementation)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


AttentionInterface.register(SEGMENT_ATTENTION, segment_attention)
