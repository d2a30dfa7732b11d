import pickle
import shutil
from pathlib import Path

import pytest

from tunetrail.errors import ModelError
from tunetrail.learning.language_model.module import load_tokenizer
from tunetrail.learning.tokens.chat import tokenize_record
from tunetrail.learning.tokens.token_counts import EmbeddingTokenCounter, LanguageModelTokenCounter

CHAT = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]


def test_embedding_rows_count_as_their_longest_text(tiny_embedding_model: str) -> None:
    counter = EmbeddingTokenCounter(path=tiny_embedding_model, max_length=8)
    records = [
        {"anchor": "ab", "positive": "abcd"},
        {"text": "é", "label": "long label"},
        {"text": "x" * 2000},
        {},
    ]

    assert counter.of_records(records).tolist() == [4, 2, 2000, 0]
    assert counter.of_texts(["abc", ""]).tolist() == [3, 0]


def test_embedding_rows_count_with_their_prompts(tiny_embedding_model: str) -> None:
    counter = EmbeddingTokenCounter(
        path=tiny_embedding_model, max_length=8, query_prompt="q: ", document_prompt="text: "
    )
    records = [{"anchor": "ab", "positive": "abcd", "negative": "abcde"}, {"text": "ab"}]
    assert counter.of_records(records).tolist() == [11, 5]


def test_language_model_rows_count_as_they_are_trained_on(tiny_language_model: str) -> None:
    counter = LanguageModelTokenCounter(path=tiny_language_model, max_length=8)
    records = [{"input": "ab", "output": "cde"}, {"messages": CHAT}, {"text": "x" * 2000}]
    tokenizer = load_tokenizer(tiny_language_model)

    expected = [len(tokenize_record(tokenizer, record, 10_000).input_ids) for record in records]

    assert counter.of_records(records).tolist() == expected
    assert counter.of_texts(["abc"]).tolist() == [3]


def test_preferences_count_with_their_longer_answer(tiny_language_model: str) -> None:
    counter = LanguageModelTokenCounter(path=tiny_language_model, max_length=8)
    answers = [("yes", "it may be so"), ("it may be so", "yes")]
    records = [
        {"prompt": "ab", "chosen": chosen, "rejected": rejected} for chosen, rejected in answers
    ]
    longer = counter.of_records([{"input": "ab", "output": "it may be so"}]).tolist()

    assert counter.of_records(records).tolist() == longer * 2
    assert counter.of_records([]).tolist() == []


def test_language_model_rows_that_the_template_refuses_count_by_their_texts(
    tiny_language_model: str, tmp_path: Path
) -> None:
    shutil.copytree(tiny_language_model, tmp_path / "llm")
    (tmp_path / "llm" / "chat_template.jinja").write_text("{{ raise_exception('no') }}")
    counter = LanguageModelTokenCounter(path=str(tmp_path / "llm"), max_length=8)

    assert counter.of_records([{"messages": CHAT}]).tolist() == [len("hello") + len("good day")]

    preference = {"prompt": "ab", "chosen": "c", "rejected": "cdef"}
    assert counter.of_records([preference]).tolist() == [len("ab") + len("cdef")]


def test_counters_survive_the_way_to_another_process(tiny_embedding_model: str) -> None:
    counter = EmbeddingTokenCounter(path=tiny_embedding_model, max_length=8)
    assert pickle.loads(pickle.dumps(counter)) == counter  # noqa: S301 - what process pools do with it


def test_identity_follows_the_tokenizer_and_all_settings(
    tiny_embedding_model: str, tiny_language_model: str, tmp_path: Path
) -> None:
    counter = EmbeddingTokenCounter(path=tiny_embedding_model, max_length=8)
    shutil.copytree(tiny_embedding_model, tmp_path / "copy")
    same = EmbeddingTokenCounter(path=str(tmp_path / "copy"), max_length=8)
    counters = [
        EmbeddingTokenCounter(path=tiny_embedding_model, max_length=9),
        EmbeddingTokenCounter(path=tiny_embedding_model, max_length=8, query_prompt="q"),
        LanguageModelTokenCounter(path=tiny_language_model, max_length=8),
    ]

    assert same.identity == counter.identity
    assert len({counter.identity, *(different.identity for different in counters)}) == 4


def test_a_folder_without_a_fast_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"must hold tokenizer\.json"):
        EmbeddingTokenCounter(path=str(tmp_path), max_length=8).of_texts(["a"])
