import ast
import difflib
import html.parser
import http.server
import inspect
import json
import logging
import pydoc
import smtplib
import textwrap
from types import ModuleType
from xml.sax import saxutils

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.corpora.languages import SENTENCES

from tunetrail.data.texts.markup import strip_markup

PAGE = """<!DOCTYPE html>
<html lang="en">
<head><title>Bread</title><style>p { color: red }</style><script>if (a < b) { run("<p>") }</script></head>
<body>
<!-- the <b>menu</b> -->
<h1>How to bake</h1>
<p>Flour &amp; water, then <a href="/wait?a=1&b=2">wait</a>.</p>
<ul>
  <li>Knead it.</li>
  <li><p>Let it <b>rest</b>.</p></li>
</ul>
<table><tr><th>Hours</th><th>Degrees</th></tr><tr><td>1</td><td>220</td></tr></table>
</body></html>
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<p>The server is down.</p><p>Try again later.</p>", "The server is down.\n\nTry again later."),
        ("We <b>never</b> said <i>that</i> to anyone.", "We never said that to anyone."),
        ("First comes the line.<br>Then the <BR />other one.", "First comes the line.\nThen the\nother one."),
        ('See <a href="https://example.org/a?b=1&amp;c=2">the manual</a> first.', "See the manual first."),
        ("You need: <ul><li>salt</li><li>a big pot</li></ul>", "You need:\n- salt\n- a big pot"),
        ("<p>Fish &amp; chips&nbsp;cost 5 &lt; 6 &euro; here.</p>", "Fish & chips cost 5 < 6 € here."),
        ("<p>It is <!-- not --> ready by noon.</p>", "It is  ready by noon."),
        ("<p>Read it.</p><script>var a = '<p>';</script><style>p {}</style>", "Read it."),
        ("<p>Write <code>vector&lt;int&gt; v;</code> at the top.</p>", "Write `vector<int> v;` at the top."),
        ("<p>Run:</p><pre><code>if a &lt; b:\n    go()\n</code></pre>", "Run:\n\n```\nif a < b:\n    go()\n```"),
        ("<p>The &lt;b&gt; tag and vector&lt;int&gt; are quoted.</p>", "The `<b>` tag and `vector<int>` are quoted."),
        ("<p>Light goes 3 x 10<sup>8</sup> metres each second.</p>", "Light goes 3 x 10^8 metres each second."),
        ('<div title="a > b"><span>A quoted sign is no end.</span></div>', "A quoted sign is no end."),
        ("<p>A List<A> and a List<String> stay as they are.</p>", "A List<A> and a List<String> stay as they are."),
        ("<p>&notit; and &#0; and &#xD800; are no characters.</p>", "&notit; and &#0; and &#xD800; are no characters."),
        ("<p>Nothing is closed <b>here at all", "<p>Nothing is closed <b>here at all"),
        (PAGE, "Bread\n\nHow to bake\n\nFlour & water, then wait.\n\n- Knead it.\n\n- Let it rest.\n\n"
               "Hours Degrees\n1 220"),
        ("Tom &amp; Jerry don&#39;t say &quot;hello&quot;.", "Tom & Jerry don't say \"hello\"."),
    ],
)  # fmt: skip
def test_strip_markup_takes_html_out_of_prose(text: str, expected: str) -> None:
    assert strip_markup(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a < b and c > d",
        "std::vector<int> v; if (a < b && c > d) { v.push_back(a); }",
        "List<String> names = new ArrayList<>();\nMap<String, List<A>> all;",
        "class Box<A> extends Base<B> {\n  A first;\n  B second;\n}",
        "Run `<module>` from <stdin> as <your name>.",
        'def page(name):\n    return "<p>" + escape(name) + "</p>"',
        "def grey(self, text): return '<span class=\"grey\">%s</span>' % text",
        "echo '<ul>';\nforeach ($rows as $row) {\n  echo '<li>' . $row . '</li>';\n}\necho '</ul>';",
        "<?php if ($ok): ?><p>Well done.</p><?php endif; ?>",
        "{% for row in rows %}<li>{{ row.name }}</li>{% endfor %}",
        "function App() {\n  return <div className={style}><b>Hello there</b></div>;\n}",
        "const App = () => <div><b>Hello to you all</b></div>;",
        '<config><server name="a"><title>Main one</title><port>80</port></server></config>',
        '<?xml version="1.0"?>\n<code>one</code>',
        "Wrap the title in <h1> tags and the text in <p> tags, then close it: </p>.",
        'The pattern "<br>" ends a line; the pattern "<p>" begins a paragraph.',
        "Use the `<b>bold</b>` element, or ``<i>`</i>`` for a slanted one.",
        "Here is your page:\n\n```html\n<html><body><p>Hello</p></body></html>\n```\n\nSave it as index.html.",
        "Tildes do too:\n~~~\n<p>Hello</p>\n~~~",
        "A fence that never ends:\n```\n<p>Hello to everyone</p>",
        ">>> strip('<b>bold</b>')\n'bold'",
        "# Title\n\n* one\n* two\n\n> quoted & <https://example.org> linked, <me@example.org>",
        "text = text.replace('&', '&amp;').replace('\"', '&quot;')",
        "Replaces special characters by &lt;, &gt; and &amp; in every text.",
        "x &= mask; y = &amp;",
        "I <3 you and 1 <2 but 3> 2 always",
        "<!-- never closed <p>one</p",
    ],
)
def test_strip_markup_leaves_everything_else_as_it_is(text: str) -> None:
    assert strip_markup(text) == text


def test_strip_markup_spares_a_fence_inside_html() -> None:
    fence = "```html\n<p>kept &amp; quoted</p>\n```"
    assert strip_markup(f"<p>This is how it looks:</p>\n{fence}\n<p>That was all of it.</p>") == (
        f"This is how it looks:\n\n{fence}\n\nThat was all of it."
    )


def test_strip_markup_gives_back_every_sentence_that_a_page_was_made_of() -> None:
    sentences = [sentence for language in SENTENCES.values() for sentence in language]
    for sentence in sentences:
        first, _, remainder = html.escape(sentence, quote=False).partition(" ")
        assert (
            strip_markup(f'<div class="a"><p><em>{first}</em> {remainder}</p></div>')
            == sentence.strip()
        )

    page = (
        "<html><body>"
        + "\n".join(f"<p>{html.escape(sentence, quote=False)}</p>" for sentence in sentences)
        + "</body></html>"
    )
    assert strip_markup(page) == "\n\n".join(sentences)


@pytest.mark.parametrize(
    "module", [difflib, html, html.parser, http.server, logging, pydoc, saxutils, smtplib, textwrap]
)
def test_strip_markup_changes_no_code_and_no_documentation_of_the_standard_library(
    module: ModuleType,
) -> None:
    source = inspect.getsource(module)
    nodes = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]
    lines = source.split("\n")
    texts = [source, *("\n".join(lines[node.lineno - 1 : node.end_lineno]) for node in nodes)]
    texts += [
        documentation for node in nodes if (documentation := ast.get_docstring(node)) is not None
    ]

    assert [text for text in texts if strip_markup(text) != text] == []


def test_strip_markup_leaves_json_that_holds_html() -> None:
    text = json.dumps({"title": "<b>Hello</b>", "rows": ["<p>a</p>", 1]}, indent=2)
    assert strip_markup(text) == text


PIECES = st.sampled_from(
    ["<p>", "</p>", "<b>", "</b>", "<br>", "<li>", "<pre>", "</pre>", "<code>", "</code>", "<script>", "</script>",
     "<!--", "-->", "`", "``", "```\n", "~~~", "\n", " ", "word and more ", "&lt;", "&gt;", "&amp;", "&lt;p&gt;", "<",
     ">", "/", '"', "'", "<A>", "</x>", ">>> ", "- ", "<sup>", "2", "<a href='", "&#96;", "<!", "<h1>", "</h1>",
     "<html>", "</html>", "&amp;lt;b&amp;gt;", "word&nbsp;word"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=30).map("".join))
def test_strip_markup_is_idempotent(text: str) -> None:
    once = strip_markup(text)
    assert strip_markup(once) == once


@given(st.text())
def test_strip_markup_takes_any_text(text: str) -> None:
    assert isinstance(strip_markup(f"<p>{text}</p> \ud800\0"), str)


@pytest.mark.parametrize(
    "piece",
    ["<", "<!--", "<p>", "<script>", "<a '", '<a "', "`", "``", "```\n", "```", "&lt;", "&", "a&lt;b", "<b>x</b> ",
     " <br>", "<pre>", "<?", ">>> a\n", "a" * 60, "<p>" + " " * 50, "<li><ul>", "&lt;b", "~~~\n```\n", "\n "],
)  # fmt: skip
@pytest.mark.timeout(30)  # a quarter of a second, or minutes if it is quadratic
def test_strip_markup_takes_linear_time_on_any_text(piece: str) -> None:
    text = "<p>Some words to begin with.</p>" + piece * (250_000 // len(piece))
    assert strip_markup(text).startswith(("Some words", "<p>Some words"))
