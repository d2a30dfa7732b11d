import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.corpora.languages import SENTENCES

from tunetrail.data.texts.characters import fix_encoding, normalize_characters
from tunetrail.data.texts.encoding import damage

MOJIBAKE = "looks like UTF-8 read as another encoding (mojibake)"
LOST = "holds U+FFFD, the mark of lost characters"
ALL = [sentence for language in SENTENCES.values() for sentence in language]
ACCENTED = [sentence for sentence in ALL if not sentence.isascii()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("plain text\twith a tab\nand lines\r\nand a page\fbreak", None),
        ("a\0b", "holds NUL"),
        ("\xe9\0", "holds NUL"),
        ("red \x1b[31mtext", "holds control characters"),
        ("caf\xe9 \x1b[31mtext", "holds control characters"),
        ("half \ud83d a smile", "holds unpaired surrogates"),
        ("M\ufffdnchen", LOST),
        ("sch\xc3\xb6n", MOJIBAKE),
        ("\xef\xbf\xbd lost twice", MOJIBAKE),
        ("good: sch\xf6n\nbad: sch\xc3\xb6n", MOJIBAKE),
        ("??? ???????? ???????????", "holds question marks in place of words"),
        ("The sign says ??????????.", "holds question marks in place of words"),
        ("What??? Are you sure?? Is that so?!", None),
        ("a = b ?? c ?? d; x ? y : z", None),
        ("glob('backup-????-??-??.tar')", None),
        (
            "\u201csmart\u201d \u2013 quotes\u2026 na\xefve caf\xe9 \u20ac5 \u2192 \u2713 \xbd \u2116 \xb0 \xb1",
            None,
        ),
        ("\u251c\u2500\u2500 src\n\u2502   \u2514\u2500\u2500 main.py\n\u255a\u255d", None),
        ("\u221a\u03c0 \u2248 1.77, \u0394x \u2264 \u221e", None),
        ("smile \U0001f600, family \U0001f468\u200d\U0001f469\u200d\U0001f467", None),
    ],
)
def test_damage_says_what_is_wrong(text: str, expected: str | None) -> None:
    assert damage(text) == expected


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "cp1250", "cp1251", "cp437"])
def test_damage_finds_mojibake_of_real_text(encoding: str) -> None:
    planted = []
    for sentence in ACCENTED:
        try:
            planted.append(sentence.encode().decode(encoding))
        except UnicodeDecodeError:
            continue

    assert len(planted) >= 60
    assert sum(damage(text) == MOJIBAKE for text in planted) >= 0.95 * len(planted)


def test_damage_finds_text_that_was_garbled_twice() -> None:
    planted = [
        sentence.encode().decode("latin-1").encode().decode("latin-1") for sentence in ACCENTED
    ]
    assert all(damage(text) == MOJIBAKE for text in planted)


@pytest.mark.parametrize("handler", ["replace", "surrogateescape"])
def test_damage_finds_text_that_was_cut_within_a_character(handler: str) -> None:
    for sentence in ACCENTED:
        last = max(
            position for position, character in enumerate(sentence) if not character.isascii()
        )
        cut = sentence.encode()[: len(sentence[:last].encode()) + 1]
        assert damage(cut.decode(errors=handler)) is not None


def test_damage_finds_scripts_that_were_lost_to_question_marks() -> None:
    lost = [
        text.encode("ascii", "replace").decode()
        for code in ("ru", "zh", "ja")
        for text in SENTENCES[code]
    ]

    assert sum(damage(text) is not None for text in lost) >= 0.95 * len(lost)


def test_damage_finds_nothing_in_good_text() -> None:
    assert [sentence for sentence in ALL if damage(sentence) is not None] == []
    assert damage("\n".join(ALL)) is None


@given(
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)).filter(
        lambda text: "??" not in text
    )
)
def test_damage_finds_nothing_in_printable_ascii(text: str) -> None:
    assert damage(text) is None


@given(st.text(st.characters()), st.sampled_from("\0\x1b\ud800\ufffd"), st.text())
def test_damage_finds_a_planted_character_anywhere(before: str, planted: str, after: str) -> None:
    assert damage(before + planted + after) is not None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Latin-1's reading of two and of three bytes, with U+0085 at their end or in the middle.
        ("\xc3\x85ngstr\xc3\xb6m wrote it.", "\u00c5ngstr\u00f6m wrote it."),
        ("Part \xe2\x85\xa0 ends, caf\xc3\xa9.", "Part \u2160 ends, caf\u00e9."),
        ("It ends.\x85Then more.", "It ends.\nThen more."),
    ],
)
def test_the_line_end_of_mainframes_is_told_from_a_misread_byte(text: str, expected: str) -> None:
    assert normalize_characters(fix_encoding(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the ISO year\x1b, week number", "the ISO year, week number"),
        ("Test\x1b if it is reserved", "Test if it is reserved"),
        ("\x1b(B\x1b[31mred\x1b[0m", "red"),
        ("re\x07sponse of a she\x7fll", "response of a shell"),
        ("8=FIX.4.2\x019=178\x0135=8", "8=FIX.4.2 9=178 35=8"),
    ],
)
def test_control_characters_take_no_letters_with_them(text: str, expected: str) -> None:
    assert normalize_characters(text) == expected
