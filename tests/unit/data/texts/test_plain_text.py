import pytest

from tunetrail.data.texts.plain_text import PlainText, unescaped


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Fish &amp; chips", "Fish & chips"),
        ("&eacute;&#233;&#xE9;&hellip;", "\xe9\xe9\xe9\u2026"),
        ("a&nbsp;b&thinsp;c", "a b c"),
        ("&amp;lt;", "&lt;"),
        ("&unknown; &notit; &copy 5", "&unknown; &notit; &copy 5"),
        ("&#0; &#27; &#xD800; &#xFFFD; &#9999999;", "&#0; &#27; &#xD800; &#xFFFD; &#9999999;"),
    ],
)
def test_unescaped_reads_entities_of_real_characters(text: str, expected: str) -> None:
    assert unescaped(text) == expected


def test_plain_text_merges_breaks_and_the_white_space_beside_them() -> None:
    plain = PlainText()
    plain.break_line()
    plain.write("one  ")
    plain.write(" ")
    plain.break_line()
    plain.write(" \n ")
    plain.break_line(2)
    plain.write("  two")
    plain.begin_item()
    plain.write("three ")
    plain.break_line()

    assert plain.finish() == "one\n\ntwo\n- three"


def test_plain_text_sets_code_in_markdown() -> None:
    plain = PlainText()
    plain.write("Call ")
    plain.begin_code()
    plain.write("a &lt; b")
    plain.end_code(block=False)
    plain.write(" or ")
    plain.begin_code()
    plain.write("`a`")
    plain.end_code(block=False)
    plain.begin_code()
    plain.write("\n  if a:\n\n    ```b```\n")
    plain.break_line()
    plain.write("c")

    assert plain.finish() == "Call `a < b` or `` `a` ``\n\n````\n  if a:\n\n    ```b```\nc\n````"


def test_plain_text_quotes_tags_that_are_spelt_with_entities() -> None:
    plain = PlainText()
    plain.write("The &lt;b&gt; tag, a vector&lt;int&gt;, 1 &lt; 2, and &lt;open")
    assert plain.finish() == "The `<b>` tag, a `vector<int>`, 1 < 2, and &lt;open"


def test_plain_text_without_code_leaves_no_mark() -> None:
    plain = PlainText()
    plain.write("a")
    plain.begin_code()
    plain.end_code(block=True)
    plain.end_code(block=True)

    assert plain.finish() == "a"
