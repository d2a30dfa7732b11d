"""Cleaning: repairs the texts of rows one by one, replaces personal data and records each change.

Rows may hold source code, so indentation and line breaks within a text always survive. Duplicates
need the whole session and are found in `twins`.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from tunetrail.config import CleaningConfig
from tunetrail.data.privacy import Scrubber
from tunetrail.data.rows import (
    content_columns,
    content_text,
    object_series,
    plain_records,
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
    r"web ?(?:page|site)s?|p[áa]ginas? web|pages? web|web-?(?:seite|site)n?)\b"
    r"|веб-страниц|网页|網頁|ウェブページ",
    re.IGNORECASE,
)
_ENCODING, _MARKUP = "encoding repaired", "markup removed"
_MOST_REPAIRS = 4
# A shorter text loses half of its characters with a blank or two.
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
        shrunk: (`row_id`, repair) of each row of which a repair took half of a text or more.
    """

    rows: pd.DataFrame
    set_aside: pd.DataFrame
    changes: pd.DataFrame
    placeholders: "Counter[str]"
    shrunk: tuple[tuple[int, str], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _RepairedCell:
    """The repaired value of a cell, the reasons of its changes and its replaced personal data.

    `shrunk` names the repairs that took half of a text or more.
    """

    value: Any
    reasons: list[str]
    placeholders: "Counter[str]"
    shrunk: list[str] = field(default_factory=list)


class _RowRepair:
    """The repair of one row: what is known of the whole row, and what was done to its cells."""

    def __init__(self, config: CleaningConfig, scrubber: Scrubber) -> None:
        self.config = config
        # Remembers the passwords that a cell tells, to replace them in the other cells too.
        self.scrubber = scrubber.of_row()
        # Dicts as ordered sets: a row has each reason once, in the order of the columns.
        self.reasons: dict[str, None] = {}
        self.shrunk: dict[str, None] = {}
        self.placeholders: Counter[str] = Counter()

    def repair(self, value: Any, column: str) -> Any:
        """Return the repaired value of a cell."""
        cell = _repair_cell(value, column, self.config, self.scrubber)
        self.reasons.update(dict.fromkeys(cell.reasons))
        self.shrunk.update(dict.fromkeys(cell.shrunk))
        self.placeholders.update(cell.placeholders)
        return cell.value


def clean_rows(rows: pd.DataFrame, config: CleaningConfig) -> CleanedRows:
    """Repair the texts of validated rows.

    Personal data is also replaced in the earlier content of a changed row, unless that is off.
    """
    before = rows.reset_index(drop=True)
    after = before.copy()
    repairs = _repairs_of_rows(before, config)
    columns = [
        column for column in content_columns(before) if column_type(column) in _REPAIRED_TYPES
    ]

    for column in columns:
        values = []
        for value, shape, repair in zip(before[column], before["shape"], repairs, strict=True):
            repaired = repair.repair(value, column)
            is_optional = column not in shape_named(shape).required
            # An optional text that cleaning empties counts as absent.
            values.append(None if is_optional and _is_blank(repaired) else repaired)
        after[column] = object_series(values)

    # A password of one cell is known only now in the cells before it.
    for position, repair in enumerate(repairs):
        for column in columns if repair.scrubber.told_secrets else ():
            after.at[position, column] = repair.repair(after.at[position, column], column)

    records = plain_records(after)
    unusable, changed = {}, {}
    for position, (record, repair) in enumerate(zip(records, repairs, strict=True)):
        why_unusable = _why_unusable(record)
        if why_unusable is not None:
            unusable[position] = why_unusable
        elif repair.reasons:
            changed[position] = "; ".join(repair.reasons)

    placeholders: Counter[str] = Counter()
    shrunk = []
    for record, repair in zip(records, repairs, strict=True):
        placeholders.update(repair.placeholders)
        if repair.shrunk:
            shrunk.append((int(record["row_id"]), " and ".join(repair.shrunk)))
    return CleanedRows(
        rows=after.drop(index=list(unusable)).reset_index(drop=True),
        set_aside=_account_for(before, records, unusable, repairs),
        changes=_account_for(before, records, changed, repairs),
        placeholders=placeholders,
        shrunk=tuple(shrunk),
    )


def _repairs_of_rows(rows: pd.DataFrame, config: CleaningConfig) -> list[_RowRepair]:
    """Return the repair of each row; a row that is about markup keeps it.

    "Write an HTML page" says that the page in the next cell is the answer, not a way to store it.
    """
    scrubber = Scrubber(config.privacy)
    keeping_markup = replace(config, strip_markup=False)
    repairs = []
    for texts in texts_of_rows(rows):
        has_tag = any("<" in text for text in texts)
        keeps_markup = has_tag and any(map(_ABOUT_MARKUP.search, texts))
        repairs.append(_RowRepair(keeping_markup if keeps_markup else config, scrubber))
    return repairs


def _account_for(
    before: pd.DataFrame,
    records: Sequence[Mapping[Any, Any]],
    reasons: Mapping[int, str],
    repairs: Sequence[_RowRepair],
) -> pd.DataFrame:
    """Return a set-aside frame of the rows at the positions that have a reason."""
    lines = []
    old_records = plain_records(before.iloc[list(reasons)])
    for (position, reason), old_record in zip(reasons.items(), old_records, strict=True):
        record, mask = records[position], repairs[position].scrubber.mask
        old_text = content_text(old_record, mask)
        new_text = content_text(record, mask)
        lines.append((int(record["row_id"]), reason, old_text, new_text))
    return set_aside_frame("cleaning", lines)


def clean_text(text: str, config: CleaningConfig) -> tuple[str, list[str]]:
    """Return the repaired text and the names of the repairs that changed it.

    Repairing the result again changes nothing.
    """
    reasons: dict[str, None] = {}
    for _ in range(_MOST_REPAIRS):
        repaired = _repair_once(text, config, reasons)
        if repaired == text:
            break
        # A repair brings forth what an earlier one would have changed: an entity becomes an
        # accent that is composed with its letter, a tag loses the indentation of code.
        text = repaired
    return text, list(reasons)


def _repair_once(text: str, config: CleaningConfig, reasons: dict[str, None]) -> str:
    # In this order, because a repair may leave what the next one removes: markup leaves blanks.
    repairs: list[tuple[bool, str, Callable[[str], str]]] = [
        (config.fix_encoding and not text.isascii(), _ENCODING, fix_encoding),
        (config.normalize_unicode, "characters normalised", normalize_characters),
        (config.strip_markup, _MARKUP, _remove_markup),
        (config.normalize_whitespace, "white space normalised", normalize_whitespace),
    ]
    for is_on, reason, repair in repairs:
        repaired = repair(text) if is_on else text
        if repaired != text:
            reasons[reason] = None
        text = repaired
    return text


def _remove_markup(text: str) -> str:
    # Without these characters there are neither tags nor entities, and parsing is slow.
    return strip_markup(text) if "<" in text or "&" in text else text


def _repair_turns(
    turns: Sequence[Mapping[str, Any]], config: CleaningConfig, scrubber: Scrubber
) -> _RepairedCell:
    """Repair the texts of all turns of a conversation, and scrub the calls of tools."""
    repaired, reasons, shrunk = [], [], []
    placeholders: Counter[str] = Counter()

    for turn in turns:
        content = _repair_cell(turn["content"], "content", config, scrubber)
        repaired.append({**turn, "content": content.value})
        reasons += content.reasons
        shrunk += content.shrunk
        placeholders += content.placeholders
        if turn.get("tool_calls"):
            calls = _scrub_json(turn["tool_calls"], scrubber)
            repaired[-1]["tool_calls"] = calls.value
            reasons += calls.reasons
            placeholders += calls.placeholders

    return _RepairedCell(value=repaired, reasons=reasons, placeholders=placeholders, shrunk=shrunk)


def _repair_cell(
    value: Any, column: str, config: CleaningConfig, scrubber: Scrubber
) -> _RepairedCell:
    """Repair a text, a label or all turns of a conversation."""
    placeholders: Counter[str] = Counter()
    if value is None:
        return _RepairedCell(value=None, reasons=[], placeholders=placeholders)

    if holds_turns(column):
        return _repair_turns(value, config, scrubber)
    if column_type(column) is ColumnType.TOOLS:
        return _scrub_json(value, scrubber)

    text, reasons = clean_text(value, config)
    is_shrunk = len(value) >= _FEWEST_CHARACTERS and 2 * len(text) <= len(value)
    shrunk = []
    if is_shrunk:
        # Markup is the usual cause; otherwise, the last repair is named.
        shrunk.append(_MARKUP if _MARKUP in reasons else reasons[-1])

    if column_type(column) is not ColumnType.LABEL:
        for _ in range(_MOST_REPAIRS):
            text, counts = scrubber.scrub(text)
            placeholders.update(counts)
            if not counts:
                break
            # A placeholder may change what the text reads like, and so what is repaired.
            text, more_reasons = clean_text(text, config)
            reasons += more_reasons
        reasons += [f"{name} replaced" for name in placeholders]
    return _RepairedCell(value=text, reasons=reasons, placeholders=placeholders, shrunk=shrunk)


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
