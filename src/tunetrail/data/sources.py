"""Reads rows from JSONL, CSV and Parquet files as a stream.

A part of a file that is no row (a broken line of JSON, a CSV row of the wrong length) becomes a
`BrokenRow`, and reading continues; a file that can't be read at all raises `SampleError`.
"""

import csv
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from tunetrail.errors import SampleError
from tunetrail.samples import (
    COMMON_COLUMNS,
    BrokenRow,
    ColumnType,
    SampleKind,
    all_shapes,
    column_type,
    find_shape,
    holds_turns,
)

Row = Mapping[str, Any] | BrokenRow

# Enough to get past a few broken rows, and quick in a file of any size.
_CHECKED_ROWS = 20
_BATCH_ROWS = 1000
_BLOCK_BYTES = 1 << 20
_LONGEST_CELL = 16 << 20
"""Characters of a CSV cell.

Python's default of 131,072 is too short for long texts, and without a limit a missing quote would
swallow the file.
"""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_rows(path: str | Path) -> Iterator[Row]:
    """Return an iterator over the rows of a file, in order; the file is never in memory as a whole.

    In CSV, `score` and `weight` become numbers, `embedding` and `messages` are read as JSON, and an
    empty cell of an optional column counts as absent. A cell that can't be converted stays text,
    and the check of the row says what is wrong with it.

    Raises:
        SampleError: The file is missing, a folder, empty, of an unknown suffix, not UTF-8 or
            damaged. The first four are raised here, the others when reading reaches the damage.
    """
    path = Path(path)
    reader = _reader(path)
    _check_file(path)
    return _rows(path, reader)


def check_columns(path: str | Path, kind: SampleKind) -> None:
    """Check the columns of the first rows, so that a wrong file fails at once.

    Raises:
        SampleError: None of the first 20 rows has the columns of a shape of that kind, or the file
            can't be read.
    """
    check_rows(path, lambda row: find_shape(map(str, row), kind), f"{kind} samples")


def check_rows(path: str | Path, check: Callable[[Mapping[str, Any]], object], goal: str) -> None:
    """Check the first rows of a file.

    Args:
        path: The file.
        check: Raises `SampleError` for an unsuitable row.
        goal: What the rows are meant to become, for the error.

    Raises:
        SampleError: None of the first 20 rows passes the check.
    """
    problem = ""
    for row in islice(read_rows(path), _CHECKED_ROWS):
        if isinstance(row, BrokenRow):
            problem = problem or row.reason
            continue
        try:
            check(row)
            return
        except SampleError as error:
            problem = problem or str(error)
    raise SampleError(f"{path} has no row that {goal} can be made of: {problem}")


def count_rows(path: str | Path) -> int:
    """Return the number of rows to expect.

    It is exact for Parquet. For text it is the number of lines, which is too high if CSV cells have
    line breaks.
    """
    path = Path(path)
    reader = _reader(path)
    _check_file(path)
    with _readable(path):
        if reader is _parquet_rows:
            import pyarrow.parquet

            with pyarrow.parquet.ParquetFile(path) as file:
                return int(file.metadata.num_rows)
        with _open(path) as stream:
            lines, last_byte = 0, b"\n"
            while block := stream.read(_BLOCK_BYTES):
                lines, last_byte = lines + block.count(b"\n"), block[-1:]
    has_unfinished_line, has_header = last_byte != b"\n", reader is _csv_rows
    # The last line may lack its line break, and a header is no row; booleans count as 0 or 1.
    return lines + has_unfinished_line - has_header


def _reader(path: Path) -> Callable[[Path], Iterator[Row]]:
    """Return the reader for the file's suffix."""
    readers = {
        ".jsonl": _jsonl_rows,
        ".ndjson": _jsonl_rows,
        ".csv": _csv_rows,
        ".parquet": _parquet_rows,
    }
    name = path.name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    # Parquet is compressed inside, and its index at the end can't be reached through gzip.
    if suffix not in readers or (name.endswith(".gz") and suffix == ".parquet"):
        raise SampleError(
            f"the file's suffix must be one of {', '.join(readers)} (all except .parquet may be "
            f"followed by .gz), got {str(path)!r}. Convert the file or rename it."
        )
    return readers[suffix]


def _check_file(path: Path) -> None:
    with _readable(path):
        if path.is_dir():
            raise SampleError(f"{path} is a folder. Give the path of one file in it.")
        if path.stat().st_size == 0:
            raise SampleError(f"{path} is empty. Give a file with at least one row.")


