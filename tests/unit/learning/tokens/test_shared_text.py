from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from tunetrail.learning.language_model.module import load_tokenizer
from tunetrail.learning.tokens.chat import IGNORED, TokenizedExample, tokenize_record
from tunetrail.learning.tokens.shared_text import tokenize_shared

LONG = "the quick brown fox jumps over the lazy dog, \U0001f600 étés and 日本. " * 4
CHAT = {
    "messages": [
        {"role": "user", "content": "Tell me of the fox."},
        {"role": "assistant", "content": "the quick brown fox"},
        {"role": "user", "content": "More."},
        {"role": "assistant", "content": LONG},
    ]
}
RECORDS: list[dict[str, Any]] = [{"input": "the dog", "output": LONG}, CHAT, {"text": LONG}]


@pytest.fixture(scope="module")
def tokenizers(
    tiny_language_model: str, wordy_language_model: str
) -> list[PreTrainedTokenizerBase]:
    return [load_tokenizer(path) for path in (tiny_language_model, wordy_language_model)]


def labelled_bytes(tokenizer: PreTrainedTokenizerBase, example: TokenizedExample) -> bytes:
    """What the labelled tokens spell, without special ones."""
    special = {IGNORED, *tokenizer.all_special_ids}
    ids = [label for label in example.labels if label not in special]
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)).encode()


def ends(tokenizer: PreTrainedTokenizerBase, example: TokenizedExample) -> int:
    return example.labels.count(tokenizer.eos_token_id)


@pytest.mark.parametrize("record", RECORDS, ids=["completion", "chat", "document"])
@pytest.mark.parametrize("max_length", [60, 100, 150, 512])
def test_all_tokenizers_are_labelled_on_the_same_bytes(
    tokenizers: list[PreTrainedTokenizerBase], record: dict[str, Any], max_length: int
) -> None:
    own = [tokenize_record(tokenizer, record, max_length) for tokenizer in tokenizers]
    shared = tokenize_shared(tokenizers, record, max_length)

    spelled = [labelled_bytes(*pair) for pair in zip(tokenizers, shared, strict=True)]
    assert spelled[0] == spelled[1]
    counted = {example.supervised_bytes for example in shared}
    assert counted == {len(spelled[0])}
    assert len({ends(*pair) for pair in zip(tokenizers, shared, strict=True)}) == 1
    # The shorter text is shared, except for what the tokens at its end don't spell together.
    least = min(example.supervised_bytes for example in own)
    assert least - 12 <= len(spelled[0]) <= least
    most = max(example.supervised_bytes for example in own)
    assert {example.unshared_bytes for example in shared} == {most - len(spelled[0])}
    if max_length < 512:
        assert own[0].supervised_bytes < own[1].supervised_bytes


@given(text=st.text(min_size=1, max_size=60), max_length=st.integers(8, 80))
def test_any_text_is_shared_byte_by_byte(
    tokenizers: list[PreTrainedTokenizerBase], text: str, max_length: int
) -> None:
    for record in ({"text": text}, {"input": "the", "output": f"a{text}z"}):
        shared = tokenize_shared(tokenizers, record, max_length)
        spelled = [labelled_bytes(*pair) for pair in zip(tokenizers, shared, strict=True)]
        assert spelled[0] == spelled[1]
        assert shared[0].supervised_bytes == shared[1].supervised_bytes == len(spelled[0])


def test_equal_tokenizers_share_all_that_they_read(
    tokenizers: list[PreTrainedTokenizerBase],
) -> None:
    wordy = tokenizers[1]
    # In ASCII, as no text is shared up to the middle of a character.
    text = "the quick brown fox jumps over the lazy dog. " * 4
    answer = {"role": "assistant", "content": text}
    chat = {"messages": [{"role": "user", "content": "More."}, answer, *CHAT["messages"][:2]]}
    for record in ({"input": "the dog", "output": text}, chat, {"text": text}):
        own = tokenize_record(wordy, record, 60)
        for example in tokenize_shared([wordy, wordy], record, 60):
            assert example == own
