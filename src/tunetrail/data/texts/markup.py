"""Markup: takes HTML out of prose and leaves everything else byte for byte as it is. Renders no page, runs no script.

Source code, XML, templates, Markdown and texts about HTML are no HTML prose. `html.parser` wouldn't do: it can't hand
back unchanged what isn't HTML, and takes quadratic time over some broken input.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tunetrail.data.texts.plain_text import PlainText, unescaped
from tunetrail.data.texts.prose import read_prose

_PARAGRAPHS = frozenset(
    """
    blockquote caption dl fieldset figure h1 h2 h3 h4 h5 h6 hr p pre table title
    """.split()  # noqa: SIM905 -- a list would take a line for each name
)
_LINES = frozenset(
    """
    address article aside body br center dd details dialog div dt figcaption footer form head header html legend li
    main nav noscript ol optgroup option section select summary tbody textarea tfoot thead tr ul
    """.split()  # noqa: SIM905 -- a list would take a line for each name
)
_INLINE = frozenset(
    """
    a abbr acronym area audio b base bdi bdo big button canvas cite code col colgroup data del dfn em embed font frame
    frameset i iframe img input ins kbd label link map mark meta meter nobr noframes object output param picture
    progress q rp rt ruby s samp script slot small source span strike strong style sub sup svg td template th time
    track tt u var video wbr
    """.split()  # noqa: SIM905
)
_KNOWN = _PARAGRAPHS | _LINES | _INLINE
_EMPTY = frozenset("area base br col embed hr img input link meta param source track wbr".split())  # noqa: SIM905
_DROPPED = {
    name: re.compile(rf"</{name}[^<>]*+>", re.IGNORECASE)
    for name in ("script", "style", "svg", "template", "object")
}
_CODE = frozenset(("pre", "code", "tt", "kbd", "samp"))

_TOKEN = re.compile(
    r"""
      (?P<code>^[ \t]*+(?P<fence>`{3,}+|~{3,}+)[^`\n]*+\n (?:.*?^[ \t]*+(?P=fence)[`~]*+[ \t]*+$ | .*\Z)
        | ^[ \t]*+>>>\ [^\n]*+(?:\n(?![ \t]*+$)[^\n]++)*+
        | ``[^\n]*?`` | `[^`\n]++`)
    | (?P<comment><!--)
    | <(?P<declared>[!?%])[^<>]*+>
    | <(?P<closing>/?)(?P<name>[A-Za-z][A-Za-z0-9:._-]*+)(?P<attributes>(?:[\s/](?:[^"'<>]++|"[^"<]*+"|'[^'<]*+')*+)?+)>
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
_TEMPLATE = re.compile(r"\{\{|\{%|=\{|<\?(?!xml)|<%|\$\{")
_MENTION = re.compile(r"\s++(?:and|or|tag|element|attribute|block|section|node)s?\b", re.IGNORECASE)
_CODE_LINE = re.compile(
    r"""^[ \t]*+(?:
      (?:async\ )?def\ \w+\([^\n]*+$ | class\ \w+[^\n]*[:({]$ | (?:import|from)\ [\w.]+(?:\ import\ [^\n]*+|$)
    | (?:if|elif|for|while|with|try|except|else|finally)\b[^\n]*:$ | (?:return|yield|raise|assert|del|print)\b[^\n]*+$
    | (?:function|var|let|const|public|private|static|using|fn|func|package|struct|enum)\ [^\n]*+$
    | @\w[^\n]*+$ | \#include[^\n]*+$ | //[^\n]*+$
    | [\w.\[\]'"]++(?:,\ [\w.]++)*+\ ?[-+|&*/]?=[^=][^\n]*+$ | [^\n]*[;{}(\[]$ | [\w.]++\([^\n]*\)$)""",
    re.MULTILINE | re.VERBOSE,
)
_LEFTOVER = re.compile(
    r"""(?<=[\w\s])&amp;(?=[\w\s]) | (?<=\w)&nbsp;(?=\w) | (?<=\w)&(?:apos|\#39);(?=\w)
    | &(?:quot|\#34);(?=\w) | (?<=[\w.!?])&(?:quot|\#34);""",
    re.VERBOSE,
)
_ABOUT_ENTITIES = re.compile(r"&[lg]t;|['\"`(=]&")
_MIN_SHARE_OF_PROSE = 0.5
_MAX_SHARE_OF_CODE_LINES = 0.2
_PASSES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class _Token:
    """A piece that isn't plain text: `code` that stays, a `tag` or an `unknown` one, `declared` and `dropped` ones."""

    kind: str
    start: int
    end: int
    name: str = ""
    closing: bool = False


def strip_markup(text: str) -> str:
    """Return the prose of an HTML text: blocks on lines, items with dashes, links by their text; else `text` itself.

    Scripts, styles and comments go with their content, entities become characters, and code is set in Markdown. Fenced
    blocks, code spans and doctests stay as they are. A whole page that isn't fenced counts as prose. Of prose without
    any tag only `&amp;`, `&nbsp;` and quotation marks are read. A second call changes nothing more.
    """
    current = text
    for _ in range(_PASSES):
        stripped = _stripped(current)
        if stripped == current:
            return current
        current = stripped
    # Tags that only appear when others have gone, again and again, are nobody's prose.
    return text


def _stripped(text: str) -> str:
    if "<" in text:
        tokens = list(_tokens(text))
        return _rendered(text, tokens) if _is_html(text, tokens) else text
    if "&" not in text or _ABOUT_ENTITIES.search(text):
        return text
    read = _LEFTOVER.sub(lambda found: unescaped(found[0]), text)
    return read if read != text and read_prose(read).share >= _MIN_SHARE_OF_PROSE else text


def _tokens(text: str) -> Iterator[_Token]:
    """Yield the pieces of `text` that are no plain text, in their order."""
    position = 0
    absent: set[str] = set()
    while (found := _TOKEN.search(text, position)) is not None:
        start, position = found.span()
        name = (found["name"] or "").lower()
        if found["code"] is not None:
            yield _Token(kind="code", start=start, end=position)
        elif found["comment"] is not None:
            end = -1 if "-->" in absent else text.find("-->", position)
            if end < 0:
                absent.add("-->")
                continue
            position = end + 3
            yield _Token(kind="dropped", start=start, end=position)
        elif found["declared"] is not None:
            yield _Token(
                kind="declared",
                start=start,
                end=position,
                name=text[start + 2 : start + 14].lower(),
            )
        elif name not in _KNOWN:
            yield _Token(
                kind="unknown", start=start, end=position, name=name, closing=bool(found["closing"])
            )
        else:
            closing = None
            if name in _DROPPED and not found["closing"] and name not in absent:
                closing = _DROPPED[name].search(text, position)
                absent.update(() if closing else (name,))
            position = closing.end() if closing else position
            kind = "dropped" if closing else "tag"
            yield _Token(
                kind=kind, start=start, end=position, name=name, closing=bool(found["closing"])
            )


def _is_html(text: str, tokens: Sequence[_Token]) -> bool:
    """Whether `text` is a page, or prose in HTML: not XML, no template, not about HTML, no code."""
    tags = [token for token in tokens if token.kind == "tag"]
    if not tags or any(
        _TEMPLATE.search(text, start, end) for start, end in _outside_code(text, tokens)
    ):
        return False
    if _is_page(text, tokens):
        return True
    if any(
        (token.kind == "unknown" and token.closing) or token.kind == "declared" for token in tokens
    ):
        return False
    if _mentions_tags(text, tags) or not _has_element(tags):
        return False
    rest = "".join(_running_text(text, tokens))
    lines = sum(1 for line in rest.split("\n") if line.strip())
    if (
        _CODE_LINE.match(rest.lstrip())
        or len(_CODE_LINE.findall(rest)) > _MAX_SHARE_OF_CODE_LINES * lines
    ):
        return False
    return _is_wrapped(text) or read_prose(rest).share >= _MIN_SHARE_OF_PROSE


def _is_page(text: str, tokens: Sequence[_Token]) -> bool:
    roots = ("html",) if text.lstrip().startswith("<?xml") else ("html", "body")
    return _is_wrapped(text) and any(
        token.kind == "tag" and token.name in roots for token in tokens
    )


def _is_wrapped(text: str) -> bool:
    outer = text.strip()
    return outer.startswith("<") and outer.endswith(">")


def _mentions_tags(text: str, tags: Sequence[_Token]) -> bool:
    for tag in tags:
        before, after = text[tag.start - 1 : tag.start], text[tag.end : tag.end + 1]
        if before == after and before in ("'", '"'):
            return True
        is_opening = not tag.closing and tag.name != "br" and not before.isalnum()
        if is_opening and _MENTION.match(text, tag.end):
            return True
    return False


def _has_element(tags: Sequence[_Token]) -> bool:
    """Whether an element is closed again, or needs no closing."""
    opened: set[str] = set()
    for tag in tags:
        if tag.name in _EMPTY or (tag.closing and tag.name in opened):
            return True
        opened.add(tag.name)
    return False


def _outside_code(text: str, tokens: Sequence[_Token]) -> Iterator[tuple[int, int]]:
    position = 0
    for token in tokens:
        if token.kind in ("code", "dropped"):
            yield position, token.start
            position = token.end
    yield position, len(text)


def _running_text(text: str, tokens: Sequence[_Token]) -> Iterator[str]:
    """Yield the text between the tags that is no code, with line breaks where blocks part it."""
    position, code_until = 0, ""
    for token in tokens:
        if token.kind == "unknown":
            continue
        if not code_until:
            yield text[position : token.start]
        position = token.end
        if token.kind == "tag":
            yield "" if token.name in _INLINE else "\n"
            if token.name == code_until and token.closing:
                code_until = ""
            elif token.name in _CODE and not token.closing and not code_until:
                code_until = token.name
    yield text[position:]


def _rendered(text: str, tokens: Sequence[_Token]) -> str:
    plain = PlainText()
    is_page = _is_page(text, tokens)
    closed = {token.name for token in tokens if token.closing}
    position = 0
    for token in tokens:
        before = text[token.start - 1 : token.start]
        is_type_parameter = (
            before.isalnum() and token.end - token.start == 3 and token.name not in closed
        )
        if (token.kind == "unknown" and not is_page) or is_type_parameter:
            continue
        plain.write(text[position : token.start])
        position = token.end
        if token.kind == "code":
            plain.write_unchanged(text[token.start : token.end])
        elif token.kind == "tag":
            _render_tag(
                plain, token, is_power=before.isalnum() and text[position : position + 1].isdigit()
            )
    plain.write(text[position:])
    return plain.finish()


def _render_tag(plain: PlainText, tag: _Token, *, is_power: bool) -> None:
    if tag.name in _PARAGRAPHS and tag.name != "pre":
        plain.break_line(2)
    elif tag.name == "li" and not tag.closing:
        plain.begin_item()
    elif tag.name in _LINES:
        plain.break_line()
    elif tag.name in ("td", "th") and not tag.closing:
        plain.write_unchanged(" ")
    elif tag.name == "sup" and is_power:
        plain.write_unchanged("^")
    elif tag.name in _CODE and not tag.closing:
        plain.begin_code()
    elif tag.name in _CODE:
        plain.end_code(block=tag.name == "pre")
