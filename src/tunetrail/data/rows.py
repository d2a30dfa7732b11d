"""Rows: the pandas form of samples that every data step takes and gives. Knows nothing of what the steps do with them.

A frame of rows has a RangeIndex and the columns `row_id` (int64, the sample's id in the database), `shape` (the name of
a registered shape), the content columns of the shapes present (absent values are None), `group` (str or None),
`timestamp` (ISO 8601 in UTC, or None) and `weight` (a float above 0, or None).
All columns but `row_id` have the object dtype: pandas' own text dtype would turn None into NaN.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from tunetrail.samples import (
    COMMON_COLUMNS,
    GROUP_COLUMN,
    TIMESTAMP_COLUMN,
    WEIGHT_COLUMN,
    ColumnType,
    Sample,
    SampleKind,
    all_shapes,
    column_type,
    shape_named,
)

SET_ASIDE_COLUMNS = ("row_id", "step", "reason", "before", "after")
"""Columns of a set-aside frame: one line for each row that a step took out, with its content before and after."""

_KEPT_CHARACTERS = 20_000
"""Of one row in a set-aside frame: the database holds it whole."""


def content_columns(rows: pd.DataFrame) -> list[str]:
    """Return the content columns of the shapes present in `rows`, in the order of their registration."""
    return _columns_of(set(rows["shape"]))


def rows_frame(records: Iterable[tuple[int, Sample]]) -> pd.DataFrame:
    """Return samples, each with its database id, as a frame of rows."""
    listed = list(records)
    columns = _columns_of({sample.shape for _, sample in listed})
    frame = pd.DataFrame({"row_id": pd.Series([row_id for row_id, _ in listed], dtype="int64")})
    frame["shape"] = object_series([sample.shape for _, sample in listed])
    for column in columns:
        frame[column] = object_series([sample.content.get(column) for _, sample in listed])
    frame[GROUP_COLUMN] = object_series([sample.group for _, sample in listed])
    frame[TIMESTAMP_COLUMN] = object_series([sample.timestamp for _, sample in listed])
    frame[WEIGHT_COLUMN] = object_series([sample.weight for _, sample in listed])
    return frame


def object_series(values: Sequence[Any], index: Any = None) -> pd.Series:
    """Return `values` as a column of Python objects; None stays None."""
    return pd.Series(list(values), dtype=object, index=index)


def texts_of(row: Mapping[str, Any]) -> list[str]:
    """Return all texts of one row that a model can learn from, in the order of the shape's columns.

    Labels, scores and vectors are no texts. The contents of `messages` come in the order of the conversation.
    """
    texts: list[str] = []
    for column in shape_named(row["shape"]).columns:
        value = row.get(column)
        if value is None:
            continue
        if column_type(column) is ColumnType.MESSAGES:
            texts.extend(message["content"] for message in value)
        elif column_type(column) is ColumnType.TEXT:
            texts.append(value)
    return texts


def texts_of_rows(rows: pd.DataFrame) -> list[list[str]]:
    """Return `texts_of` each row, in the frame's order."""
    wanted = rows[["shape", *content_columns(rows)]]
    return [texts_of(record) for record in wanted.to_dict("records")]


def rows_of_kind(rows: pd.DataFrame, kind: SampleKind) -> bool:
    """Whether every row has a shape of that kind."""
    return all(shape_named(name).kind == kind for name in set(rows["shape"]))


def records_of(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return each row as a dict without its absent values."""
    return [
        {
            str(name): value
            for name, value in record.items()
            if value is not None and value is not pd.NA
        }
        for record in rows.to_dict("records")
    ]


def rows_digest(rows: pd.DataFrame) -> str:
    """Return the SHA-256 (hex) of what the rows teach, equal for equal rows whatever their ids and timestamps."""
    beside = ["row_id", TIMESTAMP_COLUMN]
    if WEIGHT_COLUMN in rows and rows[WEIGHT_COLUMN].isna().all():
        beside.append(WEIGHT_COLUMN)
    content = rows.drop(columns=beside, errors="ignore").to_dict("records")
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def rows_of_shapes(rows: pd.DataFrame, names: Collection[str]) -> pd.DataFrame:
    """Return the rows of some shapes, without the columns of the others."""
    wanted = ("row_id", "shape", *_columns_of(set(names)), *COMMON_COLUMNS)
    columns = [column for column in wanted if column in rows]
    return rows.loc[rows["shape"].isin(list(names)), columns].reset_index(drop=True)


def shown(value: Any, mask: Callable[[str], str] = str) -> str | None:
    """Return a value, whatever it is, as a set-aside frame keeps it; None for an absent one.

    Args:
        value: The value.
        mask: Replaces personal data in a text.
    """
    if value is None:
        return None
    try:
        masked = _masked(value, mask)
    except RecursionError:
        masked = type(value).__name__
    text = masked if isinstance(masked, str) else repr(masked)
    return text if len(text) < _KEPT_CHARACTERS else text[:_KEPT_CHARACTERS] + "..."


def _masked(value: Any, mask: Callable[[str], str]) -> Any:
    """Return a value with every text in it masked by itself: escaped inside a longer one it isn't recognised."""
    if isinstance(value, str):
        # far more than is kept is masked: what is cut through here would not be recognised
        return mask(value[: 10 * _KEPT_CHARACTERS].encode("utf-8", "replace").decode())
    if isinstance(value, list | tuple):
        return [_masked(each, mask) for each in value]
    if isinstance(value, dict):
        return {
            _masked(key, mask) if isinstance(key, str) else key: _masked(each, mask)
            for key, each in value.items()
        }
    return value


def content_text(record: Mapping[str, Any], mask: Callable[[str], str] = str) -> str:
    """Return the content of a valid row as JSON, as a set-aside frame keeps it; `mask` replaces personal data."""

    def masked(value: Any) -> Any:
        if isinstance(value, str):
            return mask(value)
        if isinstance(value, list | tuple) and value and isinstance(value[0], dict):
            return [{"role": turn["role"], "content": mask(turn["content"])} for turn in value]
        return value.tolist() if isinstance(value, np.ndarray) else value

    columns = shape_named(record["shape"]).columns
    present = {
        column: masked(record[column]) for column in columns if record.get(column) is not None
    }
    text = json.dumps(present, ensure_ascii=False, default=repr)
    return text if len(text) < _KEPT_CHARACTERS else text[:_KEPT_CHARACTERS] + "..."


def set_aside_frame(
    step: str, lines: Iterable[tuple[int, str, str | None, str | None]] = ()
) -> pd.DataFrame:
    """Return a set-aside frame from lines of (row_id, reason, before, after)."""
    listed = list(lines)
    frame = pd.DataFrame({"row_id": pd.Series([line[0] for line in listed], dtype="int64")})
    frame["step"] = object_series([step] * len(listed))
    for position, column in enumerate(SET_ASIDE_COLUMNS[2:], start=1):
        frame[column] = object_series([line[position] for line in listed])
    return frame


def _columns_of(shape_names: set[str]) -> list[str]:
    columns: list[str] = []
    for name in shape_names:
        shape_named(name)
    for shape in all_shapes():
        if shape.name in shape_names:
            columns.extend(column for column in shape.columns if column not in columns)
    return columns
