"""Read rows as a stream from whatever a path stands for: files, folders, URLs and queries.

A part of a file that is no row (a broken line of JSON, a CSV row of the wrong length) becomes a
`BrokenRow`, and reading continues; a file that can't be read at all raises `SampleError`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tunetrail.data.formats.arrow_rows import arrow_rows, count_parquet_rows, parquet_rows
from tunetrail.data.formats.csv_rows import SEPARATORS, csv_rows, separator
from tunetrail.data.formats.file_format import FileFormat, Row
from tunetrail.data.formats.files import (
    SourceFile,
    SourceFiles,
    blocks,
    find_files,
    readable,
    shown_path,
)
from tunetrail.data.formats.json_rows import JsonForm, json_form, json_rows
from tunetrail.data.formats.lines import text_rows
from tunetrail.data.formats.sql_rows import DatabaseQuery, query_rows
from tunetrail.errors import SampleError
from tunetrail.extensions import FORMATS
from tunetrail.samples import (
    BrokenRow,
    SourceRow,
    is_converted,
    typed_value,
)

Source = str | Path | DatabaseQuery
"""What rows are read from: a path, a folder, a glob, a URL, or a query."""

# Enough to get past a few broken rows, and quick in a file of any size.
_CHECKED_ROWS = 20
_MOST_LAYOUTS = 100
_MOST_FIRST_ROWS = 1000
_MOST_FIRST_CHARACTERS = 16_000_000


_FORMATS = {
    ".jsonl": FileFormat(rows=json_rows),
    ".ndjson": FileFormat(rows=json_rows),
    ".csv": FileFormat(rows=csv_rows),
    ".parquet": FileFormat(rows=parquet_rows, is_text=False),
    ".json": FileFormat(rows=json_rows, counts_lines=False),
    ".tsv": FileFormat(rows=csv_rows),
    ".txt": FileFormat(rows=text_rows),
    ".arrow": FileFormat(rows=arrow_rows, is_text=False),
    ".feather": FileFormat(rows=arrow_rows, is_text=False),
}
_JSON = (".jsonl", ".ndjson", ".json")


def is_built_in(name: str) -> bool:
    """Tell whether a suffix without its dot is one of our own formats', or a compression's."""
    return f".{name}" in (*_FORMATS, ".gz", ".zst")


def read_rows(source: Source) -> Iterator[Row]:
    """Return an iterator over the rows of a source, in order; it is never in memory as a whole.

    Numbers, vectors and messages that are written as text become numbers, vectors and messages, in
    every format. A value that can't be converted stays text, and the check of the row says what is
    wrong with it. In CSV, an empty cell of an optional column counts as absent.

    Args:
        source: A file, a folder, a glob, a folder that `datasets` saved, a URL, or a query.

    Raises:
        SampleError: The file is missing, empty, of an unknown suffix, not UTF-8 or damaged. The
            first three are raised here, the others when reading reaches the damage.
    """
    if isinstance(source, DatabaseQuery):
        rows: Iterator[Row] = query_rows(source)
    else:
        rows = _rows_of_files(_files(source))
    return _typed_rows(shown_source(source), rows)


def peek_rows(rows: Iterator[Row]) -> tuple[list[Row], Iterator[Row]]:
    """Return the first rows, and an iterator over all of them.

    Checks look at the first rows, and a URL or a query is still read only once. There are up to
    1,000 of them, fewer if they are long.
    """
    first_rows: list[Row] = []
    characters = 0
    for row in rows:
        first_rows.append(row)
        characters += len(repr(row))
        if len(first_rows) == _MOST_FIRST_ROWS or characters > _MOST_FIRST_CHARACTERS:
            break
    return first_rows, chain(first_rows, rows)


def check_rows(
    rows: Iterable[Row],
    check: Callable[[Mapping[str, Any]], object],
    goal: str,
    source: Source,
) -> None:
    """Check the first rows of a source, so that a wrong file fails at once.

    Args:
        rows: The rows.
        check: Raises `SampleError` for an unsuitable row.
        goal: What the rows are meant to become, for the error.
        source: Where they are from, for the error.

    Raises:
        SampleError: None of the first 20 rows passes the check.
    """
    problem = ""
    for row in islice(rows, _CHECKED_ROWS):
        if isinstance(row, BrokenRow):
            problem = problem or row.reason
            continue
        try:
            check(row)
            return
        except SampleError as error:
            problem = problem or str(error)
    name = shown_source(source)
    raise SampleError(f"{name} has no row from which {goal} can be made: {problem}")


def count_rows(source: Source) -> int | None:
    """Return the number of rows to expect; None if only reading would tell.

    It is exact for Parquet. For text it is the number of lines, which is too high if CSV cells have
    line breaks.
    """
    if isinstance(source, DatabaseQuery):
        return None
    total = 0
    for file in _files(source).files:
        count = _count_rows(file)
        if count is None:
            return None
        total += count
    return total


def reading_notes(source: Source) -> list[str]:
    """Return what a user should know of how a source is read, a sentence each."""
    if isinstance(source, DatabaseQuery):
        return []
    files = _files(source)
    notes = list(filter(None, map(_form_note, files.files)))
    if files.ignored:
        names = ", ".join(files.ignored[:3]) + (", …" if len(files.ignored) > 3 else "")
        notes.append(f"not read, as it holds no rows: {names} (files: {len(files.ignored)})")
    return notes


def shown_source(source: Source) -> str:
    """Return the name of a source for messages, without passwords and signatures."""
    return source.name if isinstance(source, DatabaseQuery) else shown_path(str(source))


def position_unit(source: str) -> str:
    """Return what the positions of a source's rows count: `line` in text, otherwise `row`."""
    file_name = source.removesuffix(".gz").removesuffix(".zst")
    suffix = Path(file_name).suffix.lower()
    is_known = suffix in (*_FORMATS, *_installed_suffixes())
    return "line" if is_known and _format_of(suffix).is_text else "row"


