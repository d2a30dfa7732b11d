"""The choice among kernels, with what a CPU can run of them; tests/gpu has the others."""

import logging
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tunetrail.learning.padding_free import kernels
from tunetrail.learning.padding_free.kernels import (
    Heads,
    Weighting,
    attend_at_once,
    attend_in_blocks,
    attend_nested,
    kernel_for,
    why_unfit,
)
from tunetrail.learning.padding_free.segments import Segments

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype")

CPU = torch.device("cpu")
SEGMENTS = Segments(groups=((1, 7), (3, 4), (2, 1)))


@pytest.fixture(autouse=True)
def _tried_again() -> Iterator[None]:
    kernels._working_kernel.cache_clear()
    yield
    kernels._working_kernel.cache_clear()


def heads_of(count: int, key_heads: int) -> Heads:
    generator = torch.Generator().manual_seed(count)
    query, key, value = (
        torch.randn(SEGMENTS.tokens, size, 8, generator=generator)
        for size in (count, key_heads, key_heads)
    )
    return Heads(query=query, key=key, value=value, ends=SEGMENTS.ends(CPU))


@pytest.mark.parametrize("scaling", [None, 0.7])
@pytest.mark.parametrize("key_heads", [4, 2, 1])
def test_nested_attention_is_that_in_blocks(key_heads: int, scaling: float | None) -> None:
    heads, weighting = heads_of(4, key_heads), Weighting(scaling=scaling)

    nested = attend_nested(heads, SEGMENTS, weighting)

    torch.testing.assert_close(nested, attend_in_blocks(heads, SEGMENTS, weighting))


def test_nested_attention_has_dropout() -> None:
    heads, weighting = heads_of(4, 4), Weighting(dropout=0.5)
    torch.manual_seed(0)

    drawn = [attend_nested(heads, SEGMENTS, weighting) for _ in range(600)]

    expected = attend_in_blocks(heads, SEGMENTS, Weighting())
    assert float((drawn[0] - drawn[1]).abs().max()) > 0.1
    assert float((torch.stack(drawn).mean(dim=0) - expected).abs().max()) < 0.3


def test_a_kernel_is_tried_with_its_gradients() -> None:
    def forgets_segments(heads: Heads, segments: Segments, weighting: Weighting) -> Tensor:
        whole = Segments(groups=((1, segments.tokens),))
        return attend_in_blocks(heads, whole, weighting)

    def forgets_the_gradient(heads: Heads, segments: Segments, weighting: Weighting) -> Tensor:
        output = attend_in_blocks(heads, segments, weighting)
        return output.detach() + 0.5 * (output - output.detach())

    sizes = (4, 2, 8)
    assert why_unfit(attend_nested, CPU, torch.float32, sizes, causal=False) is None
    for broken in (forgets_segments, forgets_the_gradient):
        reason = why_unfit(broken, CPU, torch.float32, sizes, causal=False)
        assert reason is not None and reason.startswith("its result differs by")


def test_a_kernel_that_the_device_lacks_is_named() -> None:
    sizes = (4, 4, 8)

    flash = why_unfit(attend_at_once, CPU, torch.bfloat16, sizes, causal=False)
    nested = why_unfit(attend_nested, CPU, torch.float32, sizes, causal=True)

    assert flash is not None and "_flash_attention_forward" in flash
    assert nested is not None and "No viable backend" in nested


def test_the_first_kernel_that_works_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    """As on a GPU, except that a CPU's own attention is in blocks."""
    sizes = (4, 4, 8)
    with caplog.at_level(logging.INFO, logger="tunetrail"):
        half = kernels._working_kernel(CPU, torch.bfloat16, sizes, False, False)
        causal = kernels._working_kernel(CPU, torch.float32, sizes, True, False)

    assert half is attend_nested and causal is attend_in_blocks
    ours = [record for record in caplog.records if record.name.startswith("tunetrail")]
    messages = [record.getMessage() for record in ours]
    assert [message.split(" ")[0] for message in messages] == [
        "attend_at_once",
        "attend_nested",
        "attention",
    ]
    assert kernel_for(heads_of(4, 4), Weighting(dropout=0.1)) is attend_in_blocks


def test_trying_a_kernel_disturbs_nothing() -> None:
    """The first trial is in the middle of a forward pass: in inference, or checkpointed."""
    sizes = (4, 4, 8)

    def layer(tensor: Tensor) -> Tensor:
        kernels._working_kernel(CPU, torch.float32, sizes, False, False)
        return tensor.exp()

    before = torch.get_rng_state()
    with torch.inference_mode():
        assert why_unfit(attend_nested, CPU, torch.float32, sizes, causal=False) is None
    values = torch.ones(3, requires_grad=True)
    # The recomputation tries no kernel, and must find as many saved tensors as the first pass.
    checkpoint(layer, values, use_reentrant=False).sum().backward()

    assert values.grad is not None
    assert torch.equal(torch.get_rng_state(), before)
