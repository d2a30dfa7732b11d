"""Reads rows as samples: by the user's mapping, by convention, or by their own shape.

This is the one way from a row to a sample, for the command line and for Python.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tunetrail.data.conventions import embedding, language_model
from tunetrail.data.conventions.columns import Mapped, check_targets, renamed, suggestion
from tunetrail.data.conventions.convention import (
    Convention,
    Gathering,
    Row,
    find_convention,
    is_known_form,
    known_columns,
    missing_column,
    missing_value,
    shape_columns,
    with_other_columns,
)
from tunetrail.data.conventions.verdicts import LABEL_COLUMNS, is_verdict
from tunetrail.data.conversations.front_ends import front_end_of
from tunetrail.errors import SampleError
from tunetrail.samples import LeftOut, Sample, SampleKind, SourceRow, parse_sample, sample_kinds
from tunetrail.samples.parsing import parser_of, present_values

# Importing these two has registered their conventions.
__all__ = ["IngestAccount", "Rejections", "RowReader", "embedding", "language_model"]

_MOST_REASONS = 100
_MOST_READINGS = 64
_SHOWN_ROWS = 3
# The values in a reason differ from row to row, the reason is the same.
_VALUE = re.compile(r"got .*|'[^']*'|\[[^\]]*\]|\d+", re.DOTALL)


@dataclass(kw_only=True)
class Rejections:
    """The rows that were rejected for one reason.

    Attributes:
        reason: The reason of the first of them.
        first_rows: The positions of the first few rows, all of them in the source of the first.
        source: The file of the first row, empty if it isn't known.
        rows: The number of rows.
    """

    reason: str
    first_rows: list[int] = field(default_factory=list)
    source: str = ""
    rows: int = 0


@dataclass(kw_only=True)
class IngestAccount:
    """What the rows of one ingestion were read as, and what nothing is learnt from.

    Attributes:
        rows: Number of rows, broken ones included.
        read_as: Number of rows by the name of a convention; rows in a shape of their own are none.
        unused: Number of rows by column from which nothing is learnt.
        suggestions: The column that may be meant, as ` (is it timestamp?)`, by unused column.
        rejections: The rejected rows by reason, in the order of their first rows.
    """

    rows: int = 0
    read_as: Counter[str] = field(default_factory=Counter)
    unused: Counter[str] = field(default_factory=Counter)
    suggestions: dict[str, str] = field(default_factory=dict)
    rejections: dict[str, Rejections] = field(default_factory=dict)

    def counted(self, rows: Iterable[Any]) -> Iterator[Any]:
        """Yield the rows and count them: `rows` is the number of the row that was yielded last."""
        for row in rows:
            self.rows += 1
            yield row

    def add_unused(
        self,
        samples: Iterable[Sample | LeftOut],
        kind: SampleKind | None = None,
        read: Collection[str] = (),
    ) -> None:
        """Count the columns of one row from which none of its samples learns.

        Args:
            samples: What the row has become.
            kind: The kind of sample whose columns are suggested.
            read: Columns of which a verdict has been read.
        """
        columns: dict[str, Any] = {}
        for sample in samples:
            if isinstance(sample, Sample) and sample.metadata:
                columns.update(sample.metadata)

        for column, value in columns.items():
            # A verdict that accepts the answer has been read: the answer is learnt.
            if column in read and is_verdict(column, value):
                continue
            self.unused[column] += 1
            if column not in self.suggestions:
                self.suggestions[column] = suggestion(column, shape_columns(kind) if kind else ())

    def add_rejection(self, row_number: int, reason: str, source: str = "") -> None:
        """Count a rejected row under its reason, whatever values the reason quotes."""
        wording = _VALUE.sub("…", reason)
        if wording not in self.rejections and len(self.rejections) >= _MOST_REASONS:
            wording, reason = "", "other reasons, see the stored rows"
        rejections = self.rejections.setdefault(wording, Rejections(reason=reason, source=source))
        rejections.rows += 1
        if source == rejections.source and len(rejections.first_rows) < _SHOWN_ROWS:
            rejections.first_rows.append(row_number)


class RowReader:
    """Turns rows into samples of one kind, and accounts for every row and column.

    Args:
        kind: The kind of the samples.
        mapping: The file's column by the name under which it is read.

    Raises:
        SampleError: The mapping names a column that no sample of the kind has.
    """

    def __init__(self, kind: SampleKind, mapping: Mapped | None = None) -> None:
        self.kind = kind
        self.mapping = dict(mapping or {})
        self.account = IngestAccount()
        check_targets(self.mapping, known_columns(kind), str(kind))
        # The rows of a file have few different sets of columns.
        self._readings: dict[tuple[str, ...], _RowReading] = {}
        self._gatherings: dict[str, Gathering] = {}

    def read(self, row: Row) -> list[Sample]:
        """Return the samples of one row; none if other rows have to complete it.

        Raises:
            SampleError: The row is malformed, or nothing may be learnt from it.
        """
        columns = renamed(row, self.mapping) if self.mapping else row
        present = present_values(columns)
        reading = self._reading_of(columns, present)
        convention = reading.convention
        if convention is None or _holds_texts(present, reading.shared_columns):
            sample = reading.parse(present)
            # Nearly all rows: they have no column that could be unused.
            if not sample.metadata:
                return [sample]
            samples = [sample]
        elif convention.gathers is not None:
            position = row.position if isinstance(row, SourceRow) else self.account.rows
            self._gathering_of(convention).add(position, present)
            samples = []
        else:
            samples = self._samples_by(convention, present, reading.parse)

        self.account.add_unused(samples, self.kind, convention.known if convention else ())
        return samples

    def check_columns(self, row: Row) -> None:
        """Raise `SampleError` if a row has the columns of no convention and of no shape."""
        columns = list(map(str, renamed(row, self.mapping) if self.mapping else row))
        try:
            find_convention(columns, self.kind)
        except SampleError as error:
            other_kinds = [kind for kind in sample_kinds() if is_known_form(columns, kind)]
            advice = "Map the columns with --columns, such as anchor=question,positive=answer."
            if front_end_of(row) is not None:
                advice = "Rows of this form are conversations: --kind conversation."
            elif other_kinds:
                advice = f"Rows of this form are {other_kinds[0]} samples: --kind {other_kinds[0]}."
            raise SampleError(f"{error} {advice}") from None

    def finish(self) -> Iterator[tuple[int, Sample | LeftOut]]:
        """Yield the samples of rows that were collected, with the number of a source row."""
        for gathering in self._gatherings.values():
            for row_number, row in gathering.rows():
                if isinstance(row, LeftOut):
                    yield row_number, row
                    continue
                try:
                    sample = parse_sample(row, self.kind)
                except SampleError as error:
                    yield row_number, LeftOut(kind=self.kind, row=row, reason=str(error))
                    continue
                self.account.add_unused([sample], self.kind)
                yield row_number, sample

    def _reading_of(self, row: Row, present: Row) -> "_RowReading":
        """Return how a row is read; raises `SampleError` for a row without a value it needs."""
        key = tuple(present)
        reading = self._readings.get(key)
        if reading is None:
            # The rows of a broken file may all have columns of their own.
            if len(self._readings) >= _MOST_READINGS:
                self._readings.clear()
            reading = self._readings[key] = self._new_reading(row, present)

        for column in reading.convention.needs if reading.convention else ():
            # In CSV, an empty cell is an empty text.
            if column in row and str(present.get(column, "")).strip() == "":
                raise missing_column(column)
        return reading

    def _new_reading(self, row: Row, present: Row) -> "_RowReading":
        try:
            convention = find_convention(present, self.kind)
        except SampleError:
            # An empty cell is a plainer reason than a list of all shapes.
            missing = missing_value(row, present, self.kind)
            if missing is not None:
                raise missing from None
            raise

        known = tuple(convention.known.intersection(present)) if convention else ()
        is_own = convention is not None and set(known) <= set(convention.own)
        shared_columns = known if is_own else ()
        parse = parser_of(tuple(present), self.kind)
        return _RowReading(convention=convention, shared_columns=shared_columns, parse=parse)

    def _gathering_of(self, convention: Convention) -> Gathering:
        name = ", ".join(convention.columns)
        assert convention.gathers is not None
        self.account.read_as[convention.name] += 1
        return self._gatherings.setdefault(name, convention.gathers())

    def _samples_by(
        self,
        convention: Convention,
        row: dict[str, Any],
        parse: Callable[[dict[str, Any]], Sample],
    ) -> list[Sample]:
        results = convention.becomes(row)
        samples = []
        for result in results:
            # The row itself has present values only; one that was made may lack some.
            if result is row:
                samples.append(parse(row))
            else:
                complete = with_other_columns(row, result, convention)
                samples.append(parse_sample(complete, self.kind))
        if results[0] is not row:
            self.account.read_as[convention.name] += 1
        return samples


@dataclass(frozen=True, kw_only=True, slots=True)
class _RowReading:
    """How rows with some columns are read.

    Attributes:
        convention: What they are read as; None for a sample's own shape.
        shared_columns: The columns that the convention knows, if a sample has the same columns.
        parse: Makes the sample of such a row that is in a shape of its own.
    """

    convention: Convention | None
    shared_columns: tuple[str, ...]
    parse: Callable[[dict[str, Any]], Sample]


def _holds_texts(row: Row, columns: tuple[str, ...]) -> bool:
    """Tell whether there are columns, and all of them hold a text."""
    # A loop, as setting up a generator for each row would take longer.
    for column in columns:
        if type(row[column]) is not str:
            return False
    return bool(columns)


def counting(
    account: IngestAccount, derive: Callable[[Row], Iterable[Sample | LeftOut]]
) -> Callable[[Row], list[Sample | LeftOut]]:
    """Return `derive` with an account of the columns from which nothing is learnt."""

    def derive_and_count(row: Row) -> list[Sample | LeftOut]:
        derived = list(derive(row))
        account.add_unused(derived, read=LABEL_COLUMNS)
        return derived

    return derive_and_count


def rows_of(rows: Any) -> Iterable[Any]:
    """Return the rows of a table, such as a pandas DataFrame, as dicts; other rows as they are.

    Iterating over a DataFrame yields the names of its columns.
    """
    is_table = hasattr(rows, "columns") and hasattr(rows, "to_dict")
    table_rows: Iterable[Any] = rows.to_dict("records") if is_table else rows
    return table_rows
