from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import models, normalizers, pre_tokenizers, processors

from tunetrail.cache import ResultCache
from tunetrail.learning.embedding.reader import load_embedding_model
from tunetrail.learning.language_model.module import load_tokenizer
from tunetrail.learning.tokens.chat import completions_of, tokenize_record
from tunetrail.learning.tokens.tokenized import (
    TokenizedTexts,
    tokenize_examples,
    tokenize_preferences,
    tokenizer_identity,
)

TEXTS = ["a first text", "b", "", "é" * 40, "a first text"]
RECORDS: list[dict[str, Any]] = [
    {"input": "question", "output": "answer", "row_id": 1},
    {
        "messages": [
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": "long " * 50},
        ]
    },
    {"text": "a document"},
]


@pytest.fixture
def cache(tmp_path: Path) -> ResultCache:
    return ResultCache(folder=tmp_path / "cache", gigabytes=1.0)


@pytest.mark.parametrize("prompt", [None, "query: "])
@pytest.mark.parametrize("is_cached", [True, False])
def test_tokenized_texts_give_the_features_of_the_model(
    tiny_embedding_model: str, cache: ResultCache, prompt: str | None, is_cached: bool
) -> None:
    model = load_embedding_model(tiny_embedding_model, 32)

    tokenized = TokenizedTexts(model, cache if is_cached else None)
    tokenized.keep(TEXTS, prompt or "")
    expected = model.preprocess(TEXTS, prompt=prompt)
    for features in (tokenized(TEXTS, prompt), TokenizedTexts(model, cache)(TEXTS, prompt)):
        assert set(features) == set(expected)
        for name, value in expected.items():
            assert (
                torch.equal(features[name], value)
                if isinstance(value, torch.Tensor)
                else features[name] == value
            )


def test_tokenized_texts_are_tokenised_once_across_runs(
    tiny_embedding_model: str, cache: ResultCache
) -> None:
    texts = [f"text number {index}" for index in range(600)]
    model = load_embedding_model(tiny_embedding_model, 32)

    TokenizedTexts(model, cache).keep(texts)
    written = sorted(cache.folder.rglob("tokens.npz"))
    assert len(written) == 3

    TokenizedTexts(model, cache).keep(texts)
    assert sorted(cache.folder.rglob("tokens.npz")) == written

    TokenizedTexts(model, cache).keep([*texts, "one more"])
    assert len(set(cache.folder.rglob("tokens.npz")) - set(written)) == 1
    assert (
        len(
            TokenizedTexts(load_embedding_model(tiny_embedding_model, 16), cache)(texts[:2])[
                "input_ids"
            ][0]
        )
        == 13
    )

    TokenizedTexts(load_embedding_model(tiny_embedding_model, 16), cache).keep(texts)
    assert len(list(cache.folder.rglob("tokens.npz"))) > 4  # another length is another result


def test_tokenize_examples_are_those_of_the_tokenizer(
    tiny_language_model: str, cache: ResultCache
) -> None:
    tokenizer = load_tokenizer(tiny_language_model)
    expected = [tokenize_record(tokenizer, record, 64) for record in RECORDS]

    for _ in range(2):
        assert tokenize_examples(tokenizer, RECORDS, 64, cache) == expected
    assert len(list(cache.folder.rglob("tokens.npz"))) == 1
    assert tokenize_examples(tokenizer, RECORDS, 64, None) == expected
    assert tokenize_examples(tokenizer, RECORDS, 8, cache) != expected
    assert tokenize_examples(tokenizer, [], 8, cache) == []


def test_tokenize_examples_have_the_weights_of_this_run(
    tiny_language_model: str, cache: ResultCache
) -> None:
    tokenizer = load_tokenizer(tiny_language_model)

    assert [example.weight for example in tokenize_examples(tokenizer, RECORDS, 64, cache)] == [
        1.0,
        1.0,
        1.0,
    ]

    weighted = [
        {**record, "weight": weight} for record, weight in zip(RECORDS, (0.5, 2, 4.0), strict=True)
    ]
    assert [example.weight for example in tokenize_examples(tokenizer, weighted, 64, cache)] == [
        0.5,
        2.0,
        4.0,
    ]
    assert len(list(cache.folder.rglob("tokens.npz"))) == 1


