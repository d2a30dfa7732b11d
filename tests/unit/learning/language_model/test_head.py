from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tunetrail.learning.language_model.head import (
    scored_tokens,
    supervised_loss,
    supervised_nats,
)
from tunetrail.learning.language_model.module import load_language_model

TOKENS, DIMENSIONS, VOCABULARY = 40, 6, 300


class Sizes(TorchDispatchMode):
    """Notes the number of elements of every tensor that an operation returns, backward passes included."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        self.seen += [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        return result


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    hidden, weight, bias = (
        normal(TOKENS, DIMENSIONS),
        normal(VOCABULARY, DIMENSIONS),
        normal(VOCABULARY),
    )
    targets = torch.randint(0, VOCABULARY, (TOKENS,), generator=generator)
    weights = torch.rand(TOKENS, generator=generator).to(dtype)
    for tensor in (hidden, weight, bias):
        tensor.requires_grad_()
    return hidden, targets, weights, weight, bias


def full_nats(hidden: Tensor, targets: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    logits = torch.nn.functional.linear(hidden, weight, bias)
    return torch.nn.functional.cross_entropy(logits, targets, reduction="none")


def gradients(loss: Tensor, *of: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, of))


@pytest.mark.parametrize("chunk_tokens", [1, 7, 40, 1000])
@pytest.mark.parametrize("biased", [True, False])
def test_supervised_nats_equal_the_full_heads_cross_entropy(
    chunk_tokens: int, biased: bool
) -> None:
    hidden, targets, _, weight, bias = inputs()
    given = bias if biased else None
    expected = full_nats(hidden, targets, weight, given)
    found = supervised_nats(hidden, targets, weight, given, chunk_tokens=chunk_tokens)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    single = [None if each is None else each.detach().float() for each in (hidden, weight, given)]
    found = supervised_nats(single[0], targets, single[1], single[2], chunk_tokens=chunk_tokens)  # type: ignore[arg-type]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected.detach(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("chunk_tokens", [1, 7, 40, 1000])
@pytest.mark.parametrize("biased", [True, False])
def test_supervised_loss_and_its_gradients_equal_the_full_heads(
    chunk_tokens: int, biased: bool
) -> None:
    hidden, targets, weights, weight, bias = inputs()
    trained = (hidden, weight, bias) if biased else (hidden, weight)
    expected = (full_nats(hidden, targets, weight, bias if biased else None) * weights).sum()
    found = supervised_loss(
        hidden, targets, weights, weight, bias if biased else None, chunk_tokens=chunk_tokens
    )
    assert found.item() == pytest.approx(expected.item(), abs=1e-11)
    for left, right in zip(
        gradients(-3.0 * found, *trained), gradients(-3.0 * expected, *trained), strict=True
    ):
        torch.testing.assert_close(left, right, atol=1e-12, rtol=1e-10)


def test_supervised_nats_pass_gradcheck() -> None:
    hidden, targets, _, weight, bias = inputs()
    small = [each.detach()[:9].clone().requires_grad_() for each in (hidden, weight, bias)]

    def nats(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return supervised_nats(hidden, targets[:9] % 9, weight, bias, chunk_tokens=4)

    assert torch.autograd.gradcheck(nats, small)


def test_supervised_loss_without_weights_counts_every_token_once() -> None:
    hidden, targets, _, weight, _ = inputs(torch.float32)
    counted = supervised_loss(hidden, targets, None, weight, chunk_tokens=16)
    assert counted.item() == pytest.approx(
        full_nats(hidden, targets, weight, None).sum().item(), rel=1e-6
    )
    with torch.no_grad():
        silent = supervised_loss(hidden, targets, None, weight, chunk_tokens=16)
    assert not silent.requires_grad and silent.item() == pytest.approx(counted.item(), rel=1e-6)


def test_frozen_head_gets_no_gradient_and_costs_no_memory() -> None:
    hidden, targets, weights, weight, _ = inputs()
    expected = gradients((full_nats(hidden, targets, weight, None) * weights).sum(), hidden)[0]
    weight.requires_grad_(False)
    with Sizes() as sizes:
        supervised_loss(hidden, targets, weights, weight, chunk_tokens=2).backward()
    assert hidden.grad is not None and weight.grad is None
    torch.testing.assert_close(hidden.grad, expected, atol=1e-12, rtol=1e-10)
    largest = sorted(size for size in sizes.seen if size != weight.numel())[
        -1
    ]  # views of the head's matrix apart
    assert largest == 2 * VOCABULARY


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_more_logits_than_a_chunks_are_ever_made(dtype: torch.dtype) -> None:
    hidden, targets, weights, weight, _ = inputs(dtype)
    with Sizes() as sizes:
        supervised_loss(hidden, targets, weights, weight, chunk_tokens=8).backward()
        supervised_nats(hidden, targets, weight, chunk_tokens=8).sum().backward()
    assert max(sizes.seen) == 8 * VOCABULARY
    with Sizes() as sizes:  # that the measure sees what the usual way makes
        full_nats(hidden, targets, weight, None).sum().backward()
    assert max(sizes.seen) == TOKENS * VOCABULARY


def test_backward_pass_of_the_loss_runs_once() -> None:
    hidden, targets, weights, weight, _ = inputs()
    loss = supervised_loss(hidden, targets, weights, weight)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="can run only once"):
        loss.backward()


def test_changed_weights_are_refused_in_the_backward_pass_of_nats() -> None:
    hidden, targets, _, weight, _ = inputs()
    nats = supervised_nats(hidden, targets, weight)
    with torch.no_grad():
        weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        nats.sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_multiplies_in_its_type_and_keeps_the_gradients_types(dtype: torch.dtype) -> None:
    hidden, targets, weights, weight, bias = inputs(torch.float32)
    trained = (hidden, weight, bias)
    with torch.autocast("cpu", dtype):
        found = supervised_loss(hidden, targets, weights, weight, bias, chunk_tokens=16)
        repeated = (supervised_nats(hidden, targets, weight, bias, chunk_tokens=16) * weights).sum()
        expected = (full_nats(hidden, targets, weight, bias) * weights).sum()
        exact = (
            full_nats(hidden.double(), targets, weight.double(), bias.double()) * weights
        ).sum()
        assert found.dtype == torch.float32 and found.item() != pytest.approx(
            exact.item(), rel=1e-8
        )
        assert found.item() == repeated.item() == pytest.approx(expected.item(), rel=1e-3)
        right = gradients(expected, *trained)
        for loss in (
            found,
            repeated,
        ):  # inside of autocast, where manual optimization runs its backward pass
            left = gradients(loss, *trained)
            for one, other in zip(left, right, strict=True):
                assert one.dtype == torch.float32
                assert float((one - other).norm() / other.norm()) < 1e-2


@pytest.mark.parametrize("size", [1e-9, 1e9])
def test_gradients_in_float16_neither_vanish_nor_overflow(size: float) -> None:
    hidden, targets, weights, weight, _ = inputs(torch.float32)
    right = gradients((full_nats(hidden, targets, weight, None) * weights).sum(), hidden, weight)
    with torch.autocast("cpu", torch.float16):
        found = supervised_loss(hidden, targets, weights * size, weight)
        repeated = (supervised_nats(hidden, targets, weight) * weights * size).sum()
    for loss in (found, repeated):
        for one, other in zip(gradients(loss, hidden, weight), right, strict=True):
            assert float((one / size - other).norm() / other.norm()) < 1e-2


def test_parameters_in_bfloat16_get_gradients_in_bfloat16() -> None:
    hidden, targets, weights, weight, _ = inputs(torch.bfloat16)
    exact = [each.detach().double().requires_grad_() for each in (hidden, weight)]
    loss = supervised_loss(hidden, targets, weights, weight, chunk_tokens=8)
    assert loss.dtype == torch.float32
    right = gradients((full_nats(exact[0], targets, exact[1], None) * weights).sum(), *exact)
    for one, other in zip(gradients(loss, hidden, weight), right, strict=True):
        assert one.dtype == torch.bfloat16
        assert float((one.double() - other).norm() / other.norm()) < 2e-2


@pytest.mark.parametrize("nothing", ["tokens", "weight"])
def test_nothing_to_learn_gives_zeros(nothing: str) -> None:
    hidden, targets, weights, weight, bias = inputs(torch.float32)
    taken = 0 if nothing == "tokens" else TOKENS
    loss = supervised_loss(hidden[:taken], targets[:taken], weights[:taken] * 0.0, weight, bias)
    assert loss.item() == 0.0
    assert all(float(each.abs().max()) == 0.0 for each in gradients(loss, hidden, weight, bias))


def test_tied_head_of_a_real_model_gets_the_full_models_gradients(tiny_language_model: str) -> None:
    model = load_language_model(tiny_language_model).double()
    ids = torch.randint(0, 250, (1, 30), generator=torch.Generator().manual_seed(0))
    supervised = torch.arange(5, 29)
    names, parameters = zip(*model.named_parameters(), strict=True)
    logits = model(input_ids=ids).logits[0, supervised]
    expected = torch.nn.functional.cross_entropy(logits, ids[0, supervised + 1], reduction="sum")
    hidden = model.model(input_ids=ids).last_hidden_state[0, supervised]
    found = supervised_loss(
        hidden, ids[0, supervised + 1], None, model.lm_head.weight, chunk_tokens=10
    )
    assert found.item() == pytest.approx(expected.item(), abs=1e-10)
    left, right = gradients(found, *parameters), gradients(expected, *parameters)
    assert "model.embed_tokens.weight" in names and "lm_head.weight" not in names
    for one, other in zip(left, right, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-8)


def test_scored_tokens_are_hits_if_greedy_decoding_chooses_them() -> None:
    hidden, targets, _, weight, bias = inputs()
    logits = torch.nn.functional.linear(hidden, weight, bias)
    targets = torch.where(torch.arange(TOKENS) % 3 == 0, logits.argmax(dim=1), targets)

    nats, hits = scored_tokens(hidden, targets, weight, bias)

    torch.testing.assert_close(nats, supervised_nats(hidden, targets, weight, bias))
    assert torch.equal(hits, logits.argmax(dim=1) == targets) and hits.sum() >= TOKENS // 3

    # Of equal logits, the first one is chosen.
    zeros = torch.zeros_like(weight)
    assert scored_tokens(hidden, torch.tensor([0, 1] * 20), zeros)[1].tolist() == [True, False] * 20
