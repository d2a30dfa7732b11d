"""Concatenated examples give the loss and gradient of padded ones and of each by itself."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from tests.families import assert_close, gradients

from tunetrail.learning.language_model.data import LanguageBatch
from tunetrail.learning.language_model.forward import causal_model, padded
from tunetrail.learning.language_model.module import LanguageModelModule
from tunetrail.learning.padding_free.attention import segment_attention_of
from tunetrail.learning.tokens.chat import IGNORED, TokenizedExample

Folder = Callable[..., str]

LENGTHS = (9, 3, 17, 9, 2, 30)
WEIGHTS = (1.0, 0.5, 2.0, 0.0, 1.0, 3.0)
ADAPTER = {"kind": "lora", "rank": 4, "alpha": 8, "dropout": 0.0}


def example(number: int, length: int, weight: float = 1.0) -> TokenizedExample:
    """The first third is not learnt, and a gap in the middle."""
    generator = torch.Generator().manual_seed(number)
    ids = torch.randint(3, 256, (length,), generator=generator).tolist()
    learnt = [place >= length // 3 and place % 5 > 0 for place in range(length)]
    labels = [token if wanted else IGNORED for token, wanted in zip(ids, learnt, strict=True)]
    labels[-1] = ids[-1]
    return TokenizedExample(
        input_ids=ids, labels=labels, supervised_bytes=0, truncated=False, weight=weight
    )


EXAMPLES = [
    example(number, *pair) for number, pair in enumerate(zip(LENGTHS, WEIGHTS, strict=True))
]


def batch(examples: Sequence[TokenizedExample] = EXAMPLES) -> LanguageBatch:
    return LanguageBatch(
        examples=tuple(examples),
        rows=tuple(range(len(examples))),
        weights=tuple(example.weight for example in examples),
    )


def full_loss(module: LanguageModelModule, examples: Sequence[TokenizedExample]) -> torch.Tensor:
    """All logits, torch's cross-entropy: the weighted sum over the supervised tokens."""
    inputs = padded(examples, 1)
    with segment_attention_of(causal_model(module.model), "sdpa"):
        logits = module.model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
        ).logits
    nats = torch.nn.functional.cross_entropy(
        logits[:, :-1].mT, inputs["labels"][:, 1:], reduction="none"
    )
    return (nats.sum(dim=1) * torch.tensor([example.weight for example in examples])).sum()


@pytest.mark.parametrize("adapter", [None, ADAPTER])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_concatenated_examples_have_the_loss_and_gradient_of_all_logits_of_padded_ones(
    decoder_folder: Folder, family: str, adapter: dict[str, object] | None
) -> None:
    module = LanguageModelModule(model=decoder_folder(family), adapter=adapter, pad_token_id=1)
    assert module.forward_pass.padding_free
    found_loss, found = gradients(module, batch(), scale=0.5)
    module.zero_grad()
    loss = full_loss(module, EXAMPLES)
    (0.5 * loss).backward()
    assert found_loss == pytest.approx(float(loss.detach()), rel=1e-5)
    assert_close(
        found,
        {name: each.grad for name, each in module.named_parameters() if each.grad is not None},
    )


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_padding_gives_the_same(decoder_folder: Folder, family: str) -> None:
    free, with_padding = (
        LanguageModelModule(model=decoder_folder(family), pad_token_id=1, padding_free=each)
        for each in (True, False)
    )
    (found_loss, found), (expected_loss, expected) = (
        gradients(each, batch()) for each in (free, with_padding)
    )
    assert found_loss == pytest.approx(expected_loss, rel=1e-5)
    assert_close(found, expected)
    with torch.no_grad():
        torch.testing.assert_close(
            free.forward_pass.nats(EXAMPLES),
            with_padding.forward_pass.nats(EXAMPLES),
            rtol=1e-5,
            atol=1e-4,
        )


def test_a_family_without_exchangeable_attention_is_padded_and_it_is_logged(
    decoder_folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    path = decoder_folder("bloom")
    with caplog.at_level(logging.WARNING):
        module = LanguageModelModule(model=path, pad_token_id=1)
    assert not module.forward_pass.padding_free
    assert (
        "examples are padded, as the model needs padding (its attention can't be exchanged)"
        in caplog.text
    )
    found_loss, found = gradients(module, batch())
    one_by_one_loss, one_by_one = gradients(module, *(batch([each]) for each in EXAMPLES))
    assert found_loss == pytest.approx(one_by_one_loss, rel=1e-4)
    assert_close(found, one_by_one)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_packed_examples_equal_one_by_one(decoder_folder: Folder, family: str) -> None:
    module = LanguageModelModule(model=decoder_folder(family), pad_token_id=1)
    found_loss, found = gradients(module, batch())
    one_by_one_loss, one_by_one = gradients(module, *(batch([each]) for each in EXAMPLES))
    assert found_loss == pytest.approx(one_by_one_loss, rel=1e-5)
    assert_close(found, one_by_one)
    with torch.no_grad():
        alone = torch.cat([module.forward_pass.nats([each]) for each in EXAMPLES])
        torch.testing.assert_close(module.forward_pass.nats(EXAMPLES), alone, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("changed", [2, 3])
def test_another_example_in_the_row_changes_neither_loss_nor_gradient_of_the_others(
    decoder_folder: Folder, changed: int
) -> None:
    module = LanguageModelModule(model=decoder_folder("llama"), pad_token_id=1)
    silent = replace(EXAMPLES[changed], weight=0.0)
    other = replace(example(99, LENGTHS[changed] + 4), weight=0.0)
    results = []
    for each in (silent, other):
        examples = [*EXAMPLES[:changed], each, *EXAMPLES[changed + 1 :]]
        with torch.no_grad():
            nats = module.forward_pass.nats(examples)
        results.append((nats, *gradients(module, batch(examples))))
    (nats, loss, gradient), (other_nats, other_loss, other_gradient) = results
    others = [number for number in range(len(EXAMPLES)) if number != changed]
    torch.testing.assert_close(other_nats[others], nats[others], rtol=1e-6, atol=1e-5)
    assert abs(float(other_nats[changed] - nats[changed])) > 1.0
    assert other_loss == pytest.approx(loss, rel=1e-6)
    assert_close(other_gradient, gradient)


@pytest.mark.parametrize("mini_batch_size", [1, 2, 4, 100])
def test_pieces_equal_the_whole_batch(decoder_folder: Folder, mini_batch_size: int) -> None:
    module = LanguageModelModule(model=decoder_folder("llama"), pad_token_id=1)
    expected_loss, expected = gradients(module, batch())
    module.mini_batch_size = mini_batch_size
    found_loss, found = gradients(module, batch())
    assert found_loss == pytest.approx(expected_loss, rel=1e-5)
    assert_close(found, expected)


def test_the_order_of_examples_does_not_matter(decoder_folder: Folder) -> None:
    module = LanguageModelModule(model=decoder_folder("qwen2"), pad_token_id=1)
    with torch.no_grad():
        expected = module.forward_pass.nats(EXAMPLES)
        found = module.forward_pass.nats(EXAMPLES[::-1])
    torch.testing.assert_close(found.flip(0), expected, rtol=1e-6, atol=1e-5)
