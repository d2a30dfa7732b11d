"""Validation of rows, each by itself: unusable rows are set aside, odd rows are flagged.

Checks that need the whole session (contradictions, outliers, drift) are in `session_checks`.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from tunetrail.config import ValidationConfig
from tunetrail.data.checks.catalog import check_config
from tunetrail.data.checks.results import Flag
from tunetrail.data.checks.row_rules import ColumnRules, oddities
from tunetrail.data.rows import content_text, object_series, set_aside_frame, shown
from tunetrail.samples import (
    COMMON_COLUMNS,
    ColumnType,
    SampleKind,
    SampleShape,
    column_type,
    shapes_of_kind,
)
from tunetrail.samples.values import is_vector

FLAG_COLUMNS = ("row_id", "check", "detail")

# Checks of rows that are valid but odd: their content can be shown as it is.
_ODDITIES = ("rows.constant", "rows.encoding")


@dataclass(frozen=True, kw_only=True)
class CheckedRows:
    """Rows after validation.

    Attributes:
        rows: Rows that passed, in order.
        set_aside: One line for each row that failed, with all its reasons.
        flags: One line (`row_id`, `check`, `detail`) for each row and check that concerns it,
            whether the row is set aside or not.
    """

    rows: pd.DataFrame
    set_aside: pd.DataFrame
    flags: pd.DataFrame


def check_rows(
    rows: pd.DataFrame,
    kind: SampleKind,
    config: ValidationConfig,
    mask: Callable[[str], str] = str,
) -> CheckedRows:
    """Check every row of a frame, whatever its values, and set aside the rows that fail.

    A blank optional text counts as absent, because CSV files can't tell the two apart.

    Args:
        rows: A frame of rows; a missing column is missing in every row.
        kind: What the rows teach; rows of another kind's shapes are set aside.
        config: Which checks are on, and what they do.
        mask: Replaces personal data in the texts of a row that is set aside.
    """
    rows = _with_all_columns(rows.reset_index(drop=True), kind)
    findings = _RowFindings(rows, config)

    # A row of an unknown shape can't be checked any further.
    shapes = {shape.name: shape for shape in shapes_of_kind(kind)}
    positions_of_shape = defaultdict(list)
    for position, name in enumerate(rows["shape"]):
        if isinstance(name, str) and name in shapes:
            positions_of_shape[name].append(position)
        else:
            reason = f"shape is not one of {', '.join(sorted(shapes))}"
            findings.add(position, "rows.wrong_type", reason, name)

    for name, positions in positions_of_shape.items():
        _check_columns(rows.loc[positions], shapes[name], config, findings)

    # Only rows that are still usable can be odd.
    for position, row in findings.usable_rows().to_dict("index").items():
        for check, reason in oddities(row, config):
            findings.add(position, check, reason)

    return CheckedRows(
        rows=_with_floats(findings.usable_rows().reset_index(drop=True)),
        set_aside=findings.set_aside(mask),
        flags=findings.flags(),
    )


def flag_frame(flags: Iterable[Flag]) -> pd.DataFrame:
    """Return flags as a frame of `FLAG_COLUMNS`."""
    # As objects: pandas' own type for texts refuses a lone surrogate.
    frame = pd.DataFrame(list(flags), columns=list(FLAG_COLUMNS), dtype=object)
    return frame.astype({"row_id": np.int64})


class _Failure(NamedTuple):
    check: str
    reason: str
    value: Any


class _RowFindings:
    """What the checks found in which rows, and which rows are set aside because of it."""

    def __init__(self, rows: pd.DataFrame, config: ValidationConfig) -> None:
        self._rows = rows
        self._config = config
        self._failures: dict[int, list[_Failure]] = defaultdict(list)
        self._decisive: dict[int, list[_Failure]] = defaultdict(list)

    def add(self, position: int, check: str, reason: str, value: Any = None) -> None:
        """Add that a row fails a check, and the value that is wrong, if it is one value."""
        failure = _Failure(check, reason, value)
        self._failures[position].append(failure)
        if check_config(check, self._config).set_aside:
            self._decisive[position].append(failure)

    def usable_rows(self) -> pd.DataFrame:
        """Return the rows that aren't set aside, each at its position in the index."""
        return self._rows.drop(index=list(self._decisive))

    def set_aside(self, mask: Callable[[str], str]) -> pd.DataFrame:
        """Return the set-aside frame, in the order of the rows."""
        lines = []
        rows = self._rows.loc[sorted(self._decisive)].to_dict("index")
        for position, row in rows.items():
            failures = self._decisive[position]
            reasons = "; ".join(failure.reason for failure in failures)
            lines.append((row["row_id"], reasons, _content_before(row, failures[0], mask), None))
        return set_aside_frame("validation", lines)

    def flags(self) -> pd.DataFrame:
        """Return all flags, of usable rows and of rows set aside."""
        row_ids = self._rows["row_id"].tolist()
        flags = []
        for position, failures in self._failures.items():
            for failure in failures:
                flags.append((row_ids[position], failure.check, failure.reason))
        return flag_frame(flags)


