"""Attention within the segments of a concatenated row, for unmodified transformers models.

It is registered with transformers under `SEGMENT_ATTENTION`; a model that is set to it passes the
keyword `segments` on to it. Segments of equal length go through torch's attention as one block. On
a GPU in half precision, flash attention's kernel for segments of any length takes the whole row.
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
from tunetrail.learning.torch_internals import attention_implementation

SEGMENT_ATTENTION = "tunetrail_segments"
# Gemma 2 caps its scores, GPT-OSS adds sinks, MPNet and T5 add biases by position.
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
    **further: Any,
) -> tuple[Tensor, None]:
    """Attend within each segment, with the signature of transformers' attention functions.

    Args:
        module: The attention layer; its `is_causal` counts if the argument is None.
        query: [1, heads, tokens, dimensions].
        key: [1, key heads, tokens, dimensions]; groups of query heads share fewer key heads.
        value: As `key`.
        attention_mask: None.
        scaling: Factor of the scores; 1 / sqrt(dimensions) if None.
        dropout: Probability with which an attention weight is set to 0.
        is_causal: Whether a token sees only itself and the tokens before it.
        segments: Where the sequences lie in the row.
        sliding_window: How far a token sees; it has to reach over the longest segment.
        further: Keywords of other attention functions.

    Returns:
        [1, tokens, heads, dimensions], and None for the weights.

    Raises:
        NotImplementedError: The model needs a feature that attention within segments doesn't have.
    """
    unsupported = [name for name in _UNSUPPORTED if further.get(name) is not None]
    if segments is None or attention_mask is not None or unsupported:
        reason = unsupported or "neither"
        raise NotImplementedError(
            f"attention within segments takes segments and no mask, got {reason}"
        )
    if sliding_window is not None and segments.longest > sliding_window:
        raise NotImplementedError(
            f"segments of {segments.longest} tokens are longer than the sliding window"
        )
    causal = bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal

    # Under autocast, rotary positions turn queries and keys into float32.
    heads = (query, key, value)
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        heads = (query.to(dtype), key.to(dtype), value.to(dtype))

    queries, keys, values = map(_tokens_first, heads)
    if dropout == 0.0 and _has_varlen_kernel(queries):
        ends = further["cu_seq_lens_q"]
        attended = varlen_attn(
            queries,
            keys,
            values,
            ends,
            ends,
            segments.longest,
            segments.longest,
            scale=scaling,
            # Tokens to the left and to the right; -1 is no limit.
            window_size=(-1, 0) if causal else (-1, -1),
            enable_gqa=query.shape[1] != key.shape[1],
        )
        assert isinstance(attended, Tensor)
        return attended[None], None

    # The segments of one length are a view of the row.
    sizes = segments.group_tokens
    splits = (torch.split(queries, sizes), torch.split(keys, sizes), torch.split(values, sizes))
    blocks = []
    for shape, *tensors in zip(segments.groups, *splits, strict=True):
        block = [tensor.reshape(*shape, *tensor.shape[1:]).transpose(1, 2) for tensor in tensors]
        attended = _attend(*block, scaling=scaling, dropout=dropout, causal=causal)
        blocks.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(blocks)[None], None


def _tokens_first(heads: Tensor) -> Tensor:
    """Return [1, heads, tokens, dimensions] as [tokens, heads, dimensions]."""
    return heads[0].transpose(0, 1)


def _has_varlen_kernel(query: Tensor) -> bool:
    """Tell whether flash attention takes this tensor: half precision on an Ampere GPU or later."""
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
    """Return the attention of sequences of one length, [sequences, heads, length, dimensions]."""
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


@contextmanager
def segment_attention_of(
    model: PreTrainedModel, implementation: str = SEGMENT_ATTENTION
) -> Iterator[None]:
    """Make a model attend within segments, and as before afterwards."""
    before = attention_implementation(model)
    model.set_attn_implementation(implementation)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


# Importing this module is enough: transformers looks an attention up by its name.
AttentionInterface.register(SEGMENT_ATTENTION, segment_attention)
