"""Cleaning: repairs the texts of rows one by one, replaces personal data and records each change.

Rows may hold source code, so indentation and line breaks within a text always survive. Duplicates
need the whole session and are found in `twins`.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from tunetrail.config import CleaningConfig
from tunetrail.data.privacy import Scrubber
from tunetrail.data.rows import (
    content_columns,
    content_text,
    object_series,
    set_aside_frame,
    texts_of_rows,
)
from tunetrail.data.texts.characters import (
    fix_encoding,
    normalize_characters,
    normalize_whitespace,
)
from tunetrail.data.texts.markup import strip_markup
from tunetrail.samples import ColumnType, column_type, holds_turns, shape_named
from tunetrail.samples.messages import has_answer, map_json_texts

# Names of markup outside of tags, addresses and file names: the row is about it.
_ABOUT_MARKUP = re.compile(
    r"(?<![<\w/.=\"'-])(?<!doctype )(?:x?html5?|css3?|jsx|tsx|svg|xml|xslt|javascript|markup|"
    r"web ?(?:page|site)s?|p[áa]ginas? web|pages? web|web-?(?:seite|site)n?)\b|веб-страниц|网页|網頁|"
    r"ウェブページ",
    re.IGNORECASE,
)
_MOST_REPAIRS = 4
_FEWEST_CHARACTERS = 40

_REPAIRED_TYPES = (
    ColumnType.TEXT,
    ColumnType.LABEL,
    ColumnType.MESSAGES,
    ColumnType.TURNS,
    ColumnType.TOOLS,
)


@dataclass(frozen=True, kw_only=True)
class CleanedRows:
    """Repaired rows and the rows that cleaning set aside, together as many as came in.

    Attributes:
        rows: Rows that stay, in their order.
        set_aside: Rows that have no text left, or whose two answers have become equal.
        changes: One line for each row that stays and was changed, with the reasons.
        placeholders: Number of replaced personal data by type.
        shrunk: Number of rows of which repairs took half of a text or more, by the repairs.
    """

    rows: pd.DataFrame
    set_aside: pd.DataFrame
    changes: pd.DataFrame
    placeholders: "Counter[str]"
    shrunk: "Counter[str]"


@dataclass(frozen=True, kw_only=True, slots=True)
class _RepairedCell:
    """The repaired value of a cell, the reasons of its changes and its replaced personal data."""

    value: Any
    reasons: list[str]
    placeholders: "Counter[str]"


def clean_rows(rows: pd.DataFrame, config: CleaningConfig) -> CleanedRows:
    """Repair the texts of validated rows.

    Personal data is also replaced in the earlier content of a changed row, unless that is off.
    """
    scrubber = Scrubber(config.privacy)
    placeholders: Counter[str] = Counter()
    before = rows.reset_index(drop=True)
    after = before.copy()
    # Dicts as ordered sets: a row has each reason once, in the order of the columns.
    reasons_by_row: list[dict[str, None]] = [{} for _ in range(len(before))]

    for column in content_columns(before):
        if column_type(column) not in _REPAIRED_TYPES:
            continue
        values = []
        cells = zip(before[column], before["shape"], strict=True)
        for position, (cell_value, shape_name) in enumerate(cells):
            cell = _repair_cell(cell_value, column, config, scrubber)
            is_optional = column not in shape_named(shape_name).required
            # An optional text that cleaning empties counts as absent.
            values.append(None if is_optional and _is_blank(cell.value) else cell.value)
            placeholders.update(cell.placeholders)
            reasons_by_row[position].update(dict.fromkeys(cell.reasons))
        after[column] = object_series(values)

    records = after.to_dict("records")
    unusable, changed = {}, {}
    for position, (record, reasons) in enumerate(zip(records, reasons_by_row, strict=True)):
        why_unusable = _why_unusable(record)
        if why_unusable is not None:
            unusable[position] = why_unusable
        elif reasons:
            changed[position] = "; ".join(reasons)

    return CleanedRows(
        rows=after.drop(index=list(unusable)).reset_index(drop=True),
        set_aside=_account_for(before, records, unusable, scrubber),
        changes=_account_for(before, records, changed, scrubber),
        placeholders=placeholders,
    )


def _account_for(
    before: pd.DataFrame,
    records: Sequence[Mapping[Any, Any]],
    reasons: Mapping[int, str],
    scrubber: Scrubber,
) -> pd.DataFrame:
    """Return a set-aside frame of the rows at the positions that have a reason."""
    lines = []
    old_records = before.iloc[list(reasons)].to_dict("records")
    for (position, reason), old_record in zip(reasons.items(), old_records, strict=True):
        record = records[position]
        old_text = content_text(old_record, scrubber.mask)
        new_text = content_text(record, scrubber.mask)
        lines.append((int(record["row_id"]), reason, old_text, new_text))
    return set_aside_frame("cleaning", lines)


def clean_text(text: str, config: CleaningConfig) -> tuple[str, list[str]]:
    """Return the repaired text and the names of the repairs that changed it."""
    # In this order, because a repair may leave what the next one removes: markup leaves blanks.
    repairs: list[tuple[bool, str, Callable[[str], str]]] = [
        (config.fix_encoding and not text.isascii(), "encoding repaired", _fix_encoding),
        (config.normalize_unicode, "characters normalised", _normalize_unicode),
        (config.strip_markup, "markup removed", _remove_markup),
        (config.normalize_whitespace, "white space normalised", _normalize_whitespace),
    ]
    reasons = []
    for is_on, reason, repair in repairs:
        repaired = repair(text) if is_on else text
        if repaired != text:
            reasons.append(reason)
        text = repaired
    return text, reasons


def _fix_encoding(text: str) -> str:
    # Line by line, because ftfy judges a text as a whole: one broken line must not depend on its
    # neighbours.
    return "\n".join(map(_fix_encoding_of_line, text.split("\n")))


def _fix_encoding_of_line(line: str) -> str:
    return line if line.isascii() else ftfy.fix_encoding(line)


def _normalize_unicode(text: str) -> str:
    return unicodedata.normalize("NFC", text.translate(_CONTROL_CHARACTERS))


def _remove_markup(text: str) -> str:
    # Without these characters there are neither tags nor entities, and parsing is slow.
    return strip_markup(text) if "<" in text or "&" in text else text


def _normalize_whitespace(text: str) -> str:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    stripped = "\n".join(line.rstrip(" \t") for line in lines).rstrip()

    # Blank lines at the start go, but the first line's indentation belongs to code.
    without_blank_start = re.sub(r"\A\s*\n", "", stripped)
    # In a single line it is just a stray blank.
    return without_blank_start if "\n" in without_blank_start else without_blank_start.strip()


def _repair_cell(
    value: Any, column: str, config: CleaningConfig, scrubber: Scrubber
) -> _RepairedCell:
    """Repair a text, a label or all turns of a conversation."""
    placeholders: Counter[str] = Counter()
    if value is None:
        return _RepairedCell(value=None, reasons=[], placeholders=placeholders)

    if holds_turns(column):
        turns, all_reasons = [], []
        for turn in value:
            content = _repair_cell(turn["content"], "content", config, scrubber)
            turns.append({**turn, "content": content.value})
            all_reasons += content.reasons
            placeholders += content.placeholders
            if turn.get("tool_calls"):
                calls = _scrub_json(turn["tool_calls"], scrubber)
                turns[-1]["tool_calls"] = calls.value
                all_reasons += calls.reasons
                placeholders += calls.placeholders
        return _RepairedCell(value=turns, reasons=all_reasons, placeholders=placeholders)

    if column_type(column) is ColumnType.TOOLS:
        return _scrub_json(value, scrubber)

    text, reasons = clean_text(value, config)
    if column_type(column) is not ColumnType.LABEL:
        text, counts = scrubber.scrub(text)
        placeholders.update(counts)
        reasons += [f"{name} replaced" for name in counts]
    return _RepairedCell(value=text, reasons=reasons, placeholders=placeholders)


def _scrub_json(text: str, scrubber: Scrubber) -> _RepairedCell:
    """Replace personal data in the texts within JSON, whose form stays as it is."""
    placeholders: Counter[str] = Counter()

    def scrub(value: str) -> str:
        scrubbed, counts = scrubber.scrub(value)
        placeholders.update(counts)
        return scrubbed

    scrubbed = map_json_texts(text, scrub)
    reasons = [f"{name} replaced" for name in placeholders]
    return _RepairedCell(
        value=scrubbed if placeholders else text, reasons=reasons, placeholders=placeholders
    )


def _why_unusable(record: dict[Any, Any]) -> str | None:
    """Return the reason why nothing can be learned from a cleaned row, None if something can."""
    shape = shape_named(record["shape"])
    for column in shape.required:
        if _is_empty(record[column], column):
            return f"{column} is empty after cleaning"

    if shape.is_preference:
        preferred, rejected = shape.target
        if record[preferred] == record[rejected]:
            return f"{preferred} equals {rejected} after cleaning"
    return None


def _is_empty(value: Any, column: str) -> bool:
    if column_type(column) is ColumnType.MESSAGES:
        return not has_answer(value)
    return not holds_turns(column) and _is_blank(value)


def _is_blank(value: Any) -> bool:
    return isinstance(value, str) and not value.strip()
