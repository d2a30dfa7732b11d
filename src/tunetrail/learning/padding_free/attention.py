"""Attention within the segments of a concatenated row, for unmodified transformers models.

It is registered with transformers under `SEGMENT_ATTENTION`; a model that is set to it passes the
keyword `segments` on to it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from tunetrail.learning.padding_free.kernels import Heads, Weighting, kernel_for
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
    dtype = query.dtype
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
    ends = further.get("cu_seq_lens_q")
    heads = Heads(
        query=_tokens_first(query).to(dtype),
        key=_tokens_first(key).to(dtype),
        value=_tokens_first(value).to(dtype),
        ends=segments.ends(query.device) if ends is None else ends,
    )

    weighting = Weighting(scaling=scaling, dropout=dropout, causal=causal)
    attend = kernel_for(heads, weighting)
    return attend(heads, segments, weighting)[None], None


def _tokens_first(heads: Tensor) -> Tensor:
    """Return [1, heads, tokens, dimensions] as [tokens, heads, dimensions]."""
    return heads[0].transpose(0, 1)


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
