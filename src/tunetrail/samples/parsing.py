"""Samples: a row with the columns of a known shape becomes a checked sample.

The shape follows from the columns of a row and is never guessed from its content.
"""

import difflib
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache, partial
from typing import Any

from tunetrail.errors import SampleError, did_you_mean
from tunetrail.plain_values import json_string, plain_chat_as_json, texts_as_json
from tunetrail.samples.messages import checked_messages, checked_turns, preference_columns
from tunetrail.samples.shapes import (
    COMMON_COLUMNS,
    GROUP_COLUMN,
    TIMESTAMP_COLUMN,
    TOOLS_COLUMN,
    WEIGHT_COLUMN,
    ColumnType,
    SampleKind,
    SampleShape,
    column_type,
    shape_count,
    shapes_of_kind,
)
from tunetrail.samples.timestamps import checked_timestamp
from tunetrail.samples.tool_calls import checked_tools
from tunetrail.samples.typing import is_converted, typed_value
from tunetrail.samples.values import (
    checked_group,
    checked_label,
    checked_number,
    checked_text,
    checked_vector,
    checked_verdict,
    checked_weight,
)

# What checks and converts a value, by the type of its column.
_CHECKED_VALUE: dict[ColumnType, Callable[[Any, str], Any]] = {
    ColumnType.TEXT: checked_text,
    ColumnType.LABEL: checked_label,
    ColumnType.NUMBER: checked_number,
    ColumnType.VECTOR: checked_vector,
    ColumnType.MESSAGES: checked_messages,
    ColumnType.TURNS: checked_turns,
    ColumnType.TOOLS: checked_tools,
    ColumnType.GROUP: checked_group,
    ColumnType.TIMESTAMP: checked_timestamp,
    ColumnType.WEIGHT: checked_weight,
    ColumnType.VERDICT: checked_verdict,
}

# Made once: `json.dumps` would make an encoder for every value.
_encode_sorted = json.JSONEncoder(sort_keys=True).encode
_TEXT = frozenset((str,))
_NEVER_ABSENT = frozenset((str, list, dict, int, bool))
# Tuples of types are tested faster than unions, which Python makes for each test.
_MAY_BE_ABSENT = (float, datetime)
_LONGEST_MISSPELLING = 64
_RARELY_MISSPELT = (TIMESTAMP_COLUMN, WEIGHT_COLUMN)
# Similarity from which a column counts as one of these two, misspelt. It is higher than for other
# columns, because `time`, `created_timestamp` and `height` are columns in their own right.
_CLOSE_MATCH = 0.88


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One row to learn from.

    Attributes:
        kind: What it teaches.
        shape: The name of its shape.
        content: The values of the shape's columns, JSON-serialisable.
        group: Rows of one group stay on one side of every split.
        timestamp: When it was made: ISO 8601 in UTC, as `checked_timestamp` returns it.
        weight: How much it counts in training, above 0; None for 1, the weight of most samples.
        metadata: Columns that no shape knows; stored, never trained on.
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
        """SHA-256 (hex) of kind, content and group; timestamp and weight don't change it."""
        return self.written()[1]

    def written(self) -> tuple[str | None, str]:
        """Return the content as JSON, and the digest.

        The JSON is None unless all that is in the content is texts or plain turns. It has most of
        its text in common with what the digest is of, and samples are written by the million.
        """
        # The database knows a sample that it has by the digest: its ingredients can't change.
        content = texts_as_json(self.content)
        in_order = content
        if content is None:
            content, in_order = plain_chat_as_json(self.content) or (None, None)
        elif len(self.content) > 1 and list(self.content) != sorted(self.content):
            in_order = texts_as_json(dict(sorted(self.content.items())))

        group = "null" if self.group is None else json_string(self.group)
        in_order = in_order or _encode_sorted(dict(self.content))
        text = f"[{json_string(self.kind)}, {in_order}, {group}]"
        return content, hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """A piece of a row that nothing is learnt from, on purpose; stored with the malformed rows.

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
        source: The file that it is from, empty if unknown.
        position: Its line in text, its row elsewhere; None if unknown.
    """

    text: str
    reason: str
    source: str = ""
    position: int | None = None


