"""Concatenated texts give the vectors and gradients of padded ones, for every family of encoders."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.families import assert_close, gradients

from tunetrail.learning.cpu_layers.linear import has_faster_products
from tunetrail.learning.embedding import encoder
from tunetrail.learning.embedding.data import EmbeddingBatch
from tunetrail.learning.embedding.encoder import TextColumn, encode_with_prompt
from tunetrail.learning.embedding.module import EmbeddingModule
from tunetrail.learning.embedding.reader import load_embedding_model

POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
TEXTS = ["one two", "a", "three words here", "the longest of all of these texts", "five", "a"]
ANSWERS = ["é", "something else", "", "no", "yes indeed it is", "b"]
NEGATIVES = ["wrong", "also wrong, and longer"]

Folder = Callable[..., str]


def module_of(
    path: str, *, padding_free: bool, loss: str = "auto", shape: str = "pair"
) -> EmbeddingModule:
    return EmbeddingModule(
        model=path, shape=shape, loss=loss, max_length=64, padding_free=padding_free
    )


def batch(prompts: tuple[str, str] = ("", ""), shortest: str = "") -> EmbeddingBatch:
    answers = [answer or shortest for answer in ANSWERS]
    texts = zip((TEXTS, answers, NEGATIVES), (*prompts, prompts[1]), strict=True)
    columns = tuple(TextColumn(texts=column, prompt=prompt) for column, prompt in texts)
    return EmbeddingBatch(columns=columns, target=None, rows=tuple(range(len(TEXTS))), shape="pair")


def assert_equal_without_padding(
    path: str, micro_batch: EmbeddingBatch, loss: str = "auto", **shape: Any
) -> EmbeddingModule:
    """Compare both ways, and return the module that computes no padding."""
    free, padded = (
        module_of(path, padding_free=each, loss=loss, **shape) for each in (True, False)
    )
    assert (free.encoder.padding_free, padded.encoder.padding_free) == (True, False)
    with torch.no_grad():
        pairs = list(
            zip(free.encoder(micro_batch.columns), padded.encoder(micro_batch.columns), strict=True)
        )
    assert [len(found) for found, _ in pairs] == [
        len(column.texts) for column in micro_batch.columns
    ]
    for found, expected in pairs:
        torch.testing.assert_close(
            found, expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-4
        )
    (loss_found, found_gradient), (loss_expected, gradient) = (
        gradients(each, micro_batch) for each in (free, padded)
    )
    assert loss_found == pytest.approx(loss_expected, rel=1e-4)
    assert_close(found_gradient, gradient)
    return free


@pytest.mark.parametrize("pooling", [*POOLINGS, ("cls", "max", "mean")])
def test_every_pooling_gives_the_same_without_padding(
    encoder_folder: Folder, pooling: str | tuple[str, ...]
) -> None:
    assert_equal_without_padding(encoder_folder("bert", pooling=pooling), batch())


@pytest.mark.parametrize(
    "family", ["roberta", "xlm-roberta", "distilbert", "modernbert", "qwen2", "llama"]
)
def test_every_family_gives_the_same_without_padding(encoder_folder: Folder, family: str) -> None:
    decoder = family in ("qwen2", "llama")
    path = encoder_folder(family, pooling="lasttoken" if decoder else "mean")
    # decoders' tokenizers put nothing around a text, and padding makes what it likes of no token at
    # all
    assert_equal_without_padding(path, batch(shortest="x" if decoder else ""))


@pytest.mark.parametrize("prompts", [("", ""), ("question: ", "tell: ")])
@pytest.mark.parametrize("most_tokens", [1, 16, 48])
def test_rows_of_few_tokens_give_the_same(
    encoder_folder: Folder,
    monkeypatch: pytest.MonkeyPatch,
    prompts: tuple[str, str],
    most_tokens: int,
) -> None:
    path = encoder_folder("bert")
    monkeypatch.setattr(encoder, "_MOST_TRAINED_TOKENS", most_tokens)
    rows: list[int] = []
    concatenate = encoder.concatenate

    def counted(texts: Any, *arguments: Any, **options: Any) -> Any:
        rows.append(sum(map(len, texts)))
        return concatenate(texts, *arguments, **options)

    monkeypatch.setattr(encoder, "concatenate", counted)
    module, micro_batch = module_of(path, padding_free=True), batch(prompts)
    assert_equal_without_padding(path, micro_batch)
    rows.clear()

    module.encoder(micro_batch.columns)

    lengths, computed = module.encoder.forget()
    longest = max(lengths)
    assert len(lengths) == sum(map(len, (TEXTS, ANSWERS, NEGATIVES)))
    assert sum(rows) == sum(lengths) <= computed
    assert len(rows) > 2 and max(rows) < most_tokens + longest


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("prompts", [("ask: ", "ask: "), ("question: ", "tell: ")])
def test_prompts_left_out_of_pooling_give_the_same_without_padding(
    encoder_folder: Folder, pooling: str, prompts: tuple[str, str]
) -> None:
    path = encoder_folder("bert", pooling=pooling, include_prompt=False)
    module = assert_equal_without_padding(path, batch(prompts))
    with torch.no_grad():
        prompted, plain = (module.encoder(each.columns)[0] for each in (batch(prompts), batch()))
    assert float((prompted - plain).abs().max()) > 1e-3  # they are read all the same


def test_prompts_that_count_give_the_same_without_padding(encoder_folder: Folder) -> None:
    assert_equal_without_padding(encoder_folder("bert"), batch(("question: ", "tell: ")))


@pytest.mark.parametrize(
    ("shape", "loss"), [("score", "cosent"), ("label", "auto"), ("vector", "mse")]
)
def test_other_shapes_give_the_same_without_padding(
    encoder_folder: Folder, shape: str, loss: str
) -> None:
    rows = len(TEXTS)
    targets: dict[str, Any] = {
        "score": torch.linspace(-1, 1, rows),
        "label": torch.tensor([0, 1] * (rows // 2)),
        "vector": torch.linspace(-1, 1, rows * 32).view(rows, 32),
    }
    columns = (TextColumn(texts=TEXTS), TextColumn(texts=ANSWERS))[: 2 if shape == "score" else 1]
    micro_batch = EmbeddingBatch(
        columns=columns, target=targets[shape], rows=tuple(range(rows)), shape=shape
    )
    assert_equal_without_padding(encoder_folder("bert"), micro_batch, loss=loss, shape=shape)


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("mpnet", "its attention can't be exchanged"),
        ("modernbert-local", "its layers see 4 tokens only"),
    ],
)
def test_families_that_need_padding_get_it_and_it_is_logged(
    encoder_folder: Folder, caplog: pytest.LogCaptureFixture, family: str, reason: str
) -> None:
    path = encoder_folder(family)
    with caplog.at_level(logging.WARNING):
        found = module_of(path, padding_free=True)
    assert not found.encoder.padding_free
    assert f"texts are padded, as the model needs padding ({reason})" in caplog.text
    (loss, gradient), (expected_loss, expected) = (
        gradients(each, batch()) for each in (found, module_of(path, padding_free=False))
    )
    assert loss == expected_loss
    assert_close(gradient, expected, 0.0)


def test_a_text_has_the_same_vector_in_any_company(encoder_folder: Folder) -> None:
    module = module_of(encoder_folder("bert"), padding_free=True).eval()
    with torch.no_grad():
        (alone,) = module.encoder([TextColumn(texts=TEXTS[3:4])])
        (together,) = module.encoder([TextColumn(texts=[*ANSWERS, *TEXTS])])
    torch.testing.assert_close(together[len(ANSWERS) + 3], alone[0], atol=1e-6, rtol=1e-5)


def test_a_text_without_any_token_has_a_vector_and_leaves_the_others_alone(
    encoder_folder: Folder,
) -> None:
    module = module_of(encoder_folder("llama", pooling="lasttoken"), padding_free=True).eval()
    with torch.no_grad():
        (found,) = module.encoder([TextColumn(texts=["a", "", "b c"])])
        (expected,) = module.encoder([TextColumn(texts=["a", "b c"])])
        (nothing,) = module.encoder([TextColumn(texts=[])])
    assert bool(torch.isfinite(found).all())
    torch.testing.assert_close(found[[0, 2]], expected, atol=1e-6, rtol=1e-5)
    assert nothing.shape == (0, 32)


def test_encoding_counts_the_tokens_of_texts_and_of_padding(encoder_folder: Folder) -> None:
    path = encoder_folder("bert")
    columns = [TextColumn(texts=["a", "abc"]), TextColumn(texts=["ab"])]
    filled = 16 if has_faster_products() else 3 + 5 + 4
    for padding_free, computed in ((True, filled), (False, 2 * 5 + 4)):
        encoder = module_of(path, padding_free=padding_free).encoder
        with torch.no_grad():
            encoder(columns)
        lengths, found = encoder.forget()
        assert (sorted(lengths), found) == ([3, 4, 5], computed)
        assert encoder.forget() == ([], 0)


def test_a_model_is_tried_once_and_not_for_each_call(encoder_folder: Folder) -> None:
    model = load_embedding_model(encoder_folder("bert"))
    passes: list[int] = []
    model[0].register_forward_hook(lambda *_: passes.append(1))

    encode_with_prompt(model, TEXTS, "")
    first = len(passes)
    encode_with_prompt(model, TEXTS, "")

    # The texts of the trial, padded and not; after it only the texts.
    assert (first, len(passes)) == (3, 4)