def _rows(path: Path, reader: Callable[[Path], Iterator[Row]]) -> Iterator[Row]:
    is_empty = True
    with _readable(path):
        for row in reader(path):
            is_empty = False
            yield row
    # A file of blank lines, or with only a header, has bytes but no rows.
    if is_empty:
        raise SampleError(f"{path} has no rows. Give a file with at least one row.")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn errors of reading into `SampleError`."""
    try:
        yield
    except FileNotFoundError as error:
        raise SampleError(f"{path} doesn't exist. Check the path.") from error
    # Before OSError, because BadGzipFile is one.
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SampleError(
            f"{path} is not a complete gzip file ({error}). Compress it again."
        ) from error
    except OSError as error:
        raise SampleError(
            f"{path} can't be read ({error.strerror or error}). Check the file and its permissions."
        ) from error


def _open(path: Path) -> BinaryIO:
    is_compressed = path.name.lower().endswith(".gz")
    return cast(BinaryIO, gzip.open(path)) if is_compressed else open(path, "rb")


def _lines(path: Path) -> Iterator[str]:
    with _open(path) as stream:
        # Decoded line by line, so that the error can name the line.
        for line_number, line in enumerate(stream, start=1):
            if line_number == 1:
                line = line.removeprefix(_BYTE_ORDER_MARK)
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                raise SampleError(
                    f"{path} must be UTF-8, got byte 0x{line[error.start]:02x} in line "
                    f"{line_number}. Save it as UTF-8, for example with "
                    "`iconv -f WINDOWS-1252 -t UTF-8`."
                ) from error


def _jsonl_rows(path: Path) -> Iterator[Row]:
    for line_number, line in enumerate(_lines(path), start=1):
        text = line.strip()
        if text:
            yield _jsonl_row(text, line_number)


def _jsonl_row(text: str, line_number: int) -> Row:
    try:
        row = json.loads(text)
    except RecursionError:
        reason = f"line {line_number} is JSON nested too deeply."
    except ValueError as error:
        reason = f"line {line_number} is not JSON: {error}."
    else:
        if isinstance(row, dict):
            return row
        reason = f"line {line_number} must be a JSON object, got {type(row).__name__}."
    return BrokenRow(text=text, reason=reason)


def _csv_rows(path: Path) -> Iterator[Row]:
    csv.field_size_limit(_LONGEST_CELL)
    lines = _LastLine(_lines(path))
    # If it weren't strict, a misplaced quote would silently change cells.
    reader = csv.reader(lines, strict=True)
    header: list[str] | None = None

    # A for loop would end at the first broken row; the reader itself can go on after it.
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if header is None:
                message = f"{path} has a broken header: {error}. Fix its first line."
                raise SampleError(message) from error
            reason = f"line {reader.line_num} is not CSV: {error}."
            yield BrokenRow(text=lines.last, reason=reason)
            continue

        # The reader gives a blank line as a row without cells.
        if not cells:
            continue
        if header is None:
            header = _checked_header(path, cells)
        elif len(cells) == len(header):
            yield _typed_cells(header, cells)
        else:
            cell_counts = f"a row of {len(cells)} cells, but the header has {len(header)}"
            reason = f"line {reader.line_num} ends {cell_counts}."
            yield BrokenRow(text=json.dumps(cells, ensure_ascii=False), reason=reason)


class _LastLine(Iterator[str]):
    """Lines of a file, and the last one that was read."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self.last = ""

    def __next__(self) -> str:
        self.last = next(self._lines)
        return self.last


def _checked_header(path: Path, cells: list[str]) -> list[str]:
    header = list(map(str.strip, cells))
    repeated = sorted(name for name, count in Counter(header).items() if count > 1)
    if repeated:
        names = ", ".join(map(repr, repeated))
        raise SampleError(f"{path} must name each column once, got {names} twice. Rename one.")
    return header


def _typed_cells(header: list[str], cells: list[str]) -> dict[str, Any]:
    """Return a CSV row with its cells in their columns' types; empty optional cells are absent."""
    optional = set(COMMON_COLUMNS).union(*(shape.optional for shape in all_shapes()))
    row = {}
    for column, cell in zip(header, cells, strict=True):
        if cell or column not in optional:
            row[column] = _typed_cell(column, cell)
    return row


def _typed_cell(column: str, cell: str) -> Any:
    """Return a cell in its column's type, or as text if it can't be converted."""
    try:
        if column_type(column) in (ColumnType.NUMBER, ColumnType.WEIGHT):
            return float(cell)
        if column_type(column) is ColumnType.VECTOR or holds_turns(column):
            return json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    return cell


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        # Pre-buffering would hold everything that was read until the end.
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        reason = " ".join(str(error).split())
        raise SampleError(
            f"{path} is not a complete Parquet file ({reason}). Write it again."
        ) from error