class SourceRow(dict[str, Any]):
    """A row that knows the file that it is from, and its position there.

    Attributes:
        source: The file, as messages call it.
        position: The line on which the row begins, as editors count; in files without lines, the
            number of the row from 1.
    """

    __slots__ = ("position", "source")

    def __init__(
        self, values: Mapping[str, Any] | Iterable[tuple[str, Any]], source: str, position: int
    ) -> None:
        dict.__init__(self, values)
        self.source = source
        self.position = position

    def __reduce__(self) -> tuple[Any, ...]:
        # By default, a dict with arguments of its own can't be copied or sent to a worker.
        return SourceRow, (dict(self), self.source, self.position)


def find_shape(columns: Iterable[str], kind: SampleKind) -> SampleShape:
    """Return the shape of `kind` that has the most of these columns.

    Raises:
        SampleError: No shape of that kind has all its required columns here.
    """
    present = set(columns)
    shapes = shapes_of_kind(kind)
    # `text, label` has the columns of a plain text as well: the shape that explains more wins.
    fitting = [shape for shape in shapes if present.issuperset(shape.required)]
    if fitting:
        return max(fitting, key=lambda shape: len(shape.required))

    listed = "; ".join(", ".join(shape.required) for shape in shapes)
    known = [column for shape in shapes for column in shape.columns]
    hints = (did_you_mean(column, known) for column in sorted(present - set(known)))
    raise SampleError(
        f"columns must hold one of [{listed}] for {kind} samples, "
        f"got [{', '.join(sorted(present))}].{next(filter(None, hints), '')}"
    )


def parse_sample(row: Mapping[str, Any], kind: SampleKind) -> Sample:
    """Check one row and return it as a sample.

    A value of None (or NaN outside `score`) counts as an absent column. Columns of no shape become
    metadata. Empty texts pass here and are set aside by the validation step.

    Raises:
        SampleError: A column is missing, misspelt or of the wrong type. The message is the reason
            that is stored with the row.
    """
    return parse_present(present_values(row), kind)


