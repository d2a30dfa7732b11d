"""Rows: the pandas form of samples that every data step takes and returns.

A frame of rows has a RangeIndex and the columns `row_id` (int64, the sample's id in the database),
`shape` (the name of a registered shape), the content columns of the shapes present (absent values
are None), `group` (str or None), `timestamp` (ISO 8601 in UTC, or None) and `weight` (a float above
0, or None). All columns except `row_id` have the object dtype, because pandas' own text dtype would
turn None into NaN.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from tunetrail.fingerprints import value_fingerprint
from tunetrail.samples import (
    COMMON_COLUMNS,
    GROUP_COLUMN,
    TIMESTAMP_COLUMN,
    TOOLS_COLUMN,
    WEIGHT_COLUMN,
    ColumnType,
    Sample,
    all_shapes,
    column_type,
    holds_turns,
    shape_named,
)
from tunetrail.samples.messages import map_json_texts, map_texts

SET_ASIDE_COLUMNS = ("row_id", "step", "reason", "before", "after")
"""Columns of a set-aside frame: a line for each row that a step took out or changed."""

SESSION_COLUMN = "session"
"""Column with the session of a row, in frames with rows of several sessions."""

# Characters of a row in a set-aside frame; the database holds the whole row.
_SHOWN_CHARACTERS = 20_000


def content_columns(rows: pd.DataFrame) -> list[str]:
    """Return the content columns of the shapes that are present in `rows`."""
    return _columns_of(set(rows["shape"]))


def rows_frame(records: Iterable[tuple[int, Sample]]) -> pd.DataFrame:
    """Return samples, each with its database id, as a frame of rows."""
    pairs = list(records)
    row_ids = [row_id for row_id, _ in pairs]
    samples = [sample for _, sample in pairs]

    frame = pd.DataFrame({"row_id": pd.Series(row_ids, dtype="int64")})
    frame["shape"] = object_series([sample.shape for sample in samples])
    for column in _columns_of(set(frame["shape"])):
        frame[column] = object_series([sample.content.get(column) for sample in samples])
    for column in (GROUP_COLUMN, TIMESTAMP_COLUMN, WEIGHT_COLUMN):
        frame[column] = object_series([getattr(sample, column) for sample in samples])
    return frame


def stacked_rows(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return frames of rows one below the other; a column that a frame lacks is None there."""
    columns = list(dict.fromkeys(column for frame in frames for column in frame.columns))
    whole_frames = []
    for frame in frames:
        absent = [column for column in columns if column not in frame]
        # pandas itself would make NaN of absent values.
        nothing = {column: object_series([None] * len(frame), frame.index) for column in absent}
        whole_frames.append(frame.assign(**nothing)[columns])
    filled = [frame for frame in whole_frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else whole_frames[0]


def rows_of_sessions(rows: pd.DataFrame, session_ids: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Return the rows of each session; without a column for it, all are of the only session."""
    if SESSION_COLUMN not in rows:
        return {session_ids[0]: rows}
    names = rows[SESSION_COLUMN]
    return {session_id: rows[names == session_id] for session_id in session_ids}


def weighted_rows(rows: pd.DataFrame, weights: Mapping[str, float], seed: int) -> pd.DataFrame:
    """Return rows in their order, each as often as its session's weight says.

    Args:
        rows: Rows with RangeIndex.
        weights: The weight of each session; of a fraction, as large a share of the rows is drawn.
        seed: Decides which rows are drawn.
    """
    indices = []
    for weight, session_rows in zip(
        weights.values(), rows_of_sessions(rows, list(weights)).values(), strict=True
    ):
        whole, fraction = divmod(weight, 1.0)
        indices += [session_rows.index.to_numpy()] * int(whole)
        indices.append(session_rows.sample(frac=fraction, random_state=seed).index.to_numpy())
    return rows.iloc[np.sort(np.concatenate(indices))].reset_index(drop=True)


def object_series(values: Sequence[Any], index: Any = None) -> pd.Series:
    """Return `values` as a column of Python objects; None stays None."""
    return pd.Series(list(values), dtype=object, index=index)


def texts_of(row: Mapping[str, Any]) -> list[str]:
    """Return all texts of one row that a model can learn from, in the order of the shape's columns.

    Labels, scores and vectors are not texts. The turns of `messages` are in their own order.
    """
    texts: list[str] = []
    for column in shape_named(row["shape"]).columns:
        value = row.get(column)
        if value is None:
            continue
        if holds_turns(column):
            texts.extend(message["content"] for message in value)
        elif column_type(column) is ColumnType.TEXT:
            texts.append(value)
    return texts


def texts_of_rows(rows: pd.DataFrame) -> list[list[str]]:
    """Return `texts_of` each row, in the frame's order."""
    return list(map(texts_of, plain_records(rows[["shape", *content_columns(rows)]])))


def plain_records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return each row as a dict, several times as fast as pandas does.

    Values of an object column come as they are; of any other column, as Python's own types.
    """
    names = list(map(str, rows))
    columns = [rows[name].tolist() for name in rows]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def records_of(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return each row as a dict without its absent values."""
    return list(map(_without_absent, rows.to_dict("records")))


def _without_absent(record: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        str(name): value
        for name, value in record.items()
        if value is not None and value is not pd.NA
    }


def rows_digest(rows: pd.DataFrame) -> str:
    """Return the SHA-256 (hex) of the rows' content, whatever their ids and timestamps."""
    ignored = ["row_id", TIMESTAMP_COLUMN]
    # Sessions without these columns keep the digest that they had before there were any.
    for column in (WEIGHT_COLUMN, TOOLS_COLUMN):
        if column in rows and rows[column].isna().all():
            ignored.append(column)
    content = rows.drop(columns=ignored, errors="ignore").to_dict("records")
    return value_fingerprint(content)


def content_digest(rows: pd.DataFrame) -> str:
    """Return the SHA-256 (hex) of what the rows say, whatever a preparation has added to them."""
    return value_fingerprint(rows[["shape", *content_columns(rows)]].to_dict("records"))


def rows_of_shapes(rows: pd.DataFrame, names: Collection[str]) -> pd.DataFrame:
    """Return the rows of some shapes, without the columns of other shapes."""
    possible = ("row_id", "shape", *_columns_of(set(names)), *COMMON_COLUMNS)
    columns = [column for column in possible if column in rows]
    return rows.loc[rows["shape"].isin(list(names)), columns].reset_index(drop=True)


def shown(value: Any, mask: Callable[[str], str] = str) -> str | None:
    """Return a value of any type as a set-aside frame shows it; None for an absent value.

    Args:
        value: The value.
        mask: Replaces personal data in a text.
    """
    if value is None:
        return None
    try:
        # Rows that weren't validated may be nested more deeply than Python's stack.
        masked = _mask_texts(value, mask)
    except RecursionError:
        masked = type(value).__name__
    return _shorten(masked if isinstance(masked, str) else repr(masked))


def _shorten(text: str) -> str:
    return text if len(text) < _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."


def _mask_texts(value: Any, mask: Callable[[str], str]) -> Any:
    """Return a value with each text in it masked by itself.

    Escaped within a longer text, personal data would not be recognised.
    """
    if isinstance(value, str):
        # Mask far more than is shown, because data that is cut in two would not be recognised.
        return mask(value[: 10 * _SHOWN_CHARACTERS].encode("utf-8", "replace").decode())
    if isinstance(value, list | tuple):
        return [_mask_texts(element, mask) for element in value]
    if not isinstance(value, dict):
        return value

    masked = {}
    for key, element in value.items():
        # An address book has personal data in its keys.
        masked_key = _mask_texts(key, mask) if isinstance(key, str) else key
        masked[masked_key] = _mask_texts(element, mask)
    return masked


def content_text(record: Mapping[str, Any], mask: Callable[[str], str] = str) -> str:
    """Return the content of a valid row as JSON, as a set-aside frame shows it.

    Args:
        record: The row.
        mask: Replaces personal data in a text.
    """
    content: dict[str, Any] = {}
    for column in shape_named(record["shape"]).columns:
        value = record.get(column)
        if isinstance(value, str):
            is_json = column_type(column) is ColumnType.TOOLS
            content[column] = map_json_texts(value, mask) if is_json else mask(value)
        elif value is not None and holds_turns(column):
            content[column] = [map_texts(turn, mask) for turn in value]
        elif value is not None:
            content[column] = value.tolist() if isinstance(value, np.ndarray) else value
    return _shorten(json.dumps(content, ensure_ascii=False, default=repr))


def set_aside_frame(
    step: str, lines: Iterable[tuple[int, str, str | None, str | None]] = ()
) -> pd.DataFrame:
    """Return a set-aside frame from lines of (row_id, reason, before, after)."""
    columns = ("row_id", "reason", "before", "after")
    frame = pd.DataFrame(list(lines), columns=columns, dtype=object)
    frame["row_id"] = frame["row_id"].astype("int64")
    frame.insert(1, "step", object_series([step] * len(frame)))
    return frame


def _columns_of(shape_names: set[str]) -> list[str]:
    """Return the content columns of these shapes; raise `SampleError` for an unknown one."""
    # In the registry's order: the order of a set differs from process to process.
    shapes = set(map(shape_named, shape_names))
    ordered = [shape.columns for shape in all_shapes() if shape in shapes]
    return list(dict.fromkeys(chain.from_iterable(ordered)))
