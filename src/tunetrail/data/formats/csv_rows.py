"""Read rows from text with separators: CSV and TSV, with or without quotes."""

import csv
import json
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from itertools import islice

from tunetrail.data.formats.files import LONGEST_ROW, SourceFile
from tunetrail.data.formats.lines import text_lines
from tunetrail.errors import SampleError
from tunetrail.samples import COMMON_COLUMNS, BrokenRow, SourceRow, all_shapes

Row = SourceRow | BrokenRow

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
"""What may separate cells, as messages call it."""
_SNIFFED_LINES = 20
# Lines within one cell that are rows of the file by their form, from which a quote counts as lost:
# such a cell has most likely swallowed the rows after it.
_TABLE_LINES = 3
# Lines that are read again after quotes that aren't closed. The lines up to the next quote are
# read twice, so only a file that was made for it needs more, and it would take hours.
_MOST_REREAD_LINES = 5_000_000


def separator(file: SourceFile) -> str:
    """Return what separates the cells of a file.

    Raises:
        SampleError: It doesn't seem to be the comma, and what it is isn't certain.
    """
    if file.suffix == ".tsv":
        return "\t"
    beginning = [line for line in islice(text_lines(file), _SNIFFED_LINES) if line.strip()]
    if not beginning or "," in beginning[0]:
        return ","

    for candidate in (";", "\t", "|"):
        rows = list(csv.reader(beginning, delimiter=candidate))
        if len(rows[0]) < 2:
            continue
        # Certain only if each of the first rows has as many cells as the header.
        if len(rows) > 1 and len(set(map(len, rows))) == 1:
            return candidate
        raise SampleError(
            f"{file.name} must be separated by commas, got a header that is separated by "
            f"{SEPARATORS[candidate]} and rows that aren't. Export it as CSV again."
        )
    return ","


class _Lines(Iterator[str]):
    """Lines of a file that can be read again from the second line of a record."""

    def __init__(self, file: SourceFile) -> None:
        self._lines = text_lines(file)
        self._again: deque[str] = deque()
        self.record: list[str] = []
        self.line_number = 0
        self._size = 0

    def __next__(self) -> str:
        # A quote that isn't closed ends the record here, not at the end of the file.
        if self._size > LONGEST_ROW:
            raise StopIteration
        line = self._again.popleft() if self._again else next(self._lines) + "\n"
        self.record.append(line)
        self._size += len(line)
        return line

    def start_record(self) -> None:
        """Begin a record at the next line."""
        self.line_number += len(self.record)
        self.record, self._size = [], 0

    def reread(self) -> int:
        """Keep the first line of the record only, and return how many are read again."""
        self._again.extendleft(reversed(self.record[1:]))
        repeated = len(self.record) - 1
        del self.record[1:]
        return repeated


def csv_rows(file: SourceFile) -> Iterator[Row]:
    """Yield the rows of a file of separated cells; empty cells of optional columns are absent.

    A quote that isn't closed breaks its own line only: reading goes on in the line after it.
    """
    csv.field_size_limit(LONGEST_ROW)
    delimiter = separator(file)
    lines = _Lines(file)
    # If it weren't strict, a misplaced quote would silently change cells.
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    reread_lines = 0

    # A for loop would end at the first broken row; the reader itself can go on after it.
    while True:
        lines.start_record()
        fault = ""
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fault, cells = str(error), []

        line_number = lines.line_number + 1
        if header is None:
            if fault:
                raise SampleError(f"{file.name} has a broken header: {fault}. Fix its first line.")
            # The reader gives a blank line as a row without cells.
            header = _checked_header(file, cells) if cells else None
            optional = _optional_columns(header or [])
            continue

        if fault:
            repeated = lines.reread()
            reread_lines += repeated
            if reread_lines > _MOST_REREAD_LINES + 2 * line_number:
                raise SampleError(
                    f"{file.name} must close its quotes, got line {line_number} and lines before "
                    "it that don't. Export it as CSV again."
                )
            # Files of tabs are often written without quotes: a line of the right width is a row.
            literal = lines.record[0].rstrip("\r\n").split("\t")
            if delimiter == "\t" and len(literal) == len(header):
                yield _row(header, literal, optional, file, line_number)
                continue
            reason = f"line {line_number} is not CSV: {_explained(fault, repeated)}."
            text = lines.record[0].rstrip("\r\n")
        elif not cells:
            continue
        elif _has_swallowed_rows(lines.record, delimiter, len(header)):
            last_line = line_number + len(lines.record) - 1
            reason = (
                f"line {line_number} opens a quote that is closed in line {last_line}, "
                "with rows between them."
            )
            text = "".join(lines.record).rstrip("\r\n")
        elif len(cells) != len(header):
            cell_counts = f"a row of {len(cells)} cells, but the header has {len(header)}"
            last_line = line_number + len(lines.record) - 1
            reason = f"line {last_line} ends {cell_counts}."
            text = json.dumps(cells, ensure_ascii=False)
        else:
            yield _row(header, cells, optional, file, line_number)
            continue
        yield BrokenRow(text=text, reason=reason, source=file.name, position=line_number)


def _explained(fault: str, repeated: int) -> str:
    if repeated or "unexpected end" in fault:
        return "a quote is not closed"
    return fault


def _checked_header(file: SourceFile, cells: list[str]) -> list[str]:
    header = list(map(str.strip, cells))
    check_columns_differ(file, header)
    return header


def check_columns_differ(file: SourceFile, columns: Sequence[str]) -> None:
    """Raise `SampleError` if a column is there twice: only the last of them would be read."""
    repeated = sorted(name for name, count in Counter(columns).items() if count > 1)
    if repeated:
        names = ", ".join(map(repr, repeated))
        raise SampleError(f"{file.name} must name each column once, got {names} twice. Rename one.")


def _optional_columns(header: list[str]) -> frozenset[str]:
    optional = set(COMMON_COLUMNS).union(*(shape.optional for shape in all_shapes()))
    return frozenset(optional.intersection(header))


def _row(
    header: list[str],
    cells: list[str],
    optional: frozenset[str],
    file: SourceFile,
    line_number: int,
) -> SourceRow:
    row = SourceRow(zip(header, cells, strict=True), file.name, line_number)
    for column in optional:
        if not row[column]:
            del row[column]
    return row


def _has_swallowed_rows(record: list[str], delimiter: str, width: int) -> bool:
    """Tell whether the lines within a record are all rows by their form."""
    inner_lines = record[1:-1]
    # In a file of one column, every line of a text would be a row.
    if width < 2 or len(inner_lines) < _TABLE_LINES:
        return False
    return all(len(cells) == width for cells in csv.reader(inner_lines, delimiter=delimiter))