def test_tokenize_preferences_are_those_of_the_tokenizer(
    tiny_language_model: str, cache: ResultCache
) -> None:
    tokenizer = load_tokenizer(tiny_language_model)
    records = [
        {"prompt": "p", "chosen": "c", "rejected": "r", "weight": 3.0},
        {"prompt": "q", "chosen": "long " * 20, "rejected": "s"},
    ]
    answers = [completions_of(record) for record in records]
    expected = [
        (tokenize_record(tokenizer, chosen, 64), tokenize_record(tokenizer, rejected, 64))
        for chosen, rejected in answers
    ]

    for _ in range(2):
        assert tokenize_preferences(tokenizer, records, 64, cache) == expected
    assert tokenize_preferences(tokenizer, records, 64, None) == expected
    assert len(list(cache.folder.rglob("tokens.npz"))) == 2
    assert tokenize_preferences(tokenizer, [], 64, cache) == []


def _exchange_model(tokenizer: Any) -> None:
    backend = tokenizer.backend_tokenizer
    backend.model = models.BPE(vocab=backend.get_vocab(), merges=[], dropout=0.5)


CHANGES: dict[str, Callable[[Any], object]] = {
    "a token": lambda tokenizer: tokenizer.add_tokens(["<new>"]),
    "the template": lambda tokenizer: setattr(tokenizer, "chat_template", "{{ messages }}"),
    "the end of texts": lambda tokenizer: setattr(tokenizer, "eos_token", "a"),
    "the start of texts": lambda tokenizer: setattr(tokenizer, "bos_token", "a"),
    "the side that is cut": lambda tokenizer: setattr(tokenizer, "truncation_side", "left"),
    "special tokens as text": lambda tokenizer: setattr(tokenizer, "split_special_tokens", True),
    "the model": _exchange_model,
    "the normaliser": lambda tokenizer: setattr(
        tokenizer.backend_tokenizer, "normalizer", normalizers.Lowercase()
    ),
    "the pre-tokenizer": lambda tokenizer: setattr(
        tokenizer.backend_tokenizer, "pre_tokenizer", pre_tokenizers.ByteLevel()
    ),
    "the post-processor": lambda tokenizer: setattr(
        tokenizer.backend_tokenizer,
        "post_processor",
        processors.TemplateProcessing(single="$A <|end|>", special_tokens=[("<|end|>", 0)]),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_tokenizer_of_which_anything_was_exchanged_is_another_one(
    tiny_language_model: str, change: str
) -> None:
    tokenizer, equal = load_tokenizer(tiny_language_model), load_tokenizer(tiny_language_model)
    identity = tokenizer_identity(tokenizer)
    assert tokenizer_identity(equal) == identity

    CHANGES[change](tokenizer)

    assert tokenizer_identity(tokenizer) != identity


def test_a_tokenizer_stays_the_same_when_it_pads_and_cuts(tiny_language_model: str) -> None:
    tokenizer = load_tokenizer(tiny_language_model)
    identity = tokenizer_identity(tokenizer)

    tokenizer(["a text", "b"], padding="max_length", truncation=True, max_length=3)
    assert tokenizer.backend_tokenizer.padding is not None

    assert tokenizer_identity(tokenizer) == identity


def test_texts_of_a_model_that_calls_its_tokenizer_otherwise_are_tokenised_again(
    tiny_embedding_model: str, cache: ResultCache
) -> None:
    model = load_embedding_model(tiny_embedding_model, 32)
    TokenizedTexts(model, cache).keep(TEXTS)

    model[0].processing_kwargs = {"text": {"max_length": 4}}
    tokenized = TokenizedTexts(model, cache)
    tokenized.keep(TEXTS)

    assert tokenized.count("a first text") == 4
