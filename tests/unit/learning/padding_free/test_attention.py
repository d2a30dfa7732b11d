from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from tunetrail.learning.padding_free.attention import (
    SEGMENT_ATTENTION,
    segment_attention,
    segment_attention_of,
)
from tunetrail.learning.padding_free.segments import Segments

SEGMENTS = Segments(groups=((1, 7), (3, 4), (2, 1)))


def tensors(heads: int, key_heads: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(heads)
    shapes = [(1, each, SEGMENTS.tokens, 8) for each in (heads, key_heads, key_heads)]
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]


def masked(causal: bool) -> Tensor:
    """Which token sees which: the block-diagonal mask over the whole row."""
    owners = torch.arange(len(SEGMENTS.lengths)).repeat_interleave(torch.tensor(SEGMENTS.lengths))
    same = owners[:, None] == owners[None, :]
    return same & torch.ones_like(same).tril() if causal else same


def expected_attention(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float | None
) -> Tensor:
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=masked(causal), scale=scale, enable_gqa=True
    ).transpose(1, 2)


@pytest.mark.parametrize("scaling", [None, 0.7])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (4, 2), (4, 1)])
def test_segment_attention_equals_a_mask_per_sequence(
    heads: int, key_heads: int, causal: bool, scaling: float | None
) -> None:
    inputs = tensors(heads, key_heads)
    found, weights = segment_attention(
        nn.Identity(), *inputs, None, scaling=scaling, is_causal=causal, segments=SEGMENTS
    )
    expected = expected_attention(*inputs, causal, scaling)
    assert weights is None
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    direction = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    for one, other in zip(
        torch.autograd.grad((found * direction).sum(), inputs),
        torch.autograd.grad((expected * direction).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("causal", [True, False])
def test_the_layer_says_whether_attention_is_causal_where_the_argument_does_not(
    causal: bool,
) -> None:
    layer = nn.Identity()
    layer.is_causal = causal  # type: ignore[assignment]
    inputs = tensors(4, 2)
    found, _ = segment_attention(layer, *inputs, None, segments=SEGMENTS)
    torch.testing.assert_close(
        found, expected_attention(*inputs, causal, None), atol=1e-6, rtol=1e-5
    )


@pytest.mark.parametrize("causal", [True, False])
def test_dropout_leaves_the_mean_and_stays_within_segments(causal: bool) -> None:
    query, key, value = tensors(4, 4)
    torch.manual_seed(0)
    found = [
        segment_attention(
            nn.Identity(), query, key, value, None, dropout=0.5, is_causal=causal, segments=SEGMENTS
        )[0]
        for _ in range(1500)
    ]
    mean, expected = (
        torch.stack(found).mean(dim=0),
        expected_attention(query, key, value, causal, None),
    )
    assert float((found[0] - found[1]).detach().abs().max()) > 0.1
    assert float((mean - expected).detach().abs().max()) < 0.2
    (gradient,) = torch.autograd.grad(found[0][0, :7].sum(), value)
    assert bool((gradient[:, :, 7:] == 0).all()) and bool((gradient[:, :, :7] != 0).any())


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"segments": None}, "neither"),
        ({"attention_mask": torch.zeros(1)}, "neither"),
        ({"softcap": 30.0}, "softcap"),
        ({"s_aux": torch.zeros(4)}, "s_aux"),
        ({"sliding_window": 6}, "longer than the sliding window"),
    ],
)
def test_what_a_model_wants_beyond_segments_is_refused(given: dict[str, Any], named: str) -> None:
    arguments = {"attention_mask": None, "segments": SEGMENTS, **given}
    with pytest.raises(NotImplementedError, match=named):
        segment_attention(nn.Identity(), *tensors(4, 4), **arguments)
    segment_attention(nn.Identity(), *tensors(4, 4), None, segments=SEGMENTS, sliding_window=7)


def test_a_model_attends_within_segments_for_a_while() -> None:
    model = BertModel(
        BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    )
    before = model.config._attn_implementation
    with pytest.raises(RuntimeError, match="stop"), segment_attention_of(model):
        assert model.config._attn_implementation == SEGMENT_ATTENTION
        raise RuntimeError("stop")
    assert model.config._attn_implementation == before
