"""Cleaning of rows, each by itself: repairs texts, replaces personal data, and keeps what it changed and why.

Rows may hold source code, so indentation and line breaks inside a text always survive. Judges no content; finds no
duplicates (they need the whole session: see `duplicates`).
"""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ftfy
import pandas as pd

from tunetrail.config import CleaningConfig
from tunetrail.data.privacy import Scrubber
from tunetrail.data.rows import (
    content_columns,
    content_text,
    object_series,
    set_aside_frame,
)
from tunetrail.data.texts.markup import strip_markup
from tunetrail.samples import ColumnType, column_type, shape_named

_CONTROL_CHARACTERS = {
    code: None for code in (*range(0x20), *range(0x7F, 0xA0), 0xFEFF) if chr(code) not in "\t\n\r"
}

_REPAIRED_TYPES = (ColumnType.TEXT, ColumnType.LABEL, ColumnType.MESSAGES)


@dataclass(frozen=True, kw_only=True)
class CleanedRows:
    """Repaired rows, and those that cleaning took out; together they are as many as came in.

    Attributes:
        rows: Rows that stay, in their order.
        set_aside: Rows that repairing left without text, or without a difference to prefer.
        changes: One line for each row that stays and of which something was changed, with the reasons.
        placeholders: How many personal data of each type were replaced.
    """

    rows: pd.DataFrame
    set_aside: pd.DataFrame
    changes: pd.DataFrame
    placeholders: "Counter[str]"


def clean_rows(rows: pd.DataFrame, config: CleaningConfig) -> CleanedRows:
    """Repair the texts of validated rows.

    What is kept of a changed row from before has its personal data replaced too, unless that is turned off.
    """
    scrubber = Scrubber(config.privacy)
    placeholders: Counter[str] = Counter()
    before = rows.reset_index(drop=True)
    after = before.copy()
    reasons: list[dict[str, None]] = [{} for _ in range(len(before))]
    for column in content_columns(before):
        if column_type(column) in _REPAIRED_TYPES:
            repaired = []
            for position, value in enumerate(before[column]):
                new, why, found = _repaired(value, column, config, scrubber)
                repaired.append(new)
                placeholders.update(found)
                reasons[position].update(dict.fromkeys(why))
            is_optional = [column not in shape_named(name).required for name in before["shape"]]
            after[column] = object_series(
                [
                    None if optional and isinstance(value, str) and not value.strip() else value
                    for value, optional in zip(repaired, is_optional, strict=True)
                ]
            )
    records = after.to_dict("records")
    gone = {
        position: reason
        for position, record in enumerate(records)
        if (reason := _why_unusable(record)) is not None
    }

    changed = [position for position, why in enumerate(reasons) if why and position not in gone]
    lines = _lines(
        before, records, {**gone, **{each: "; ".join(reasons[each]) for each in changed}}, scrubber
    )
    return CleanedRows(
        rows=after.drop(index=list(gone)).reset_index(drop=True),
        set_aside=set_aside_frame("cleaning", [lines[position] for position in gone]),
        changes=set_aside_frame("cleaning", [lines[position] for position in changed]),
        placeholders=placeholders,
    )


def _lines(
    before: pd.DataFrame,
    after: Sequence[Mapping[Any, Any]],
    reason_of: Mapping[int, str],
    scrubber: Scrubber,
) -> dict[int, tuple[int, str, str | None, str | None]]:
    """Return the lines of a set-aside frame, by position, of the rows that have a reason."""
    old_rows = before.iloc[list(reason_of)].to_dict("records")
    return {
        position: (
            int(after[position]["row_id"]),
            reason,
            content_text(old, scrubber.mask),
            content_text(after[position], scrubber.mask),
        )
        for (position, reason), old in zip(reason_of.items(), old_rows, strict=True)
    }


def clean_text(text: str, config: CleaningConfig) -> tuple[str, list[str]]:
    """Return a text repaired as `config` says, and the names of the repairs that changed it."""
    reasons = []

    def changed(new: str, reason: str) -> str:
        if new != text:
            reasons.append(reason)
        return new

    if config.fix_encoding and not text.isascii():
        # Line by line: ftfy judges a text as a whole, and one broken line mustn't depend on its neighbours.
        lines = (line if line.isascii() else ftfy.fix_encoding(line) for line in text.split("\n"))
        text = changed("\n".join(lines), "encoding repaired")
    if config.normalize_unicode:
        text = changed(
            unicodedata.normalize("NFC", text.translate(_CONTROL_CHARACTERS)),
            "characters normalised",
        )
    if config.strip_markup and ("<" in text or "&" in text):
        text = changed(strip_markup(text), "markup removed")
    if config.normalize_whitespace:
        text = changed(_with_plain_whitespace(text), "white space normalised")
    return text, reasons


def _with_plain_whitespace(text: str) -> str:
    lines = [
        line.rstrip(" \t") for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    ]
    first = next((number for number, line in enumerate(lines) if line.strip()), len(lines))
    kept = "\n".join(lines[first:]).rstrip()
    # The first line's indentation belongs to code; before a single line it is just a stray blank.
    return kept if "\n" in kept else kept.strip()


def _repaired(
    value: Any, column: str, config: CleaningConfig, scrubber: Scrubber
) -> tuple[Any, list[str], Counter[str]]:
    """Return a cell repaired, the reasons of its changes, and the personal data replaced in it."""
    found: Counter[str] = Counter()
    if value is None:
        return None, [], found
    if column_type(column) is ColumnType.MESSAGES:
        turns, reasons = [], []
        for turn in value:
            content, why, of_turn = _repaired(turn["content"], "content", config, scrubber)
            turns.append({"role": turn["role"], "content": content})
            reasons += why
            found += of_turn
        return turns, reasons, found
    text, reasons = clean_text(value, config)
    if column_type(column) is not ColumnType.LABEL:
        text, counts = scrubber.scrub(text)
        found.update(counts)
        reasons += [f"{name} replaced" for name in counts]
    return text, reasons, found


def _why_unusable(record: dict[Any, Any]) -> str | None:
    shape = shape_named(record["shape"])
    for column in shape.required:
        value = record[column]
        if column_type(column) is ColumnType.MESSAGES:
            empty = not any(
                turn["role"] == "assistant" and turn["content"].strip() for turn in value
            )
        else:
            empty = isinstance(value, str) and not value.strip()
        if empty:
            return f"{column} is empty after cleaning"
    if shape.is_preference:
        preferred, rejected = shape.target
        if record[preferred] == record[rejected]:
            return f"{preferred} equals {rejected} after cleaning"
    return None