def _check_columns(
    rows: pd.DataFrame, shape: SampleShape, config: ValidationConfig, findings: _RowFindings
) -> None:
    """Check every value of rows of one shape, column by column."""
    for column in (*COMMON_COLUMNS, *shape.columns):
        rules = ColumnRules(column, config)
        for position, value in rows[column].items():
            if value is not None:
                for rule in rules.broken_by(value):
                    findings.add(position, rule.check, rule.reason, value)
            elif column in shape.required:
                findings.add(position, "rows.missing", f"{column} is missing")


def _content_before(
    row: dict[Any, Any], failure: _Failure, mask: Callable[[str], str]
) -> str | None:
    """Return what a set-aside frame shows of a row: the wrong value, or else all that it has."""
    if failure.check in _ODDITIES:
        return content_text(row, mask)
    if failure.value is not None:
        return shown(failure.value, mask)

    # Each value is masked by itself: inside a longer text, escaped, it might not be recognised.
    texts = {}
    for column, value in row.items():
        text = shown(value, mask)
        if text is not None and column not in ("row_id", "shape"):
            texts[column] = text
    return shown(json.dumps(texts, ensure_ascii=False))


def _with_all_columns(rows: pd.DataFrame, kind: SampleKind) -> pd.DataFrame:
    """Return the rows with every column of their kind.

    A value is None if it is absent, or if the row's shape doesn't have the column.
    """
    shapes = shapes_of_kind(kind)
    names = list(rows["shape"]) if "shape" in rows else [None] * len(rows)
    content = dict.fromkeys(column for shape in shapes for column in shape.columns)
    optional = {column for shape in shapes for column in shape.optional}

    columns: dict[str, pd.Series] = {"row_id": rows["row_id"], "shape": object_series(names)}
    for column in (*content, *COMMON_COLUMNS):
        # Row files have a column for every shape of a kind, so a row has more than its own columns.
        values = list(rows[column]) if column in rows else [None] * len(rows)
        foreign = {
            shape.name for shape in shapes if column not in (*shape.columns, *COMMON_COLUMNS)
        }
        for position, (value, name) in enumerate(zip(values, names, strict=True)):
            is_foreign = isinstance(name, str) and name in foreign
            is_blank = column in optional and isinstance(value, str) and not value.strip()
            is_nan = isinstance(value, float) and math.isnan(value)
            if is_foreign or is_blank or is_nan:
                values[position] = None
        columns[column] = object_series(values)

    further = {str(column): rows[column] for column in rows if str(column) not in columns}
    return pd.DataFrame({**columns, **further})


def _with_floats(rows: pd.DataFrame) -> pd.DataFrame:
    """Return valid rows with every number as a float.

    JSON knows one kind of numbers, but row files and hashes know several.
    """
    columns = {}
    for column in map(str, rows.columns):
        if column_type(column) in (ColumnType.NUMBER, ColumnType.WEIGHT):
            columns[column] = object_series(list(map(_as_float, rows[column])))
        elif column_type(column) is ColumnType.VECTOR:
            columns[column] = object_series(list(map(_with_float_elements, rows[column])))
    return rows.assign(**columns)


def _with_float_elements(value: Any) -> Any:
    return list(map(_as_float, value)) if is_vector(value) else value


def _as_float(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, int | float | np.number) else value
    except OverflowError:
        # An integer larger than any float is in a usable row only if the check for it is off.
        return math.inf if value > 0 else -math.inf
