"""Texts and numbers as people read them: short, everything in them visible, changes marked."""

import difflib
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple

SHOWN_CHARACTERS = 300
"""Characters of a text that are shown unless the caller says otherwise."""

_SEARCHED_CHARACTERS = 100_000
_CONTEXT_CHARACTERS = 60
# difflib's time grows with the square of the number of words.
_COMPARED_WORDS = 250
_SHOWN_SPANS = 60

_MASK = "•••"
_REPLACEMENT = "\ufffd"
_UNREADABLE: dict[int, str | int | None] = {
    # Control characters become their pictures.
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"},
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), _REPLACEMENT),
    # Marks that turn the reading direction of all that follows.
    **dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), _REPLACEMENT),
    # Lone surrogates, and code points that are no characters.
    **dict.fromkeys(range(0xD800, 0xE000), _REPLACEMENT),
    **dict.fromkeys((0xFFFE, 0xFFFF), _REPLACEMENT),
}
_INVISIBLE = {
    code: f"<U+{code:04X}>" for code in (0xA0, 0xAD, 0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF)
}
_BLANK = {ord(" "): "␣", ord("\t"): "⇥", ord("\n"): "↵\n"}
# A placeholder for personal data; at the end of a shortened text it may be incomplete.
_PLACEHOLDER = re.compile(r"\[[A-Z][A-Z0-9_]{1,40}(?:\]|$|\.\.\.$)")
# What a line of Markdown can mean something by: within a word, "_" can't, and "#", "+" and "-" can
# at the start only. Addresses become links by "://", "www." or the "@" before a domain.
_MARKDOWN = re.compile(
    r"[\\`*\[\]<>&|~]|(?<!\w)_|_(?!\w)|^[#+-]|:(?=//)|(?<=www)\.|@(?=[\w-]+\.\w)"
)
_WORDS = re.compile(r"\s+|\w+|[^\w\s]")
_WORDS_BY_BLANKS = re.compile(r"\s+|\S+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A piece of a text and what became of it: `same`, `removed` or `added`."""

    kind: str
    text: str


_ELLIPSIS = Span(kind="same", text="…")


class LargestCounts(NamedTuple):
    """The largest of many counts, and how many others there are with what sum."""

    shown: list[tuple[str, int]]
    hidden: int
    hidden_sum: int


def largest(counts: Mapping[str, int], limit: int) -> LargestCounts:
    """Return the `limit` largest counts, largest first, and a summary of the others."""
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], str(pair[0])))
    hidden = ordered[limit:]
    return LargestCounts(ordered[:limit], len(hidden), sum(count for _, count in hidden))


def counted(count: int, noun: str, zero: str = "0") -> str:
    """Return a count with its noun, such as `1 row` or `1,200 rows`; `zero` stands for 0."""
    return f"{f'{count:,}' if count else zero} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return a duration as people say it, such as `40 s`, `12 min` or `3 h 20 min`."""
    if seconds < 90.0:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60.0)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def shown_moment(moment: datetime, *, seconds: bool = False) -> str:
    """Return a moment as `2026-11-24 12:00`, with its seconds if asked; its zone isn't shown."""
    return f"{moment:%Y-%m-%d %H:%M:%S}" if seconds else f"{moment:%Y-%m-%d %H:%M}"


def shown_interval(lower: float | None, upper: float | None, form: str = "+.4f") -> str:
    """Return an interval such as `+0.0101 … +0.0702`; an empty text if there is none."""
    if lower is None or upper is None or math.isnan(lower) or math.isnan(upper):
        return ""
    return f"{lower:{form}} … {upper:{form}}"


def compact(value: float, *, as_share: bool = False) -> str:
    """Return a number with three significant digits, a share in percent, or `n/a`."""
    if not math.isfinite(value):
        return "n/a"
    return f"{100 * value:.3g}%" if as_share and 100 * abs(value) < 1000 else f"{value:.3g}"


