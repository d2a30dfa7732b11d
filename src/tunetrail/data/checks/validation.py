"""Validation of rows, each by itself: what can't be learnt from is set aside, what is odd is flagged. Repairs nothing.

Judgements that need the whole session (contradictions, outliers, drift) are in `session_checks`.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pandera

from tunetrail.config import CheckConfig, ValidationConfig
from tunetrail.data.checks.turns import disorder
from tunetrail.data.rows import (
    content_text,
    object_series,
    set_aside_frame,
    shown,
    texts_of,
)
from tunetrail.data.texts import encoding
from tunetrail.samples import (
    COMMON_COLUMNS,
    GROUP_COLUMN,
    TIMESTAMP_COLUMN,
    WEIGHT_COLUMN,
    ColumnType,
    SampleKind,
    SampleShape,
    column_type,
    shape_named,
    shapes_of_kind,
)
from tunetrail.samples.values import ROLES

FLAG_COLUMNS = ("row_id", "check", "detail")
_OF_VALID_ROWS = ("rows.constant", "rows.encoding")
_MISSING = "not_nullable"
_SEPARATOR = "\t"


@dataclass(frozen=True, kw_only=True)
class CheckedRows:
    """Rows after validation.

    Attributes:
        rows: Rows that passed, in their order.
        set_aside: One line for each row that failed, with all its reasons.
        flags: One line (`row_id`, `check`, `detail`) for each row and check that it is concerned by, set aside or not.
    """

    rows: pd.DataFrame
    set_aside: pd.DataFrame
    flags: pd.DataFrame


def check_rows(
    rows: pd.DataFrame,
    kind: SampleKind,
    config: ValidationConfig,
    mask: Callable[[str], str] = lambda text: text,
) -> CheckedRows:
    """Check every row of a frame, whatever its values, and set aside those that fail.

    A blank `negative` counts as an absent one, because CSV files can't tell the two apart.

    Args:
        rows: A frame of rows; missing columns are missing in every row.
        kind: What the rows teach; rows of another kind's shapes are set aside.
        config: Which checks there are, and what they do.
        mask: Replaces personal data in what is kept of a row that is set aside.
    """
    rows = _with_all_columns(rows.reset_index(drop=True), kind)
    found: dict[int, list[tuple[str, str, Any]]] = defaultdict(list)
    shapes = {shape.name for shape in shapes_of_kind(kind)}
    of_shape: dict[str, list[int]] = defaultdict(list)
    for position, name in enumerate(rows["shape"]):
        if isinstance(name, str) and name in shapes:
            of_shape[name].append(position)
        else:
            found[position].append(
                ("rows.wrong_type", f"shape is not one of {', '.join(sorted(shapes))}", name)
            )
    for name, positions in of_shape.items():
        for position, check, reason, value in _failures(
            rows.loc[positions], shape_named(name), config
        ):
            found[position].append((check, reason, value))
    unusable = {
        position
        for position, failed in found.items()
        if any(_sets_aside(check, config) for check, *_ in failed)
    }
    records = rows.to_dict("records")
    for position in (each for each in range(len(rows)) if each not in unusable):
        for check, detail in _oddities(records[position], config):
            found[position].append((check, detail, None))
            if _sets_aside(check, config):
                unusable.add(position)
    ids = rows["row_id"].tolist()
    lines = [
        (position, [line for line in found[position] if _sets_aside(line[0], config)])
        for position in sorted(unusable)
    ]
    return CheckedRows(
        rows=_with_floats(rows.drop(index=sorted(unusable)).reset_index(drop=True)),
        set_aside=set_aside_frame(
            "validation",
            [
                (
                    ids[position],
                    "; ".join(reason for _, reason, _ in failed),
                    _before(records[position], failed, mask),
                    None,
                )
                for position, failed in lines
            ],
        ),
        flags=flag_frame(
            (ids[position], check, reason)
            for position, failed in found.items()
            for check, reason, _ in failed
        ),
    )


def flag_frame(
    lines: "Iterator[tuple[int, str, str]] | list[tuple[int, str, str]]",
) -> pd.DataFrame:
    """Return flags, lines of (row_id, check, detail), as a frame."""
    listed = list(lines)
    frame = pd.DataFrame({"row_id": pd.Series([line[0] for line in listed], dtype="int64")})
    for position, column in enumerate(FLAG_COLUMNS[1:], start=1):
        frame[column] = object_series([line[position] for line in listed])
    return frame


def check_config(check: str, config: ValidationConfig) -> CheckConfig:
    """Return the configuration of a check named `group.name`."""
    group, _, name = check.partition(".")
    found = getattr(getattr(config, group), name)
    assert isinstance(found, CheckConfig)
    return found


def _sets_aside(check: str, config: ValidationConfig) -> bool:
    return check_config(check, config).set_aside


def _before(
    record: dict[Any, Any], failed: list[tuple[str, str, Any]], mask: Callable[[str], str]
) -> str | None:
    check, _, value = failed[0]
    if check in _OF_VALID_ROWS:
        return content_text(record, mask)
    if value is not None:
        return shown(value, mask)
    rest = {
        column: shown(each, mask)
        for column, each in record.items()
        if column not in ("row_id", "shape")
    }
    return shown(
        json.dumps(
            {column: text for column, text in rest.items() if text is not None}, ensure_ascii=False
        )
    )


def _with_all_columns(rows: pd.DataFrame, kind: SampleKind) -> pd.DataFrame:
    """Return the rows with every column of their kind; what is absent, or of another shape than the row, is None."""
    shapes = shapes_of_kind(kind)
    names = rows["shape"] if "shape" in rows else [None] * len(rows)
    columns: dict[str, pd.Series] = {"row_id": rows["row_id"], "shape": object_series(names)}
    for column in dict.fromkeys(column for shape in shapes for column in shape.columns):
        foreign = {shape.name for shape in shapes if column not in shape.columns}
        values = rows[column] if column in rows else [None] * len(rows)
        columns[column] = object_series(
            [
                None
                if _is_absent(value, column) or (isinstance(name, str) and name in foreign)
                else value
                for value, name in zip(values, names, strict=True)
            ]
        )
    for column in COMMON_COLUMNS:
        values = rows[column] if column in rows else [None] * len(rows)
        columns[column] = object_series(
            [None if _is_absent(value, column) else value for value in values]
        )
    rest = {str(column): rows[column] for column in rows.columns if str(column) not in columns}
    return pd.DataFrame({**columns, **rest})


def _is_absent(value: Any, column: str) -> bool:
    if column == "negative" and isinstance(value, str) and not value.strip():
        return True
    return value is None or (isinstance(value, float) and value != value)


def _with_floats(rows: pd.DataFrame) -> pd.DataFrame:
    """Return valid rows with numbers as floats: JSON knows one kind of them, row files and hashes know several."""
    columns: dict[str, pd.Series] = {}
    for column in ("score", WEIGHT_COLUMN):
        if column in rows:
            columns[column] = object_series([_as_float(number) for number in rows[column]])
    if "embedding" in rows:
        vectors = [
            [_as_float(each) for each in value] if _is_vector(value) else value
            for value in rows["embedding"]
        ]
        columns["embedding"] = object_series(vectors)
    return rows.assign(**columns)


def _as_float(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, int | float | np.number) else value
    except OverflowError:  # stays in a row only if the check for it is off
        return math.inf if value > 0 else -math.inf


def _failures(
    rows: pd.DataFrame, shape: SampleShape, config: ValidationConfig
) -> Iterator[tuple[int, str, str, Any]]:
    """Yield (position in the frame, check, reason, offending value) for each failed check of rows of one shape."""
    try:
        _schema(shape, config).validate(_with_readable_texts(rows, shape), lazy=True)
    except pandera.errors.SchemaErrors as error:
        for case in error.failure_cases.to_dict("records"):
            position, column = int(case["index"]), case["column"]
            if case["check"] == _MISSING:
                yield position, "rows.missing", f"{column} is missing", None
            else:
                check, _, reason = str(case["check"]).partition(_SEPARATOR)
                yield position, check, reason, rows.at[position, column]


def _with_readable_texts(rows: pd.DataFrame, shape: SampleShape) -> pd.DataFrame:
    """Return the rows with something that is no text where pandera would stumble over broken Unicode."""
    columns = {}
    for column in (*shape.columns, *COMMON_COLUMNS):
        broken = [isinstance(value, str) and not _is_text(value) for value in rows[column]]
        if any(broken):
            values = [
                b"" if is_broken else value
                for is_broken, value in zip(broken, rows[column], strict=True)
            ]
            columns[column] = object_series(values, rows.index)
    return rows.assign(**columns) if columns else rows


def _schema(shape: SampleShape, config: ValidationConfig) -> Any:
    columns: dict[str, Any] = {
        "row_id": pandera.Column(int),
        GROUP_COLUMN: _column(
            [("rows.wrong_type", "group is not a string", _is_text)], config, nullable=True
        ),
        TIMESTAMP_COLUMN: _column(
            [("rows.wrong_type", "timestamp is not a time in ISO 8601", _is_time)],
            config,
            nullable=True,
        ),
        WEIGHT_COLUMN: _column(
            [("rows.wrong_type", "weight is not a number above 0", _is_weight)],
            config,
            nullable=True,
        ),
    }
    for column in shape.columns:
        columns[column] = _column(
            _column_checks(column, config), config, nullable=column not in shape.required
        )
    return pandera.DataFrameSchema(columns)


_Check = tuple[str, str, Callable[[Any], bool]]


def _column(checks: list[_Check], config: ValidationConfig, *, nullable: bool) -> Any:
    active = [
        pandera.Check(holds, element_wise=True, error=f"{name}{_SEPARATOR}{reason}")
        for name, reason, holds in checks
        if check_config(name, config).severity != "off"
    ]
    return pandera.Column(checks=active, nullable=nullable)


def _column_checks(column: str, config: ValidationConfig) -> list[_Check]:
    if column_type(column) is ColumnType.NUMBER:
        return [("rows.wrong_type", f"{column} is not a finite number", _is_finite_number)]
    if column_type(column) is ColumnType.VECTOR:
        return [
            ("rows.wrong_type", f"{column} is not a non-empty list of numbers", _is_vector),
            (
                "vectors.not_finite",
                f"{column} holds numbers that are not finite",
                _unless(_is_vector, _is_finite),
            ),
            (
                "vectors.zero_norm",
                f"{column} has a norm of zero",
                _unless(_is_vector, lambda value: bool(np.any(value))),
            ),
        ]
    if column_type(column) is ColumnType.MESSAGES:
        return [
            ("rows.wrong_type", f"{column} is not a list of {{role, content}}", _is_conversation),
            (
                "rows.empty",
                f"{column} has no assistant turn with text",
                _unless(_is_conversation, partial(_has_text_by, "assistant")),
            ),
            (
                "conversations.turn_order",
                f"{column} has turns out of order",
                _unless(_is_conversation, lambda value: disorder(value) is None),
            ),
            *_length_checks(column, config, _conversation_text),
        ]
    checks: list[_Check] = [
        ("rows.wrong_type", f"{column} is not a string of valid Unicode", _is_text),
        ("rows.empty", f"{column} is empty", _unless(_is_text, lambda value: bool(value.strip()))),
    ]
    return (
        [*checks, *_length_checks(column, config, _text_or_none)]
        if column_type(column) is ColumnType.TEXT
        else checks
    )


def _length_checks(
    column: str, config: ValidationConfig, text_of: Callable[[Any], str | None]
) -> list[_Check]:
    def long_enough(value: Any) -> bool:
        text = text_of(value)
        return text is None or not text.strip() or len(text.strip()) >= config.min_characters

    def short_enough(value: Any) -> bool:
        text = text_of(value)
        return text is None or len(text) <= config.max_characters

    return [
        (
            "rows.too_short",
            f"{column} is shorter than {config.min_characters} characters",
            long_enough,
        ),
        (
            "rows.too_long",
            f"{column} is longer than {config.max_characters} characters",
            short_enough,
        ),
    ]


def _unless(applies: Callable[[Any], bool], holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return a check that passes what another check has already refused."""
    return lambda value: not applies(value) or holds(value)


