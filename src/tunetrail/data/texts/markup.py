"""Take HTML out of prose, and leave everything else byte for byte as it is.

Source code, the elements of an interface, XML, templates, prompt delimiters, special tokens,
Markdown, diffs, logs and texts about HTML aren't HTML prose. `html.parser` wouldn't do: it can't
return unchanged what isn't HTML, and takes quadratic time on some broken input.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tunetrail.data.texts.plain_text import PlainText, unescaped
from tunetrail.data.texts.prose import read_prose

# Elements set apart by empty lines, elements on lines of their own, and elements within a line.
_PARAGRAPHS = frozenset(
    """
    blockquote caption dl fieldset figure h1 h2 h3 h4 h5 h6 hr p pre table title
    """.split()  # noqa: SIM905 -- a list would take a line for each name
)
_LINES = frozenset(
    """
    address article aside body br center dd details dialog div dt figcaption footer form head
    header html legend li main nav noscript ol optgroup option section select summary tbody
    textarea tfoot thead tr ul
    """.split()  # noqa: SIM905 -- a list would take a line for each name
)
_INLINE = frozenset(
    """
    a abbr acronym area audio b base bdi bdo big button canvas cite code col colgroup data del
    dfn em embed font frame frameset i iframe img input ins kbd label link map mark meta meter
    nobr noframes object output param picture progress q rp rt ruby s samp script slot small
    source span strike strong style sub sup svg td template th time
    track tt u var video wbr
    """.split()  # noqa: SIM905
)
_KNOWN = _PARAGRAPHS | _LINES | _INLINE
# Elements that have no closing tag, and elements whose content nobody reads.
_EMPTY = frozenset("area base br col embed hr img input link meta param source track wbr".split())  # noqa: SIM905
_DROPPED = {
    name: re.compile(rf"</{name}[^<>]*+>", re.IGNORECASE)
    for name in ("script", "style", "svg", "template", "object")
}
_CODE = frozenset(("pre", "code", "tt", "kbd", "samp"))
# Elements that people format prose with. A text without any of them has tags that mean something
# else: `<article>` and `<s>` delimit the parts of a prompt.
_FORMATTING = frozenset(
    """
    a b big blockquote br center code dd div dl dt em font h1 h2 h3 h4 h5 h6 hr i img kbd li ol p
    pre samp small span strike strong sub sup table tbody td th thead tr tt u ul
    """.split()  # noqa: SIM905
)
# Elements of programs, and the usual delimiters of prompts among HTML's names.
_INTERFACE = frozenset(
    """
    button canvas data details dialog fieldset form iframe input label meter object optgroup option
    output progress script select slot style summary svg template textarea
    """.split()  # noqa: SIM905
)

# Fenced code, doctests, code spans, comments, declarations, and tags. Possessive quantifiers keep
# the search linear; an attribute's quotation marks may hold `>`.
_TOKEN = re.compile(
    r"""
      (?P<code>^[ \t]*+(?P<fence>`{3,}+|~{3,}+)[^`\n]*+\n
            (?:.*?^[ \t]*+(?P=fence)[`~]*+[ \t]*+$ | .*\Z)
        | ^[ \t]*+>>>\ [^\n]*+(?:\n(?![ \t]*+$)[^\n]++)*+
        | ``[^\n]*?`` | `[^`\n]++`)
    | (?P<comment><!--)
    | <(?P<declared>[!?%])[^<>]*+>
    | <(?P<closing>/?)(?P<name>[A-Za-z][A-Za-z0-9:._-]*+)
        (?P<attributes>(?:[\s/](?:[^"'<>]++|"[^"<]*+"|'[^'<]*+')*+)?+)>
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
# Jinja, PHP, ASP and JavaScript templates are programs, not prose.
_TEMPLATE = re.compile(r"\{\{|\{%|=\{|<\?(?!xml)|<%|\$\{")
# "the <b> tag": the text is about HTML.
_MENTION = re.compile(r"\s++(?:and|or|tag|element|attribute|block|section|node)s?\b", re.IGNORECASE)
# [INST], <|im_end|>, <s> and the like: the text was rendered for a model.
_SPECIAL_TOKEN = re.compile(
    r"\[/?INST\]|<\|[^|<>\n]{1,40}\|>|<</?SYS>>|\A\s*<s>|</s>\s*\Z|</?think>"
)
# Headings, tables, quotes, links, strong words and tasks of Markdown; diffs, logs, terminals.
_OTHER_FORM = re.compile(
    r"""^[ ]{0,3}\#{1,6}\ \S | ^[ ]{0,3}>\ | ^\|?[ ]*+:?-{3,}+:?[ ]*+\| | \]\([^()\s]++\)
    | \*\*\w[^*\n]*+\*\* | ^[ ]*+[-*+]\ \[[ xX]\]\
    | ^(?:diff\ --git\ |@@\ -[0-9]|\+\+\+\ |---\ \S|[$\#%]\ \S|[\w-]+@[\w.-]+:[^\s$\#]*[$\#]\ )
    | ^\[?(?:[0-9]{4}[-/][0-9]{2}[-/][0-9]{2}[T ]|[0-9]{2}:[0-9]{2}:[0-9]{2}\b)
    | ^(?:INFO|DEBUG|WARN(?:ING)?|ERROR|TRACE|FATAL|CRITICAL|[0-9]{1,3}(?:\.[0-9]{1,3}){3}\ )""",
    re.MULTILINE | re.VERBOSE,
)
_INDENTED = re.compile(r"(?: {4}|\t)[^\n]*")
_EMPTY_FIELD = re.compile(r"(?:\s|&nbsp;|</?(?:p|br|div|span)\s*/?>)+", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\w[\"')\]»”]*[.!?\u2026](?=\s|\Z)|[\u3002\uff01\uff1f\u0964\u061f]")
# Lines of Python, JavaScript, C and the like; their generics and comparisons look like tags.
_CODE_LINE = re.compile(
    r"""^[ \t]*+(?:
      (?:async\ )?def\ \w+\([^\n]*+$ | class\ \w+[^\n]*[:({]$
    | (?:import|from)\ [\w.]+(?:\ import\ [^\n]*+|$)
    | (?:if|elif|for|while|with|try|except|else|finally)\b[^\n]*:$
    | (?:return|yield|raise|assert|del|print)\b[^\n]*+$
    | (?:function|var|let|const|public|private|static|using|fn|func|package|struct|enum)\ [^\n]*+$
    | @\w[^\n]*+$ | \#include[^\n]*+$ | //[^\n]*+$
    | [\w.\[\]'"]++(?:,\ [\w.]++)*+\ ?[-+|&*/]?=[^=][^\n]*+$ | [^\n]*[;{}(\[]$
    | [\w.]++\([^\n]*\)$)""",
    re.MULTILINE | re.VERBOSE,
)
# Entities that an export left in prose without tags. `&lt;` stays: it may quote a tag.
_LEFTOVER = re.compile(
    r"""(?<=[\w\s])&amp;(?=[\w\s]) | (?<=\w)&nbsp;(?=\w) | (?<=\w)&(?:apos|\#39);(?=\w)
    | &(?:quot|\#34);(?=\w) | (?<=[\w.!?])&(?:quot|\#34);""",
    re.VERBOSE,
)
_ABOUT_ENTITIES = re.compile(r"&[lg]t;|['\"`(=]&")
_MIN_SHARE_OF_PROSE = 0.5
_FEWEST_WORDS = 4
# A page that holds less is a program; with scripts or controls it has to say more.
_FEWEST_WORDS_OF_PAGE = 6
_FEWEST_WORDS_OF_PROGRAM = 12
_MAX_SHARE_OF_CODE_LINES = 0.2
_PASSES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class _Token:
    """A piece of a text that isn't plain text.

    Attributes:
        kind: `code` (stays as it is), `tag`, `unknown` (a tag that isn't HTML's), `declared` (a
            declaration or an instruction) or `dropped` (a comment, or an element with its content).
        start: Position of the first character.
        end: Position after the last character.
        name: Of a tag or a declaration, in lower case.
        closing: Whether it is a closing tag.
    """

    kind: str
    start: int
    end: int
    name: str = ""
    closing: bool = False


def strip_markup(text: str) -> str:
    """Return the prose of an HTML text, any other text unchanged.

    Blocks are put on lines of their own, items get dashes, and links are replaced by their text.
    Scripts, styles and comments are removed with their content, entities become characters, and
    code is set in Markdown. Fenced blocks, code spans and doctests stay as they are. A whole page
    that isn't fenced counts as prose. In prose without any tag, only `&amp;`, `&nbsp;` and
    quotation marks are read. A second call changes nothing more.
    """
    current = text
    for _ in range(_PASSES):
        stripped = _strip_once(current)
        if stripped == current:
            return current
        current = stripped

    # Tags that only appear when others have been removed, again and again, are nobody's prose.
    return text


def _strip_once(text: str) -> str:
    if "<" in text:
        tokens = list(_read_tokens(text))
        return _render(text, tokens) if _is_html(text, tokens) else text

    if "&" not in text or _ABOUT_ENTITIES.search(text):
        return text
    read = _LEFTOVER.sub(lambda match: unescaped(match[0]), text)
    return read if read != text and read_prose(read).share >= _MIN_SHARE_OF_PROSE else text


def _read_tokens(text: str) -> Iterator[_Token]:
    """Yield the pieces of `text` that aren't plain text, in their order."""
    position = 0
    # Ends that don't come any more; searching for them again and again would be quadratic.
    absent: set[str] = set()

    while (match := _TOKEN.search(text, position)) is not None:
        start, position = match.span()
        name = (match["name"] or "").lower()
        closing = bool(match["closing"])

        if match["code"] is not None:
            kind = "code"
        elif match["comment"] is not None:
            end = -1 if "-->" in absent else text.find("-->", position)
            if end < 0:
                absent.add("-->")
                continue
            kind, position = "dropped", end + len("-->")
        elif match["declared"] is not None:
            # The first letters, as in "doctype html" or "xml version".
            kind, name = "declared", text[start + 2 : start + 14].lower()
        elif name not in _KNOWN:
            kind = "unknown"
        else:
            kind = "tag"
            if name in _DROPPED and not closing and name not in absent:
                closing_tag = _DROPPED[name].search(text, position)
                if closing_tag is None:
                    absent.add(name)
                else:
                    kind, position = "dropped", closing_tag.end()

        yield _Token(kind=kind, start=start, end=position, name=name, closing=closing)


def _is_html(text: str, tokens: Sequence[_Token]) -> bool:
    """Tell whether `text` is a page, or prose in HTML: not XML, a template, code, or about HTML."""
    tags = [token for token in tokens if token.kind == "tag"]
    if not tags or _holds_template(text, tokens) or _SPECIAL_TOKEN.search(text):
        return False
    if _EMPTY_FIELD.fullmatch(text):
        return True

    running_text = "".join(_running_text(text, tokens))
    names = {token.name for token in tokens}
    is_program = not names.isdisjoint(_INTERFACE)
    if _is_page(text, tokens):
        fewest = _FEWEST_WORDS_OF_PROGRAM if is_program else _FEWEST_WORDS_OF_PAGE
        return read_prose(running_text).words >= fewest

    # Scripts and styles next to prose are dropped with it; controls are nobody's prose.
    controls = _INTERFACE.intersection(tag.name for tag in tags)
    if controls or names.isdisjoint(_FORMATTING) or _has_other_form(text, tags):
        return False
    if any(map(_is_foreign, tokens)) or _mentions_tags(text, tags) or not _has_element(tags):
        return False

    lines = list(filter(str.strip, running_text.split("\n")))
    code_lines = _CODE_LINE.findall(running_text)
    begins_as_code = _CODE_LINE.match(running_text.lstrip())
    if begins_as_code or len(code_lines) > _MAX_SHARE_OF_CODE_LINES * len(lines):
        return False

    prose = read_prose(running_text)
    if _is_wrapped(text):
        # A post about code may say little around its blocks.
        has_block = "pre" in names and prose.words > 0
        has_sentence = _SENTENCE_END.search(running_text) is not None
        return has_block or has_sentence or prose.words >= _FEWEST_WORDS
    return prose.share >= _MIN_SHARE_OF_PROSE


def _has_other_form(text: str, tags: Sequence[_Token]) -> bool:
    """Tell whether a text is Markdown, a diff, a log or a terminal's, or all tags are indented."""
    if _OTHER_FORM.search(text):
        return True
    if _is_wrapped(text):
        return False
    starts_of_lines = (text.rfind("\n", 0, tag.start) + 1 for tag in tags)
    return all(_INDENTED.match(text, start) for start in starts_of_lines)


def _holds_template(text: str, tokens: Sequence[_Token]) -> bool:
    stretches = _outside_code(text, tokens)
    return any(_TEMPLATE.search(text, start, end) for start, end in stretches)


def _is_foreign(token: _Token) -> bool:
    """Tell whether a token belongs to XML or to another language rather than to HTML prose."""
    return token.kind == "declared" or (token.kind == "unknown" and token.closing)


def _is_page(text: str, tokens: Sequence[_Token]) -> bool:
    roots = ("html",) if text.lstrip().startswith("<?xml") else ("html", "body")
    names = {token.name for token in tokens if token.kind == "tag"}
    return _is_wrapped(text) and not names.isdisjoint(roots)


def _is_wrapped(text: str) -> bool:
    outer = text.strip()
    return outer.startswith("<") and outer.endswith(">")


def _mentions_tags(text: str, tags: Sequence[_Token]) -> bool:
    """Tell whether a text is about HTML: a tag is quoted or followed by "element" or the like."""
    for tag in tags:
        before, after = text[tag.start - 1 : tag.start], text[tag.end : tag.end + 1]
        if before == after and before in ("'", '"'):
            return True

        is_opening = not tag.closing and tag.name != "br" and not before.isalnum()
        if is_opening and _MENTION.match(text, tag.end):
            return True
    return False


def _has_element(tags: Sequence[_Token]) -> bool:
    """Tell whether an element is closed again, or needs no closing."""
    opened: set[str] = set()
    for tag in tags:
        if tag.name in _EMPTY or (tag.closing and tag.name in opened):
            return True
        opened.add(tag.name)
    return False


def _outside_code(text: str, tokens: Sequence[_Token]) -> Iterator[tuple[int, int]]:
    """Yield the start and the end of each stretch that is neither code nor dropped."""
    position = 0
    for token in tokens:
        if token.kind in ("code", "dropped"):
            yield position, token.start
            position = token.end
    yield position, len(text)


def _running_text(text: str, tokens: Sequence[_Token]) -> Iterator[str]:
    """Yield the text between the tags that isn't code, with line breaks between blocks."""
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


def _render(text: str, tokens: Sequence[_Token]) -> str:
    """Return the text with its tags rendered as line breaks, dashes and Markdown."""
    plain = PlainText()
    is_page = _is_page(text, tokens)
    closed = {token.name for token in tokens if token.closing}
    position = 0

    for token in tokens:
        # `List<T>` in prose about code: one letter that is never closed.
        before = text[token.start - 1 : token.start]
        has_one_letter = token.end - token.start == len("<b>")
        is_type_parameter = before.isalnum() and has_one_letter and token.name not in closed
        if (token.kind == "unknown" and not is_page) or is_type_parameter:
            continue

        plain.write(text[position : token.start])
        position = token.end
        if token.kind == "code":
            plain.write_unchanged(text[token.start : token.end])
        elif token.kind == "tag":
            # 10<sup>3</sup> becomes 10^3; a footnote's mark after a word doesn't.
            is_power = before.isalnum() and text[position : position + 1].isdigit()
            _render_tag(plain, token, is_power=is_power)

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
