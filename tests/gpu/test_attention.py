"""Attention within segments on a GPU is that of a mask on a CPU, by a kernel for the whole row."""

from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from tunetrail.learning.padding_free.attention import segment_attention
from tunetrail.learning.padding_free.kernels import (
    Heads,
    Weighting,
    attend_at_once,
    attend_nested,
    kernel_for,
)
from tunetrail.learning.padding_free.segments import Segments

pytestmark = pytest.mark.gpu

SEGMENTS = Segments(groups=((1, 130), (3, 40), (4, 7), (2, 1)))
TOLERANCES = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}


def tensors(heads: int, key_heads: int, dimensions: int) -> list[Tensor]:
    """Return query, key and value in float32 on the CPU, [1, heads, tokens, dimensions]."""
    generator = torch.Generator().manual_seed(heads)
    return [
        torch.randn(1, count, SEGMENTS.tokens, dimensions, generator=generator)
        for count in (heads, key_heads, key_heads)
    ]


def masked_attention(inputs: list[Tensor], causal: bool) -> Tensor:
    """Return attention under a block-diagonal mask over the whole row."""
    owners = torch.arange(len(SEGMENTS.lengths)).repeat_interleave(torch.tensor(SEGMENTS.lengths))
    same = owners[:, None] == owners[None, :]
    mask = same & torch.ones_like(same).tril() if causal else same
    attended = functional.scaled_dot_product_attention(*inputs, attn_mask=mask, enable_gqa=True)
    return attended.transpose(1, 2)


def heads_on(card: torch.device, dtype: torch.dtype, dimensions: int = 32) -> Heads:
    tokens_first = [tensor[0].transpose(0, 1) for tensor in tensors(4, 4, dimensions)]
    query, key, value = (tensor.to(card, dtype) for tensor in tokens_first)
    return Heads(query=query, key=key, value=value, ends=SEGMENTS.ends(card))


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize("causal", [True, False])
def test_half_precision_goes_through_flash_attention(card: torch.device, causal: bool) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        for dimensions in (32, 64, 128):
            heads = heads_on(card, dtype, dimensions)
            assert kernel_for(heads, Weighting(causal=causal)) is attend_at_once
            assert kernel_for(heads, Weighting(causal=causal, dropout=0.1)) is attend_nested


@pytest.mark.parametrize("causal", [True, False])
def test_float32_and_dropout_go_through_nested_attention(card: torch.device, causal: bool) -> None:
    for dropout in (0.0, 0.1):
        heads = heads_on(card, torch.float32)
        assert kernel_for(heads, Weighting(causal=causal, dropout=dropout)) is attend_nested


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (4, 2), (4, 1)])
def test_attention_equals_a_mask_on_the_cpu(
    card: torch.device, dtype: torch.dtype, causal: bool, heads: int, key_heads: int
) -> None:
    inputs = [tensor.requires_grad_() for tensor in tensors(heads, key_heads, 32)]
    expected = masked_attention(inputs, causal)
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    expected_gradients = torch.autograd.grad((expected * direction).sum(), inputs)

    moved = [tensor.detach().to(card, dtype).requires_grad_() for tensor in inputs]
    attended, weights = segment_attention(
        nn.Identity(),
        *moved,
        None,
        is_causal=causal,
        segments=SEGMENTS,
        cu_seq_lens_q=SEGMENTS.ends(card),
    )
    gradients = torch.autograd.grad((attended.float() * direction.to(card)).sum(), moved)

    assert weights is None and attended.device == card and attended.dtype == dtype
    for tensor, correct in zip(
        (attended.detach(), *gradients), (expected.detach(), *expected_gradients), strict=True
    ):
        difference = float((tensor.float().cpu() - correct).abs().max() / correct.abs().max())
        assert difference < TOLERANCES[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_dropout_leaves_the_mean_and_stays_within_segments(
    card: torch.device, dtype: torch.dtype
) -> None:
    query, key, value = (tensor.to(card, dtype) for tensor in tensors(4, 4, 32))
    value.requires_grad_()
    further: dict[str, Any] = {"segments": SEGMENTS, "cu_seq_lens_q": SEGMENTS.ends(card)}
    torch.manual_seed(0)

    drawn = [
        segment_attention(nn.Identity(), query, key, value, None, dropout=0.5, **further)[0]
        for _ in range(800)
    ]

    expected = masked_attention(
        [query.cpu().float(), key.cpu().float(), value.cpu().float()], False
    )
    mean = torch.stack([sample.detach().float() for sample in drawn]).mean(dim=0)
    assert float((drawn[0] - drawn[1]).detach().abs().max()) > 0.1
    assert float((mean.cpu() - expected).detach().abs().max()) < 0.4
    (gradient,) = torch.autograd.grad(drawn[0][0, :130].float().sum(), value)
    assert bool((gradient[:, :, 130:] == 0).all()) and bool((gradient[:, :, :130] != 0).any())


def test_the_same_seed_drops_the_same_weights(card: torch.device) -> None:
    query, key, value = (tensor.to(card) for tensor in tensors(4, 4, 32))
    outputs = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        output, _ = segment_attention(
            nn.Identity(), query, key, value, None, dropout=0.2, segments=SEGMENTS
        )
        outputs.append(output)

    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])
