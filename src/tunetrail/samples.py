"""The vocabulary of samples: their kinds, their shapes, and the check that turns a row into a sample.

A shape is found from the columns of a row and never guessed from its content. Knows nothing of files or databases.
"""

import difflib
import hashlib
import json
import math
import numbers
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from enum import StrEnum
from functools import lru_cache
from typing import Any

from tunetrail.errors import SampleError, did_you_mean


class SampleKind(StrEnum):
    """What a sample teaches: an embedding model or a language model."""

    EMBEDDING = "embedding"
    LLM = "llm"


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleShape:
    """One set of columns that a sample may have."""

    name: str
    kind: SampleKind
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Required columns, then the optional ones."""
        return self.required + self.optional


SHAPES = (
    SampleShape(
        name="pair",
        kind=SampleKind.EMBEDDING,
        required=("anchor", "positive"),
        optional=("negative",),
    ),
    SampleShape(
        name="score", kind=SampleKind.EMBEDDING, required=("sentence1", "sentence2", "score")
    ),
    SampleShape(name="label", kind=SampleKind.EMBEDDING, required=("text", "label")),
    SampleShape(name="vector", kind=SampleKind.EMBEDDING, required=("text", "embedding")),
    SampleShape(name="text", kind=SampleKind.EMBEDDING, required=("text",)),
    SampleShape(name="completion", kind=SampleKind.LLM, required=("input", "output")),
    SampleShape(name="chat", kind=SampleKind.LLM, required=("messages",)),
    SampleShape(name="document", kind=SampleKind.LLM, required=("text",)),
    SampleShape(name="preference", kind=SampleKind.LLM, required=("prompt", "chosen", "rejected")),
)
GROUP_COLUMN = "group"
TIMESTAMP_COLUMN = "timestamp"
WEIGHT_COLUMN = "weight"
COMMON_COLUMNS = (GROUP_COLUMN, TIMESTAMP_COLUMN, WEIGHT_COLUMN)
"""Columns that a row of any shape may have besides its content."""
ROLES = ("system", "user", "assistant", "tool")

_UNIX_TEXT = re.compile(r"[0-9]{9,10}(\.[0-9]{1,9})?|[0-9]{12,13}")
"""Seconds or milliseconds. Other lengths are left to ISO 8601: 20261124 is a date, 20261124120000 nothing."""
_LEAST_MILLISECONDS = 1e11
"""In seconds this would be the year 5138."""
_WITH_AN_ABSENT_VALUE = (float, datetime)
"""NaN, and pandas' NaT. Equal to nothing, not even to themselves."""
_LONGEST_MISSPELLING = 64
_HARDLY_MISSPELT = (TIMESTAMP_COLUMN, WEIGHT_COLUMN)
_THEIR_LIKENESS = 0.88
"""Higher than for other columns: `time`, `created_timestamp` and `height` are columns in their own right."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One row to learn from.

    Attributes:
        kind: What it teaches.
        shape: The name of its shape in `SHAPES`.
        content: The values of the shape's columns, JSON-serialisable.
        group: Rows of one group stay on one side of every split.
        timestamp: When it was made: ISO 8601 in UTC, as `checked_timestamp` returns it.
        weight: What it counts in training beside the others, above 0; None for 1.
        metadata: Columns that no shape knows; kept, never trained on.
    """

    kind: SampleKind
    shape: str
    content: Mapping[str, Any]
    group: str | None = None
    timestamp: str | None = None
    weight: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of kind, content and group: equal for equal samples, whenever made and however weighted."""
        text = json.dumps(
            [str(self.kind), dict(self.content), self.group], sort_keys=True, ensure_ascii=True
        )
        return hashlib.sha256(text.encode()).hexdigest()


def shape_named(name: str, kind: SampleKind) -> SampleShape:
    """Return the shape of that name and kind; raises `SampleError` for an unknown name."""
    for shape in SHAPES:
        if shape.name == name and shape.kind == kind:
            return shape
    known = [shape.name for shape in SHAPES if shape.kind == kind]
    raise SampleError(
        f"shape must be one of {', '.join(known)} for {kind} samples, got {name!r}.{did_you_mean(name, known)}"
    )


def find_shape(columns: Iterable[str], kind: SampleKind) -> SampleShape:
    """Return the shape of `kind` that has the most of these columns.

    Raises:
        SampleError: No shape of that kind has all its required columns here.
    """
    present = set(columns)
    fitting = [
        shape for shape in SHAPES if shape.kind == kind and present.issuperset(shape.required)
    ]
    if not fitting:
        shapes = "; ".join(", ".join(shape.required) for shape in SHAPES if shape.kind == kind)
        known = [column for shape in SHAPES if shape.kind == kind for column in shape.columns]
        unknown = sorted(present - set(known))
        hint = next((hint for column in unknown if (hint := did_you_mean(column, known))), "")
        raise SampleError(
            f"columns must hold one of [{shapes}] for {kind} samples, got [{', '.join(sorted(present))}].{hint}"
        )
    return max(fitting, key=lambda shape: len(shape.required))


def parse_sample(row: Mapping[str, Any], kind: SampleKind) -> Sample:
    """Check one row and return it as a sample; empty texts pass here and are set aside by the validation step.

    A value of None (or NaN outside `score`) counts as an absent column. Columns of no shape are kept as metadata.

    Raises:
        SampleError: A column is missing, misspelt or of the wrong type; the message is the reason kept with the row.
    """
    present = {str(column): value for column, value in row.items() if not _is_absent(value)}
    shape = find_shape(present, kind)
    content = {
        column: _checked(column, present[column]) for column in shape.columns if column in present
    }
    group = present.get(GROUP_COLUMN)
    if group is not None and not isinstance(group, str | int):
        raise SampleError(f"group must be a string or an integer, got {type(group).__name__}.")
    timestamp, weight = present.get(TIMESTAMP_COLUMN), present.get(WEIGHT_COLUMN)
    known = (*shape.columns, *COMMON_COLUMNS)
    rest = {column: value for column, value in present.items() if column not in known}
    if rest:
        absent = tuple(name for name in (*shape.optional, *COMMON_COLUMNS) if name not in present)
        for column in rest:
            hint = _near_miss(column, absent) if len(column) <= _LONGEST_MISSPELLING else ""
            if hint:
                raise SampleError(f"column {column!r} is unknown.{hint} Rename or remove it.")
    return Sample(
        kind=kind,
        shape=shape.name,
        content=content,
        group=None if group is None else str(group),
        timestamp=None if timestamp is None else checked_timestamp(timestamp),
        weight=None if weight is None else _checked_weight(weight),
        metadata=rest,
    )


def checked_timestamp(value: Any, column: str = TIMESTAMP_COLUMN) -> str:
    """Return a moment as ISO 8601 in UTC, such as `2026-11-24T12:00:00+00:00`; these texts sort as their moments do.

    Args:
        value: ISO 8601 (UTC where it names no zone), a date or datetime, or Unix seconds: milliseconds above 1e11.
            Text of 9 or 10 digits counts as seconds, of 12 or 13 as milliseconds.
        column: What the error is to call it.

    Raises:
        SampleError: It's none of these, or outside the years 1 to 9999.
    """
    try:
        return _moment(value).astimezone(UTC).isoformat()
    except (ValueError, OverflowError, OSError) as error:
        raise SampleError(
            f"{column} must be ISO 8601, Unix seconds or milliseconds, got {_shortened(value)}. "
            "Write it like 2026-11-24T12:00:00+00:00, or leave it out."
        ) from error


def _moment(value: Any) -> datetime:
    if isinstance(value, str):
        text = value.strip()
        value = float(text) if _UNIX_TEXT.fullmatch(text) else datetime.fromisoformat(text)
    if isinstance(value, date):
        # Taken apart, so that subclasses with nanoseconds (pandas) become plain datetimes.
        clock = value.timetz() if isinstance(value, datetime) else time()
        moment = datetime.combine(value.date() if isinstance(value, datetime) else value, clock)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError("no moment")
    number = float(value)
    return datetime.fromtimestamp(
        number / 1000 if abs(number) > _LEAST_MILLISECONDS else number, UTC
    )


@lru_cache(maxsize=1024)
def _near_miss(column: str, absent: tuple[str, ...]) -> str:
    """Return the hint for a column that seems to be one of the absent ones, misspelt."""
    strict = [name for name in absent if name in _HARDLY_MISSPELT]
    hint = did_you_mean(column, [name for name in absent if name not in strict])
    return hint or did_you_mean(
        column, difflib.get_close_matches(column, strict, cutoff=_THEIR_LIKENESS)
    )


def _is_absent(value: Any) -> bool:
    return value is None or (isinstance(value, _WITH_AN_ABSENT_VALUE) and value != value)


def _checked(column: str, value: Any) -> Any:
    if column == "score":
        return _checked_number(column, value)
    if column == "embedding":
        return _checked_vector(value)
    if column == "messages":
        return _checked_messages(value)
    if column == "label" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise SampleError(
            f"{column} must be a string, got {type(value).__name__} ({_shortened(value)})."
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise SampleError(
            f"{column} must be valid Unicode, got a lone surrogate at {error.start}."
        ) from error
    return value


def _checked_number(column: str, value: Any) -> float:
    try:
        number = (
            math.nan
            if isinstance(value, bool) or not isinstance(value, int | float)
            else float(value)
        )
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise SampleError(f"{column} must be a finite number, got {_shortened(value)}.")
    return number


def _checked_weight(value: Any) -> float:
    weight = _checked_number(WEIGHT_COLUMN, value)
    if weight <= 0.0:
        raise SampleError(
            f"weight must be above 0, got {_shortened(value)}. Leave the row out, or its weight."
        )
    return weight


def _checked_vector(value: Any) -> list[float]:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, list | tuple) or not value:
        raise SampleError(
            f"embedding must be a non-empty list of numbers, got {_shortened(value)}."
        )
    return [_checked_number("embedding", number) for number in value]


def _checked_messages(value: Any) -> list[dict[str, str]]:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, list | tuple) or not value:
        raise SampleError(
            f"messages must be a non-empty list of {{role, content}}, got {_shortened(value)}."
        )
    messages = []
    for number, message in enumerate(value):
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise SampleError(
                f"messages[{number}] must have role and content, got {_shortened(message)}."
            )
        role, content = message["role"], _checked("messages[].content", message["content"])
        if role not in ROLES:
            raise SampleError(
                f"messages[{number}].role must be one of {', '.join(ROLES)}, got {role!r}."
            )
        messages.append({"role": role, "content": content})
    if all(message["role"] != "assistant" for message in messages):
        raise SampleError("messages must have an assistant turn to learn from, got none.")
    return messages


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """A piece of a row that nothing is learnt from, on purpose; kept beside the malformed rows.

    Attributes:
        kind: What it could have taught.
        row: The piece.
        reason: Why it's left out.
    """

    kind: SampleKind
    row: Mapping[str, Any]
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BrokenRow:
    """A piece of a file that is no row at all, such as a line of broken JSON.

    Attributes:
        text: The piece as it was read.
        reason: What is wrong with it and where.
    """

    text: str
    reason: str