def _files(source: str | Path) -> SourceFiles:
    """Return the files of a source, in our own formats and in the formats of installed packages."""
    suffixes = [*_FORMATS, *_installed_suffixes()]
    return find_files(
        str(source), suffixes, is_binary=lambda suffix: not _format_of(suffix).is_text
    )


def _installed_suffixes() -> list[str]:
    return [f".{name}" for name in FORMATS.names()]


def _format_of(suffix: str) -> FileFormat:
    """Return the format of a known suffix; raises `ConfigError` if its package can't be used."""
    name = suffix.removeprefix(".")
    FORMATS.check_unique(name)
    if suffix in _FORMATS:
        return _FORMATS[suffix]
    installed: FileFormat = FORMATS.load(name)
    return installed


def _rows_of_files(files: SourceFiles) -> Iterator[Row]:
    for file in files.files:
        with readable(file.path):
            if file.compression and not file.is_remote:
                _check_to_the_end(file)
            yield from _format_of(file.suffix).rows(file)


def _check_to_the_end(file: SourceFile) -> None:
    """Raise `SampleError` if a compressed file is damaged anywhere.

    A wrong byte makes wrong texts, which only the checksum at the file's end gives away: by then,
    rows that nobody wrote would be stored.
    """
    for _ in blocks(file):
        pass


def _typed_rows(name: str, rows: Iterator[Row]) -> Iterator[Row]:
    """Yield rows with the types that their columns mean; raise if there is none."""
    is_empty = True
    # The rows of a file have few different sets of columns.
    converted: dict[tuple[str, ...], tuple[str, ...]] = {}

    for row in rows:
        is_empty = False
        if isinstance(row, SourceRow):
            columns = tuple(row)
            if columns not in converted:
                # A broken file may have other columns in each row.
                if len(converted) > _MOST_LAYOUTS:
                    converted.clear()
                converted[columns] = tuple(filter(is_converted, columns))
            for column in converted[columns]:
                row[column] = typed_value(row[column], column)
        yield row

    # A file of blank lines, or with only a header, has bytes but no rows.
    if is_empty:
        raise SampleError(f"{name} has no rows. Give a file with at least one row.")


def _count_rows(file: SourceFile) -> int | None:
    if file.is_remote:
        return None
    if file.suffix == ".parquet":
        return count_parquet_rows(file)
    file_format = _format_of(file.suffix)
    if not file_format.is_text or not file_format.counts_lines:
        return None
    if file.suffix in _JSON and json_form(file) is not JsonForm.LINES:
        return None

    lines, last_byte = 0, b"\n"
    for block in blocks(file):
        lines, last_byte = lines + block.count(b"\n"), block[-1:]
    # The last line may lack its line break, and a header is no row; booleans count as 0 or 1.
    return lines + (last_byte != b"\n") - (file.suffix in (".csv", ".tsv"))


def _form_note(file: SourceFile) -> str:
    """Return how a file is read if its suffix lets one expect something else."""
    if file.suffix in _JSON and file.suffix != ".json":
        form = json_form(file)
        if form is not JsonForm.LINES:
            return f"{file.name} is read as {form.value}, not one object a line"
    if file.suffix == ".csv":
        delimiter = separator(file)
        if delimiter != ",":
            return f"{file.name} is read as separated by {SEPARATORS[delimiter]}"
    return ""