def readable(value: object, limit: int = SHOWN_CHARACTERS) -> str:
    """Return the text of a value in at most `limit` characters; it ends in `…` if it was cut.

    Control characters become their pictures (NUL: ␀); lone surrogates and marks that turn the
    reading direction become U+FFFD, so that the result can be encoded as UTF-8. None and NaN become
    an empty text.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""

    text = value if isinstance(value, str) else str(value)
    short = text if len(text) <= limit else text[: limit - 1] + "…"
    return short.translate(_UNREADABLE)


def as_markdown(text: str) -> str:
    """Return Markdown that is shown as `text`: nothing in it is a heading, a link or HTML."""
    return _MARKDOWN.sub(r"\\\g<0>", " ".join(readable(text, len(text)).split()))


def differences(before: str, after: str, limit: int = 2 * SHOWN_CHARACTERS) -> tuple[Span, ...]:
    """Return the words of two texts in order, marked as same, removed or added.

    The result starts shortly before the first change. At most `limit` characters of each text are
    compared, and about as many are returned. Removed or added blanks and invisible characters are
    made visible. If `after` has a placeholder such as `[EMAIL]` that `before` lacks, removed words
    are shown as `•••`: they may be the personal data that the placeholder stands for.
    """
    masked = bool(_placeholders(after) - _placeholders(before))
    words = _WORDS_BY_BLANKS if masked else _WORDS

    start = _start_of_comparison(before, after)
    old_words = words.findall(before[start : start + limit])
    new_words = words.findall(after[start : start + limit])
    is_cut = (
        max(len(before), len(after)) > start + limit
        or max(len(old_words), len(new_words)) > _COMPARED_WORDS
    )

    old_words, new_words = old_words[:_COMPARED_WORDS], new_words[:_COMPARED_WORDS]
    spans = _compare_words(old_words, new_words, masked=masked, is_cut=is_cut)
    shown = _shorten(spans, limit)

    beginning = [_ELLIPSIS] if start else []
    end = [_ELLIPSIS] if is_cut or len(shown) < len(spans) else []
    return (*beginning, *shown, *end)


def _placeholders(text: str) -> Counter[str]:
    return Counter(placeholder.rstrip("].") for placeholder in _PLACEHOLDER.findall(text))


def _start_of_comparison(before: str, after: str) -> int:
    """Return the start of a word shortly before the first difference, or 0 if that is near."""
    pairs = zip(before[:_SEARCHED_CHARACTERS], after[:_SEARCHED_CHARACTERS], strict=False)
    first_difference = next((index for index, (old, new) in enumerate(pairs) if old != new), 0)
    if first_difference <= 2 * _CONTEXT_CHARACTERS:
        return 0

    context_start = first_difference - _CONTEXT_CHARACTERS
    blank = re.search(r"\s+", before[context_start:first_difference])
    return context_start + (blank.end() if blank else 0)


def _compare_words(
    old_words: list[str], new_words: list[str], *, masked: bool, is_cut: bool
) -> list[Span]:
    operations = difflib.SequenceMatcher(None, old_words, new_words, autojunk=False).get_opcodes()
    if is_cut and len(operations) > 2 and operations[-1][0] != "equal":
        # At the cut, words lack their counterparts: the last difference may be none.
        operations.pop()

    spans: list[Span] = []
    removed = added = ""
    for kind, old_start, old_end, new_start, new_end in operations:
        old_text = "".join(old_words[old_start:old_end])
        new_text = "".join(new_words[new_start:new_end])

        # A blank or a comma between two changes belongs to them: one longer change reads better.
        is_between = removed and added and old_end < len(old_words)
        if kind != "equal" or (is_between and not any(map(str.isalnum, old_text))):
            removed, added = removed + old_text, added + new_text
            continue

        spans += _changed_spans(removed, added, masked)
        spans.append(Span(kind="same", text=readable(old_text, len(old_text))))
        removed = added = ""

    return spans + _changed_spans(removed, added, masked)


def _changed_spans(removed: str, added: str, masked: bool) -> list[Span]:
    spans = []
    if removed:
        text = _MASK if masked and removed.strip() else _make_visible(removed)
        spans.append(Span(kind="removed", text=text))
    if added:
        spans.append(Span(kind="added", text=_make_visible(added)))
    return spans


def _make_visible(text: str) -> str:
    # Blanks are shown as signs only if nothing else has changed: between words they would be noise.
    shown = (text.translate(_BLANK) if text.isspace() else text).translate(_INVISIBLE)
    return readable(shown, len(shown))


def _shorten(spans: list[Span], limit: int) -> list[Span]:
    """Return as many of the first spans as it takes to have `limit` characters, none longer."""
    shown: list[Span] = []
    characters = 0
    for span in spans[:_SHOWN_SPANS]:
        if characters >= limit:
            break
        shown.append(replace(span, text=readable(span.text, limit)))
        characters += len(span.text)
    return shown
