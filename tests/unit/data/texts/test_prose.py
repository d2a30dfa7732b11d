import inspect
import json
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.corpora.languages import SENTENCES

from tunetrail.data.texts.prose import read_prose


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't call well-known (or new) Numbers!", "don't call well-known or new numbers"),
        (
            "Set foo_bar to baz() or x.y, see https://example.org/a and camelCase",
            "set to or see and",
        ),
        ("Send the JSON file over HTTP", "send the file over"),
        ("STOP THE ENGINE NOW", "stop the engine now"),
        ("f = a + b", ""),
        ("12 apples, 3.5 pears", "apples pears"),
        ("\u201cQuoted\u201d \u2014 and \xabcited\xbb", "quoted and cited"),
        ("\u0928\u092e\u0938\u094d\u0924\u0947 a b", "\u0928\u092e\u0938\u094d\u0924\u0947"),
        ("", ""),
        (" \n\t", ""),
    ],
)
def test_read_prose_finds_the_natural_words(text: str, words: str) -> None:
    prose = read_prose(text)
    assert (prose.text, prose.words) == (words, len(words.split()))


def test_read_prose_counts_two_letters_as_a_word_where_there_are_no_blanks() -> None:
    text = SENTENCES["ja"][0]
    prose = read_prose(text)
    assert prose.text == text
    assert 8 <= prose.words <= len(text) / 2


def test_read_prose_gives_sentences_a_high_share_and_code_a_low_one() -> None:
    assert (
        min(read_prose(sentence).share for language in SENTENCES.values() for sentence in language)
        >= 0.85
    )
    assert (
        read_prose(
            inspect.getsource(textwrap.TextWrapper._wrap_chunks).partition('"""')[2][-600:]
        ).share
        < 0.5
    )
    assert read_prose(json.dumps({"name": "some value", "numbers": [1, 2.5]})).share < 0.5


@given(st.text(st.characters()))
def test_read_prose_takes_any_text(text: str) -> None:
    assert 0.0 <= read_prose(text).share <= 1.0


@pytest.mark.parametrize("piece", ["a", " ", "a-", "(", "'a", "\0"])
def test_read_prose_looks_at_the_beginning_only(piece: str) -> None:
    text = piece * 2_000_000
    assert read_prose(text) == read_prose(text[:300])
