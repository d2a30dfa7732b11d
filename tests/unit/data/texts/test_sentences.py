import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.corpora.languages import SENTENCES

from tunetrail.data.texts.sentences import truncated

CODE = "def double(x):\n    if x:\n\n        return x * 2.0\n    return 0"


def count_pieces(texts: Sequence[str]) -> list[int]:
    """Tokens as a simple tokenizer has them: words in pieces of four letters at most, and each sign."""
    return [len(re.findall(r"[^\W_]{1,4}|[^\w\s]|_", text)) for text in texts]


def count_words(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("One two three. Four five six.", 6, "One two three. Four five six."),
        ("One two three. Four five six.", 5, "One two three."),
        ("  One two three. \n", 3, "  One two three. \n"),
        ("Does it? Yes! It does… Or not so much.", 6, "Does it? Yes! It does…"),
        ("He said \"stop.\" Then he left the room.", 5, 'He said "stop."'),
        ("Ask Dr. Smith or Mr. J. Doe, e.g. today. Or go home now.", 10, "Ask Dr. Smith or Mr. J. Doe, e.g. today."),
        ("Ask Dr. Smith or Mr. J. Doe, e.g. today. Or go home now.", 6, "Ask Dr. Smith or Mr. J."),
        ("It costs 3.14 or more. See No. 5 of the list.", 9, "It costs 3.14 or more."),
        ("Is it? No. Then let us go.", 4, "Is it? No."),
        ("Das gilt z. B. hier. Dort gilt es nicht.", 6, "Das gilt z. B. hier."),
        ("Version 2.0 is out vs. Nothing at all before. It works.", 9, "Version 2.0 is out vs. Nothing at all before."),
        ("Returns the value of x. Raises an error.", 7, "Returns the value of x."),
        ("A title\n\nSome text that is much longer than that.", 6, "A title"),
        ("What you need:\n- a pot of water\n- some salt and pepper", 9, "What you need:\n- a pot of water"),
        ("One wrapped line that\ngoes on in the Next\nand ends there.", 6, "One wrapped line that\ngoes on"),
        (CODE, 8, "def double(x):\n    if x:\n\n        return x * 2.0"),
        (CODE, 5, "def double(x):\n    if x:"),
        (CODE, 1, "def"),
        ("", 0, ""),
        ("word", 0, ""),
        (" \n ", 0, " \n "),
    ],
)  # fmt: skip
def test_truncated_ends_where_a_reader_would_stop(text: str, words: int, expected: str) -> None:
    assert truncated(text, words, count_words) == expected


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_truncated_knows_the_sentence_ends_of_scripts_without_blanks(language: str) -> None:
    first, second, third = SENTENCES[language][:3]
    text = first + second + third

    assert (
        truncated(text, len(first + second) + 5, lambda texts: [len(text) for text in texts])
        == first + second
    )


@pytest.mark.parametrize("language", sorted(SENTENCES))
def test_truncated_keeps_whole_sentences_of_every_language(language: str) -> None:
    sentences = SENTENCES[language]
    text = " ".join(sentences)
    for count in range(1, len(sentences)):
        beginning = " ".join(sentences[:count])
        limit = count_pieces([beginning])[0] + 2
        assert truncated(text, limit, count_pieces) == beginning


def test_truncated_falls_back_to_characters_of_a_word_that_is_too_long() -> None:
    assert truncated("abcdefghijkl mn", 2, count_pieces) == "abcdefgh"


@given(st.text(), st.integers(min_value=-1, max_value=30))
def test_truncated_fits_and_is_a_prefix(text: str, limit: int) -> None:
    result = truncated(text, limit, count_pieces)

    assert text.startswith(result)
    assert count_pieces([result])[0] <= max(limit, 0)

    if result != text:
        assert result == result.rstrip()
    assert truncated(result, limit, count_pieces) == result


@given(st.lists(st.sampled_from(["one ", "two. ", "Three! ", "\n", "\n\n", "x = 1\n", "a_b(c) "]), max_size=60),
       st.integers(min_value=1, max_value=40))  # fmt: skip
def test_truncated_takes_the_longest_prefix_of_whole_words_at_least(
    pieces: list[str], limit: int
) -> None:
    text = "".join(pieces)
    result = truncated(text, limit, count_words)
    if text.split():
        assert result.split()
        assert result.split() == text.split()[: len(result.split())]


def test_truncated_asks_few_times_for_few_characters() -> None:
    asked: list[int] = []

    def count(texts: Sequence[str]) -> list[int]:
        asked.append(sum(map(len, texts)))
        return count_pieces(texts)

    text = " ".join(SENTENCES["en"]) * 2000
    result = truncated(text, 200, count)
    assert 180 <= count_pieces([result])[0] <= 200
    assert len(asked) <= 6
    assert sum(asked) < 60_000 < len(text) / 20


@pytest.mark.parametrize(
    "piece",
    ["a", ". ", " ", "\n", "\n\n", ".", "?!", "e.g. ", "1. ", "z. B. ", "Word. ", "\0\ud800"],
)
@pytest.mark.timeout(30)  # a quarter of a second, or minutes if it is quadratic
def test_truncated_takes_linear_time_on_any_text(piece: str) -> None:
    text = "Some words to begin with. " + piece * (250_000 // len(piece))
    assert text.startswith(truncated(text, 50, count_pieces))
