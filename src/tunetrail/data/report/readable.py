"""Texts as a person can read them: short, everything in them visible, changed words marked. Knows no HTML."""

import difflib
import math
import re
from collections import Counter
from dataclasses import dataclass

SHOWN_CHARACTERS = 300
"""Characters of a text that are shown unless the caller says otherwise."""

_SEARCHED_CHARACTERS = 100_000
_CONTEXT_CHARACTERS = 60
_COMPARED_WORDS = 250
_SHOWN_SPANS = 60
_MASK = "•••"
_REPLACEMENT = "\ufffd"
_UNREADABLE: dict[int, str | int | None] = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"},
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), _REPLACEMENT),
    # Marks that turn the reading direction of all that follows.
    **dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), _REPLACEMENT),
    **dict.fromkeys(range(0xD800, 0xE000), _REPLACEMENT),
    **dict.fromkeys((0xFFFE, 0xFFFF), _REPLACEMENT),
}
_INVISIBLE = {
    code: f"<U+{code:04X}>" for code in (0xA0, 0xAD, 0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF)
}
_BLANK = {ord(" "): "␣", ord("\t"): "⇥", ord("\n"): "↵\n"}
# A placeholder for personal data, at the end of a shortened text perhaps not whole.
_PLACEHOLDER = re.compile(r"\[[A-Z][A-Z0-9_]{1,40}(?:\]|$|\.\.\.$)")
_WORDS = re.compile(r"\s+|\w+|[^\w\s]")
_WORDS_BY_BLANKS = re.compile(r"\s+|\S+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A piece of a text and what became of it: `same`, `removed` or `added`."""

    kind: str
    text: str


_ELLIPSIS = Span(kind="same", text="…")


def readable(value: object, limit: int = SHOWN_CHARACTERS) -> str:
    """Return a value's text with at most `limit` characters, the last of them `…` where it was cut.

    Control characters become their pictures (NUL: ␀); lone surrogates and marks that turn the reading direction become
    U+FFFD, so that the result can be encoded as UTF-8. None and NaN become an empty text.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    text = value if isinstance(value, str) else str(value)
    short = text if len(text) <= limit else text[: limit - 1] + "…"
    return short.translate(_UNREADABLE)


def differences(before: str, after: str, limit: int = 2 * SHOWN_CHARACTERS) -> tuple[Span, ...]:
    """Return the words of two texts in their order, marked as same, removed or added; from the first change on.

    At most `limit` characters of each text are compared, and about as many are returned in all. Blanks and invisible
    characters that were removed or added are made visible. Where `after` has a placeholder such as `[EMAIL]` that
    `before` lacks, removed words are shown as `•••`: they may be the personal data that it stands for.
    """
    masked = bool(_placeholders(after) - _placeholders(before))
    words = _WORDS_BY_BLANKS if masked else _WORDS
    start = _first_difference(before, after)
    old, new = (words.findall(text[start : start + limit]) for text in (before, after))
    cut = max(len(before), len(after)) > start + limit or max(len(old), len(new)) > _COMPARED_WORDS
    spans = _compared(old[:_COMPARED_WORDS], new[:_COMPARED_WORDS], masked=masked, cut=cut)
    within = _within(spans, limit)
    beginning = [_ELLIPSIS] if start else []
    end = [_ELLIPSIS] if cut or len(within) < len(spans) else []
    return (*beginning, *within, *end)


def _placeholders(text: str) -> Counter[str]:
    return Counter(found.rstrip("].") for found in _PLACEHOLDER.findall(text))


def _first_difference(before: str, after: str) -> int:
    """Return where to begin: at a word a little before the first difference, or 0."""
    beginnings = zip(before[:_SEARCHED_CHARACTERS], after[:_SEARCHED_CHARACTERS], strict=False)
    common = next((place for place, (old, new) in enumerate(beginnings) if old != new), 0)
    if common <= 2 * _CONTEXT_CHARACTERS:
        return 0
    blank = re.search(r"\s+", before[common - _CONTEXT_CHARACTERS : common])
    return common - _CONTEXT_CHARACTERS + (blank.end() if blank else 0)


def _compared(before: list[str], after: list[str], *, masked: bool, cut: bool) -> list[Span]:
    steps = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    if cut and len(steps) > 2 and steps[-1][0] != "equal":
        # Where the texts were cut, words lack their counterparts.
        steps.pop()
    spans: list[Span] = []
    removed, added = "", ""
    for kind, first, last, after_first, after_last in steps:
        old, new = "".join(before[first:last]), "".join(after[after_first:after_last])
        # A blank or a comma between two changed words is no island of its own.
        island = (
            removed
            and added
            and last < len(before)
            and not any(character.isalnum() for character in old)
        )
        if kind != "equal" or island:
            removed, added = removed + old, added + new
            continue
        spans += [
            *_changed(removed, added, masked),
            Span(kind="same", text=readable(old, len(old))),
        ]
        removed, added = "", ""
    return [*spans, *_changed(removed, added, masked)]


def _changed(removed: str, added: str, masked: bool) -> list[Span]:
    pieces = (
        ("removed", _MASK if masked and removed.strip() else _visible(removed)),
        ("added", _visible(added)),
    )
    return [Span(kind=kind, text=text) for kind, text in pieces if text]


def _visible(changed: str) -> str:
    shown = (changed.translate(_BLANK) if changed.isspace() else changed).translate(_INVISIBLE)
    return readable(shown, len(shown))


def _within(spans: list[Span], limit: int) -> list[Span]:
    """Return the first spans, none longer than `limit` and no more of them than it takes to have `limit` characters."""
    kept: list[Span] = []
    length = 0
    for span in spans:
        if length >= limit or len(kept) == _SHOWN_SPANS:
            break
        kept.append(Span(kind=span.kind, text=readable(span.text, limit)))
        length += len(span.text)
    return kept
