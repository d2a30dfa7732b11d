"""Cleaning: repairs texts, drops exact duplicates and accounts for every row. Judges no content; knows no model.

Rows may hold source code, so indentation and line breaks inside a text always survive.
"""

import unicodedata
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import ftfy
import numpy as np
import pandas as pd

from tunetrail.config import CleaningConfig
from tunetrail.data.rows import TEXT_COLUMNS, content_columns, object_series, set_aside_frame, shape_of, shown

_CONTROL_CHARACTERS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0), 0xFEFF) if chr(code) not in "\t\n\r"}


@dataclass(frozen=True, kw_only=True)
class CleaningResult:
    """Repaired rows, and those that cleaning took out; together they are as many as came in.

    Attributes:
        rows: Rows that stay, in their order.
        set_aside: Duplicates and rows that repairing left without text.
        changed: Number of incoming rows of which some text was repaired.
        duplicates: Number of rows set aside as exact duplicates.
        emptied: Number of rows set aside because a text was empty once repaired.
    """

    rows: pd.DataFrame
    set_aside: pd.DataFrame
    changed: int
    duplicates: int
    emptied: int

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, JSON-serialisable."""
        return {
            "rows_in": len(self.rows) + len(self.set_aside),
            "rows_out": len(self.rows),
            "changed": self.changed,
            "duplicates": self.duplicates,
            "emptied": self.emptied,
        }


def clean(rows: pd.DataFrame, config: CleaningConfig) -> CleaningResult:
    """Repair the texts of validated rows and, unless turned off, keep the first of each set of equal rows.

    Two rows are equal when their shape and all their repaired content are, whatever their group.
    """
    before = rows.reset_index(drop=True)
    after = before.copy()
    changed = np.zeros(len(before), dtype=bool)
    for column in content_columns(before):
        if column in TEXT_COLUMNS or column in ("label", "messages"):
            repaired = [_repaired(value, config) for value in before[column]]
            changed |= [new != old for new, old in zip(repaired, before[column], strict=True)]
            after[column] = object_series(repaired)
    reasons = _reasons_to_set_aside(after, config)
    lines = [
        (int(after.at[position, "row_id"]), reason, _content(before, position), _content(after, position))
        for position, reason in reasons.items()
    ]
    duplicates = sum(reason.startswith("duplicate") for reason in reasons.values())
    return CleaningResult(
        rows=after.drop(index=list(reasons)).reset_index(drop=True),
        set_aside=set_aside_frame("cleaning", lines),
        changed=int(changed.sum()),
        duplicates=duplicates,
        emptied=len(reasons) - duplicates,
    )


def clean_text(text: str, config: CleaningConfig) -> str:
    """Return one text repaired as `config` says: encoding, Unicode form and control characters, white space."""
    if config.fix_encoding and not text.isascii():
        # Line by line: ftfy judges a text as a whole, and one broken line mustn't depend on its neighbours.
        text = "\n".join(line if line.isascii() else ftfy.fix_encoding(line) for line in text.split("\n"))
    if config.normalize_unicode:
        text = unicodedata.normalize("NFC", text.translate(_CONTROL_CHARACTERS))
    return _with_plain_whitespace(text) if config.normalize_whitespace else text


def _with_plain_whitespace(text: str) -> str:
    lines = [line.rstrip(" \t") for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    first = next((number for number, line in enumerate(lines) if line.strip()), len(lines))
    kept = "\n".join(lines[first:]).rstrip()
    # The first line's indentation belongs to code; before a single line it is just a stray blank.
    return kept if "\n" in kept else kept.strip()


def _repaired(value: Any, config: CleaningConfig) -> Any:
    if value is None:
        return None
    if isinstance(value, str):
        return clean_text(value, config)
    return [{**message, "content": clean_text(message["content"], config)} for message in value]


def _reasons_to_set_aside(rows: pd.DataFrame, config: CleaningConfig) -> dict[int, str]:
    """Return the reason by position for each row that goes."""
    reasons: dict[int, str] = {}
    first_of: dict[Hashable, int] = {}
    for position, record in enumerate(rows.to_dict("records")):
        empty = _empty_column(record)
        if empty is not None:
            reasons[position] = f"{empty} is empty after cleaning"
        elif config.drop_duplicates:
            kept = first_of.setdefault(_identity(record), record["row_id"])
            if kept != record["row_id"]:
                reasons[position] = f"duplicate of row {kept}"
    return reasons


def _empty_column(record: dict[str, Any]) -> str | None:
    for column in shape_of(record["shape"]).required:
        value = record[column]
        if column == "messages":
            empty = not any(turn["role"] == "assistant" and turn["content"].strip() for turn in value)
        else:
            empty = isinstance(value, str) and not value.strip()
        if empty:
            return column
    return None


def _identity(record: dict[str, Any]) -> Hashable:
    columns = shape_of(record["shape"]).columns
    return (record["shape"], *(_hashable(record.get(column)) for column in columns))


def _hashable(value: Any) -> Hashable:
    if isinstance(value, list | tuple | np.ndarray):
        if len(value) and isinstance(value[0], dict):
            return tuple((turn["role"], turn["content"]) for turn in value)
        return np.asarray(value, dtype=np.float64).tobytes()
    hashable: Hashable = value
    return hashable


def _content(rows: pd.DataFrame, position: int) -> str | None:
    columns = [column for column in shape_of(rows.at[position, "shape"]).columns if column in rows]
    present = {column: rows.at[position, column] for column in columns}
    return shown({column: value for column, value in present.items() if value is not None})
