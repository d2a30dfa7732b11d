import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunetrail.reporting.readable import (
    Span,
    as_markdown,
    compact,
    counted,
    differences,
    duration,
    largest,
    readable,
    shown_interval,
)

ANY_TEXT = st.text(st.characters(), max_size=80)


def words(spans: tuple[Span, ...], *kinds: str) -> str:
    return "".join(span.text for span in spans if span.kind in kinds)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("as it is\n\tand indented", "as it is\n\tand indented"),
        ("a\0b\r\x1b[31m\x7f", "a␀b␍␛[31m␡"),
        ("a\x85b\ud800c\udfff", "a\ufffdb\ufffdc\ufffd"),
        ("\u202eevil\u2066", "\ufffdevil\ufffd"),
        (None, ""),
        (float("nan"), ""),
        (12, "12"),
        (["a", 1], "['a', 1]"),
    ],
)
def test_readable_shows_what_is_there(value: object, shown: str) -> None:
    assert readable(value) == shown


@pytest.mark.parametrize(("characters", "shown"), [(10, "x" * 10), (11, "x" * 9 + "…")])
def test_readable_marks_a_cut(characters: int, shown: str) -> None:
    assert readable("x" * characters, 10) == shown


@given(ANY_TEXT)
def test_readable_can_always_be_encoded(text: str) -> None:
    assert len(readable(text, 40).encode()) <= 40 * 4


def test_differences_mark_words() -> None:
    assert differences("the old house stands", "the new house stands still") == (
        Span(kind="same", text="the "),
        Span(kind="removed", text="old"),
        Span(kind="added", text="new"),
        Span(kind="same", text=" house stands"),
        Span(kind="added", text=" still"),
    )


def test_differences_leave_words_within_removed_markup_alone() -> None:
    spans = differences("<p>Read <b>this</b>.</p>", "Read this.")
    assert words(spans, "same") == "Read this."
    assert [span.text for span in spans if span.kind == "removed"] == ["<p>", "<b>", "</b>", "</p>"]


def test_differences_join_changed_words_across_a_blank() -> None:
    assert differences("see one two now", "see three four now")[1:3] == (
        Span(kind="removed", text="one two"),
        Span(kind="added", text="three four"),
    )


@pytest.mark.parametrize(
    ("before", "after", "removed", "added"),
    [
        ("a  b", "a b", "␣␣", "␣"),
        ("a\tb\n", "a b", "⇥↵\n", "␣"),
        ("zero\u200bwidth", "zerowidth", "zero<U+200B>width", "zerowidth"),
        ("gone", "", "gone", ""),
        ("", "new", "", "new"),
    ],
)
def test_differences_make_blanks_and_invisible_characters_visible(
    before: str, after: str, removed: str, added: str
) -> None:
    spans = differences(before, after)
    assert (words(spans, "removed"), words(spans, "added")) == (removed, added)


@pytest.mark.parametrize("placeholder", ["[EMAIL]", "[IP_ADDRESS]", "[NATIONAL_ID"])
def test_differences_hide_what_a_placeholder_stands_for(placeholder: str) -> None:
    spans = differences("Write to jo@example.org, or not.", f"Write to {placeholder}")
    assert "jo" not in words(spans, "same", "removed", "added")
    assert words(spans, "removed") == "•••"


def test_differences_hide_nothing_where_the_placeholder_was_there_before() -> None:
    spans = differences("<p>Write to [EMAIL]</p>", "Write to [EMAIL]")
    assert words(spans, "removed") == "<p></p>"
    again = differences("[EMAIL] or jo@example.org", "[EMAIL] or [EMAIL]")
    assert words(again, "removed") == "•••"


def test_differences_begin_near_the_first_change_of_a_long_text() -> None:
    spans = differences("word " * 1_000 + "old end", "word " * 1_000 + "new end")
    assert spans[0].text == "…"
    assert (words(spans, "removed"), words(spans, "added")) == ("old", "new")
    assert len(words(spans, "same")) < 80


