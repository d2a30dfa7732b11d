"""A convention: the columns that people use, and the rows of a sample shape that they stand for.

`embedding` and `language_model` hold the tables; another package can add a record with `register`.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from tunetrail.errors import SampleError
from tunetrail.samples import (
    COMMON_COLUMNS,
    LeftOut,
    SampleKind,
    find_shape,
    shapes_of_kind,
)
from tunetrail.samples.values import checked_text

Row = Mapping[str, Any]


class Gathering(Protocol):
    """Collects rows that only mean something together, such as the hypotheses of one premise."""

    def add(self, row_number: int, row: Row) -> None:
        """Take one row; raises `SampleError` for a malformed one."""

    def rows(self) -> Iterable[tuple[int, Row | LeftOut]]:
        """Yield the rows to learn from and the left-out ones, with the number of a source row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Convention:
    """One way in which people name their columns.

    Attributes:
        name: What people call it, as `read as NAME: 999 rows` says it.
        kind: The kind of samples that its rows become.
        columns: The columns by which it is recognised.
        optional: Columns that it also understands.
        becomes: Returns the rows that a row stands for, in the columns of a sample shape. Columns
            that the convention doesn't name are added afterwards. The row itself, if it already
            has such a shape.
        needs: Columns that may be absent from a file, but never empty in a row that has them.
        gathers: Makes the collector of rows that only mean something together. `becomes` is unused
            then.
        own: Columns of a sample's own shape. Texts in them, and in no other column that the
            convention knows, are a sample as they are.
        known: Every column that the convention understands.
    """

    name: str
    kind: SampleKind
    columns: tuple[str, ...]
    optional: tuple[str, ...] = ()
    becomes: Callable[[Row], list[Row]] = lambda row: [row]
    needs: tuple[str, ...] = ()
    gathers: Callable[[], Gathering] | None = None
    own: tuple[str, ...] = ()
    known: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Once, and not for every row. The class is frozen, hence the detour.
        object.__setattr__(self, "known", frozenset((*self.columns, *self.optional)))


_CONVENTIONS: list[Convention] = []


def register(*conventions: Convention) -> None:
    """Add conventions; of two that explain equally many columns of a row, the earlier one wins."""
    _CONVENTIONS.extend(conventions)


def conventions_of_kind(kind: SampleKind) -> list[Convention]:
    """Return the conventions whose rows become samples of a kind."""
    return [convention for convention in _CONVENTIONS if convention.kind == kind]


def find_convention(columns: Iterable[str], kind: SampleKind) -> Convention | None:
    """Return the convention that explains the most of these columns, None for a sample's own shape.

    Args:
        columns: The columns of a row that hold a value.
        kind: The kind of sample that the row is to become.

    Raises:
        SampleError: Neither a convention nor a shape has all of its columns here.
    """
    present = set(columns)
    candidates = conventions_of_kind(kind)
    fitting = [candidate for candidate in candidates if present.issuperset(candidate.columns)]
    if not fitting:
        find_shape(present, kind)
        return None

    best = max(fitting, key=lambda convention: len(present & convention.known))
    explained = len(present & best.known)
    # A shape that explains more of the row is what its author meant.
    shapes = [shape for shape in shapes_of_kind(kind) if present.issuperset(shape.required)]
    by_shapes = max((len(present.intersection(shape.columns)) for shape in shapes), default=0)
    return best if explained >= by_shapes else None


def missing_value(row: Row, present: Iterable[str], kind: SampleKind) -> SampleError | None:
    """Return the error for a row that has all columns of a shape or convention, but not a value.

    None if no shape and no convention has the columns of the row.
    """
    columns, filled = set(map(str, row)), set(present)
    required = [convention.columns for convention in conventions_of_kind(kind)]
    required += [shape.required for shape in shapes_of_kind(kind)]
    complete = [names for names in required if columns.issuperset(names)]
    if not complete:
        return None

    expected = max(complete, key=len)
    missing = next((column for column in expected if column not in filled), None)
    return missing_column(missing) if missing else None


def missing_column(column: str) -> SampleError:
    """Return the error for an empty cell without which nothing can be learnt."""
    return SampleError(f"{column} is missing. Fill it in or leave the row out.")


def is_known_form(columns: Iterable[str], kind: SampleKind) -> bool:
    """Tell whether a row with these columns becomes a sample of a kind."""
    try:
        find_convention(columns, kind)
    except SampleError:
        return False
    return True


def shape_columns(kind: SampleKind) -> frozenset[str]:
    """Return every column that a sample of a kind can have."""
    columns = set(COMMON_COLUMNS)
    for shape in shapes_of_kind(kind):
        columns.update(shape.columns)
    return frozenset(columns)


def known_columns(kind: SampleKind) -> frozenset[str]:
    """Return every column from which a sample of a kind can learn, by shapes and conventions."""
    return shape_columns(kind).union(
        *(convention.known for convention in conventions_of_kind(kind))
    )


def with_other_columns(row: Row, result: Row, convention: Convention) -> Row:
    """Return a row that a convention has made, with the columns that the convention doesn't know.

    Raises:
        SampleError: A column of the shape is there already, under its own name.
    """
    if result is row:
        return row

    carried = {column: value for column, value in row.items() if column not in convention.known}
    shared = carried.keys() & result.keys()
    twice = sorted(column for column in shared if result[column] is not carried[column])
    if twice:
        names = ", ".join(column for column in convention.columns if column in row)
        raise SampleError(
            f"{twice[0]} must be stated once, got the column {twice[0]} next to {names}. "
            "Rename or remove one of them."
        )
    return {**carried, **result}


def text_of(row: Row, column: str) -> str:
    """Return the text of a column; raises `SampleError` for anything else and for a blank one."""
    text = checked_text(row[column], column)
    if not text.strip():
        raise SampleError(f"{column} must have a text, got a blank one. Leave the row out.")
    return text


def list_of(value: Any) -> list[Any] | None:
    """Return a list, an array or JSON text of a list as a list; None for anything else."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        # A CSV file has no other way to hold a list.
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if hasattr(value, "tolist"):
        value = value.tolist()
    return list(value) if isinstance(value, list | tuple) else None
