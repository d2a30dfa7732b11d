"""Files into rows: JSONL, CSV and Parquet, streamed. Knows columns only where CSV needs their type, and no database.

A piece of a file that is no row (a broken line of JSON, a CSV row of the wrong length) becomes a `BrokenRow`, and
reading goes on; a file that can't be read at all raises `SampleError`.
"""

import csv
import gzip
import json
import zlib
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
)

Row = Mapping[str, Any] | BrokenRow

_CHECKED_ROWS = 20
_BATCH_ROWS = 1000
_BLOCK_BYTES = 1 << 20
_LONGEST_CELL = 16 << 20
"""Characters; Python's default of 131,072 is too short for long texts; without a limit a lost quote eats the file."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_rows(path: str | Path) -> Iterator[Row]:
    """Return an iterator over the rows of a file, in order, without ever holding the whole file in memory.

    In CSV, `score` and `weight` become numbers, `embedding` and `messages` are read as JSON, and an empty cell of an
    optional column counts as absent; what can't be read so stays text, and the check of the row says what is wrong.

    Raises:
        SampleError: The file is missing, a folder, empty, of an unknown suffix, not UTF-8 or damaged. The first four
            are raised here, the others when the reading comes to the place.
    """
    path = Path(path)
    reader = _reader(path)
    _check_file(path)
    return _rows(path, reader)


def check_columns(path: str | Path, kind: SampleKind) -> None:
    """Look at the first rows, so that a file with the wrong columns fails before a million of its rows are rejected.

    Raises:
        SampleError: None of the first 20 rows has the columns of a shape of that kind, or the file can't be read.
    """
    check_rows(path, lambda row: find_shape(map(str, row), kind), f"{kind} samples")


def check_rows(path: str | Path, check: Callable[[Mapping[str, Any]], object], wanted: str) -> None:
    """Look at the first rows as `check_columns` does, with a check that raises `SampleError` for an unfit row.

    Raises:
        SampleError: None of the first 20 rows passes, so that nothing `wanted` can be made of the file.
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
    raise SampleError(f"{path} has no row that {wanted} can be made of: {problem}")


def count_rows(path: str | Path) -> int:
    """Return how many rows to expect: exact for Parquet; for text its lines, which are more if cells hold several."""
    path = Path(path)
    reader = _reader(path)
    _check_file(path)
    with _readable(path):
        if reader is _parquet_rows:
            import pyarrow.parquet

            with pyarrow.parquet.ParquetFile(path) as file:
                return int(file.metadata.num_rows)
        with _open(path) as stream:
            lines, last = 0, b"\n"
            while block := stream.read(_BLOCK_BYTES):
                lines, last = lines + block.count(b"\n"), block[-1:]
    return lines + (last != b"\n") - (reader is _csv_rows)


def _reader(path: Path) -> Callable[[Path], Iterator[Row]]:
    readers = {
        ".jsonl": _jsonl_rows,
        ".ndjson": _jsonl_rows,
        ".csv": _csv_rows,
        ".parquet": _parquet_rows,
    }
    name = path.name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    if suffix not in readers or (name.endswith(".gz") and suffix == ".parquet"):
        raise SampleError(
            f"the file's suffix must be one of {', '.join(readers)} (.gz may follow the text ones), got {str(path)!r}. "
            "Convert the file or rename it."
        )
    return readers[suffix]


def _check_file(path: Path) -> None:
    with _readable(path):
        if path.is_dir():
            raise SampleError(f"{path} is a folder. Give the path of one file in it.")
        if path.stat().st_size == 0:
            raise SampleError(f"{path} is empty. Give a file with at least one row.")


def _rows(path: Path, reader: Callable[[Path], Iterator[Row]]) -> Iterator[Row]:
    empty = True
    with _readable(path):
        for row in reader(path):
            empty = False
            yield row
    if empty:
        raise SampleError(f"{path} has no rows. Give a file with at least one row.")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise SampleError(f"{path} doesn't exist. Check the path.") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SampleError(f"{path} is no whole gzip file ({error}). Make it again.") from error
    except OSError as error:
        raise SampleError(
            f"{path} can't be read ({error.strerror or error}). Check the file and its permissions."
        ) from error


def _open(path: Path) -> BinaryIO:
    return (
        cast(BinaryIO, gzip.open(path)) if path.name.lower().endswith(".gz") else open(path, "rb")
    )


def _lines(path: Path) -> Iterator[str]:
    with _open(path) as stream:
        for number, line in enumerate(stream, start=1):
            if number == 1:
                line = line.removeprefix(_BYTE_ORDER_MARK)
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                raise SampleError(
                    f"{path} must be UTF-8, got byte 0x{line[error.start]:02x} in line {number}. "
                    "Save it as UTF-8, for example by `iconv -f WINDOWS-1252 -t UTF-8`."
                ) from error


def _jsonl_rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_lines(path), start=1):
        text = line.strip()
        if text:
            yield _jsonl_row(text, number)


def _jsonl_row(text: str, number: int) -> Row:
    try:
        row = json.loads(text)
    except RecursionError:
        return BrokenRow(text=text, reason=f"line {number} is JSON nested too deeply.")
    except ValueError as error:
        return BrokenRow(text=text, reason=f"line {number} is not JSON: {error}.")
    if not isinstance(row, dict):
        return BrokenRow(
            text=text, reason=f"line {number} must be a JSON object, got {type(row).__name__}."
        )
    return row


def _csv_rows(path: Path) -> Iterator[Row]:
    csv.field_size_limit(_LONGEST_CELL)
    last_line = [""]
    reader = csv.reader(_remembered(_lines(path), last_line), strict=True)
    header: list[str] | None = None
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if header is None:
                raise SampleError(
                    f"{path} has a broken header: {error}. Mend its first line."
                ) from error
            yield BrokenRow(
                text=last_line[0], reason=f"line {reader.line_num} is not CSV: {error}."
            )
            continue
        if not cells:
            continue
        if header is None:
            header = _checked_header(path, cells)
        elif len(cells) == len(header):
            yield _typed_cells(header, cells)
        else:
            reason = f"line {reader.line_num} ends a row of {len(cells)} cells, but the header has {len(header)}."
            yield BrokenRow(text=json.dumps(cells, ensure_ascii=False), reason=reason)


def _remembered(lines: Iterator[str], last_line: list[str]) -> Iterator[str]:
    for line in lines:
        last_line[0] = line
        yield line


def _checked_header(path: Path, cells: list[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise SampleError(
            f"{path} must name each column once, got {', '.join(map(repr, twice))} twice. Rename one."
        )
    return header


def _typed_cells(header: list[str], cells: list[str]) -> dict[str, Any]:
    optional = {*COMMON_COLUMNS, *(column for shape in all_shapes() for column in shape.optional)}
    return {
        column: _typed_cell(column, cell)
        for column, cell in zip(header, cells, strict=True)
        if cell or column not in optional
    }


def _typed_cell(column: str, cell: str) -> Any:
    try:
        if column_type(column) in (ColumnType.NUMBER, ColumnType.WEIGHT):
            return float(cell)
        if column_type(column) in (ColumnType.VECTOR, ColumnType.MESSAGES):
            return json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    return cell


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        # its read-ahead would keep everything that was read
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        reason = " ".join(str(error).split())
        raise SampleError(f"{path} is no whole Parquet file ({reason}). Make it again.") from error