def present_values(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a row, except those that stand for an absent column."""
    # Nearly all rows have names and values of types that need no look at each of them.
    if _TEXT.issuperset(map(type, row)) and _NEVER_ABSENT.issuperset(map(type, row.values())):
        return dict(row)
    return {
        str(column): value
        for column, value in row.items()
        if type(value) in _NEVER_ABSENT or not is_absent(value)
    }


def parse_present(present: dict[str, Any], kind: SampleKind) -> Sample:
    """Do the same as `parse_sample` for the present values of a row."""
    present = _without_message_lists(present, kind)
    return _parse(_find_layout(tuple(present), kind, shape_count()), kind, present)


def parser_of(columns: tuple[str, ...], kind: SampleKind) -> Callable[[dict[str, Any]], Sample]:
    """Return what does the same as `parse_present`, faster, for all rows with these columns."""
    of_any_row = partial(parse_present, kind=kind)
    # What becomes of these depends on their values.
    if kind == SampleKind.LLM and {"chosen", "rejected"}.issubset(columns):
        return of_any_row
    try:
        return partial(_parse, _find_layout(columns, kind, shape_count()), kind)
    except SampleError:
        return of_any_row


def _parse(layout: "_Layout", kind: SampleKind, present: dict[str, Any]) -> Sample:
    values = {}
    # Checked in this order, so that the reason names a broken text before a broken weight.
    for column, check in layout.checks:
        value = present[column]
        # A call for each of the texts of millions of rows would take longer than the check.
        is_plain = check is checked_text and type(value) is str and value.isascii()
        values[column] = value if is_plain else check(value, column)

    if layout.misspelling:
        raise SampleError(layout.misspelling)
    if layout.is_content_only:
        return Sample(kind=kind, shape=layout.shape.name, content=values)

    return Sample(
        kind=kind,
        shape=layout.shape.name,
        group=values.pop(GROUP_COLUMN, None),
        timestamp=values.pop(TIMESTAMP_COLUMN, None),
        weight=values.pop(WEIGHT_COLUMN, None),
        content=values,
        metadata={column: present[column] for column in layout.unknown},
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layout:
    """What follows from the columns of a row: its shape, and how its values are checked.

    Attributes:
        shape: The shape of the sample.
        checks: The known columns, each with the function that checks and converts its value.
        unknown: The columns that become metadata.
        misspelling: The error of a column that seems to be misspelt, or an empty string.
        is_content_only: Whether the row has the columns of the shape and no others.
    """

    shape: SampleShape
    checks: tuple[tuple[str, Callable[[Any, str], Any]], ...]
    unknown: tuple[str, ...]
    misspelling: str
    is_content_only: bool


# The rows of a file have few layouts. The cache is small because a broken file may have columns
# that are as long as its lines.
@lru_cache(maxsize=16)
def _find_layout(columns: tuple[str, ...], kind: str, _shape_count: int) -> _Layout:
    """Return the layout of rows with these columns.

    A newly registered shape changes the number of shapes, and so makes older layouts unreachable.
    """
    shape = find_shape(columns, SampleKind(kind))
    known = (*shape.columns, *COMMON_COLUMNS)
    present = [column for column in known if column in columns]
    unknown = tuple(column for column in columns if column not in known)

    return _Layout(
        shape=shape,
        checks=tuple((column, _conversion(column)) for column in present),
        unknown=unknown,
        # A misspelt `group` would silently become metadata and let twins onto both sides.
        misspelling=_find_misspelling(unknown, columns, shape),
        is_content_only=not unknown and not set(COMMON_COLUMNS).intersection(columns),
    )


def _without_message_lists(present: dict[str, Any], kind: SampleKind) -> dict[str, Any]:
    """Return a preference with lists of messages, or with tools, in the columns of its shape."""
    if kind != SampleKind.LLM or not present.keys() >= {"chosen", "rejected"}:
        return present
    columns = [present.get(column) for column in ("prompt", "chosen", "rejected")]
    is_text = all(value is None or isinstance(value, str) for value in columns)
    is_own_form = is_text and not {"prompt", TOOLS_COLUMN} <= present.keys()
    return present if is_own_form or "prompt_messages" in present else preference_columns(present)


def _conversion(column: str) -> Callable[[Any, str], Any]:
    """Return what turns a value of a column, written in whatever way, into a checked one."""
    check = _CHECKED_VALUE[column_type(column)]
    if not is_converted(column):
        return check

    def convert(value: Any, name: str) -> Any:
        # Nearly all messages and vectors are lists already.
        return check(value if type(value) is list else typed_value(value, name), name)

    return convert


def is_absent(value: Any) -> bool:
    """Tell whether a value stands for an empty cell: None, NaN or pandas' NaT."""
    # NaN and pandas' NaT (a datetime) are equal to nothing, not even to themselves.
    return value is None or (isinstance(value, _MAY_BE_ABSENT) and value != value)


def _find_misspelling(unknown: Iterable[str], present: Iterable[str], shape: SampleShape) -> str:
    """Return the error of an unknown column that seems to be an absent one, or an empty string."""
    optional = (*shape.optional, *COMMON_COLUMNS)
    # `tool` is a usual column of logs, not a misspelling.
    absent = tuple(column for column in optional if column not in (*present, TOOLS_COLUMN))

    for column in unknown:
        # The comparison takes quadratic time, and a broken file has columns as long as its lines.
        hint = _misspelling_hint(column, absent) if len(column) <= _LONGEST_MISSPELLING else ""
        if hint:
            return f"column {column!r} is unknown.{hint} Rename or remove it."
    return ""


@lru_cache(maxsize=1024)
def _misspelling_hint(column: str, absent: tuple[str, ...]) -> str:
    """Return the hint for a column that seems to be one of the absent ones, or an empty string."""
    often_misspelt = [name for name in absent if name not in _RARELY_MISSPELT]
    hint = did_you_mean(column, often_misspelt)
    if hint:
        return hint

    rarely_misspelt = [name for name in absent if name in _RARELY_MISSPELT]
    close = difflib.get_close_matches(column, rarely_misspelt, cutoff=_CLOSE_MATCH)
    return did_you_mean(column, close)