def test_differences_show_no_change_where_the_text_was_only_cut() -> None:
    tail = " ".join(f"word{index}" for index in range(1_000))
    spans = differences(f"<p>{tail}", tail)
    assert words(spans, "removed", "added") == "<p>"
    assert spans[-1].text == "…"


def test_differences_say_when_the_change_lies_beyond_what_is_compared() -> None:
    spans = differences("x" * 150_000 + "a", "x" * 150_000 + "b")
    assert words(spans, "removed", "added") == ""
    assert spans[-1].text == "…"


@given(st.text("abc <.>", max_size=60), st.text("abc <.>", max_size=60))
def test_differences_hold_both_texts(before: str, after: str) -> None:
    spans = differences(before, after)
    assert words(spans, "same", "removed").replace("␣", " ") == before
    assert words(spans, "same", "added").replace("␣", " ") == after


@given(ANY_TEXT, ANY_TEXT)
def test_differences_can_always_be_encoded(before: str, after: str) -> None:
    spans = differences(before, after)
    assert "".join(span.text for span in spans).encode() or before == after == ""
    assert all(span.text for span in spans)


@pytest.mark.parametrize("unit", ["a", " ", "a ", "<b>", "[A", "\0", "a\u200b", "\ud800 "])
def test_differences_of_megabytes_are_short_and_fast(unit: str) -> None:
    text = unit * (2_000_000 // len(unit))
    spans = differences(text, "b " + text[::-1])
    assert len(spans) <= 62
    assert len(words(spans, "same", "removed", "added")) <= 1_300


def test_largest_sums_up_the_other_counts() -> None:
    assert largest({"b": 2, "a": 2, "c": 9, "d": 1}, 2) == ([("c", 9), ("a", 2)], 2, 3)
    assert largest({"a": 1}, 2) == ([("a", 1)], 0, 0)
    assert largest({}, 2) == ([], 0, 0)


@pytest.mark.parametrize(
    ("count", "zero", "text"),
    [(0, "no", "no rows"), (0, "0", "0 rows"), (1, "0", "1 row"), (1_200, "no", "1,200 rows")],
)
def test_counted_writes_the_noun_in_singular_and_plural(count: int, zero: str, text: str) -> None:
    assert counted(count, "row", zero) == text


def test_compact_numbers_have_three_digits() -> None:
    assert compact(34.2179) == "34.2"
    assert compact(0.01333, as_share=True) == "1.33%"
    assert compact(float("nan")) == "n/a"


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("nDCG@10 of ndcg_at_10: +0.1 (a_b)", "nDCG@10 of ndcg_at_10: +0.1 (a_b)"),
        ("<script>alert(1)</script> &amp;", r"\<script\>alert(1)\</script\> \&amp;"),
        ("[link](http://x.y) ![p](q)", r"\[link\](http\://x.y) !\[p\](q)"),
        ("*a* _b_ ~c~ `d` |e| \\", r"\*a\* \_b\_ \~c\~ \`d\` \|e\| \\"),
        ("# h\n\n- one\n2. two", r"\# h - one 2. two"),
        ("www.x.y me@x.y", r"www\.x.y me\@x.y"),
    ],
)
def test_as_markdown_is_shown_as_the_text(text: str, markdown: str) -> None:
    assert as_markdown(text) == markdown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "1 s"),
        (89.4, "89 s"),
        (90.0, "2 min"),
        (3600.0, "60 min"),
        (5400.0, "1 h 30 min"),
        (7240.0, "2 h 1 min"),
    ],
)
def test_durations_are_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_an_interval_is_shown_if_it_has_both_bounds() -> None:
    assert shown_interval(0.0101, 0.0702) == "+0.0101 … +0.0702"
    assert shown_interval(-1.0, 2.5, ".1f") == "-1.0 … 2.5"
    assert shown_interval(None, 0.1) == shown_interval(0.1, float("nan")) == ""