def _is_text(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _is_time(value: Any) -> bool:
    try:
        return isinstance(value, str) and datetime.fromisoformat(value) is not None
    except ValueError:
        return False


def _is_finite_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return False
    try:
        return bool(np.isfinite(float(value)))
    except OverflowError:
        return False


def _is_weight(value: Any) -> bool:
    return _is_finite_number(value) and float(value) > 0.0


def _is_vector(value: Any) -> bool:
    if not isinstance(value, list | tuple | np.ndarray) or len(value) == 0:
        return False
    return all(
        isinstance(number, int | float | np.number) and not isinstance(number, bool)
        for number in value
    )


def _is_finite(value: Any) -> bool:
    return all(_is_finite_number(number) for number in value)


def _is_conversation(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(
            isinstance(turn, dict) and turn.get("role") in ROLES and _is_text(turn.get("content"))
            for turn in value
        )
    )


def _has_text_by(role: str, value: Any) -> bool:
    return any(turn["role"] == role and turn["content"].strip() for turn in value)


def _conversation_text(value: Any) -> str | None:
    return "\n".join(turn["content"] for turn in value) if _is_conversation(value) else None


def _oddities(record: dict[str, Any], config: ValidationConfig) -> Iterator[tuple[str, str]]:
    """Yield (check, detail) for what is odd in a row that can be learnt from."""
    if config.rows.constant.severity != "off":
        reason = _constant(record)
        if reason is not None:
            yield "rows.constant", reason
    if config.rows.encoding.severity != "off":
        reason = next(
            (reason for text in texts_of(record) if (reason := encoding.damage(text)) is not None),
            None,
        )
        if reason is not None:
            yield "rows.encoding", reason


_CONSTANT_FROM_WORDS = 4


def _constant(record: dict[str, Any]) -> str | None:
    """Return why nothing can be learnt from a row: its two sides are equal, or a text is one word again and again."""
    shape = shape_named(record["shape"])
    if shape.distinct is not None:
        first, second = shape.distinct
        if record[first].strip() == record[second].strip():
            return f"{first} equals {second}"
    # An answer may well be rejected for being one word again and again.
    rejected = {shape.target[1]: None} if shape.is_preference else {}
    for text in texts_of({**record, **rejected}):
        words = text.split()
        if len(words) >= _CONSTANT_FROM_WORDS and len(set(words)) == 1:
            return f"a text is one word, {len(words)} times"
    return None
