import pytest

from tunetrail.data.texts.characters import (
    fix_encoding,
    normalize_characters,
    normalize_whitespace,
)


@pytest.mark.parametrize(
    ("text", "repaired"),
    [
        ("plain", "plain"),
        ("cafÃ©", "café"),
        ("cafÃ©\nnaïve", "café\nnaïve"),
        ("a\x85b", "a\x85b"),
    ],
)
def test_encoding_is_repaired_line_by_line(text: str, repaired: str) -> None:
    assert fix_encoding(text) == repaired


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("cafe\u0301", "caf\xe9"),
        ("page\fpage", "page\npage"),
        ("\x1b[1mbold\x1b[0m", "bold"),
        ("_\bu", "u"),
        ("10 %\b\b\b\b20 %", "10 %\n20 %"),
        ("\ufeffstart", "start"),
        ("a\tb\r\nc", "a\tb\r\nc"),
    ],
)
def test_control_characters_go(text: str, normalized: str) -> None:
    assert normalize_characters(text) == normalized


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("  one line \r\n", "one line"),
        ("one\r\ntwo\rthree", "one\ntwo\nthree"),
        ("\n\n    indented\n    code\n", "    indented\n    code"),
        ("We walked home. \nIt was late.", "We walked home.\nIt was late."),
        ("We walked home.  \nIt was late.", "We walked home.  \nIt was late."),
        ("```\nx \ny\n```", "```\nx \ny\n```"),
    ],
)
def test_white_space_goes_only_where_it_means_nothing(text: str, normalized: str) -> None:
    assert normalize_whitespace(text) == normalized
