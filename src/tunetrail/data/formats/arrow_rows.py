"""Read rows from Parquet and Arrow files, whatever Python can't hold included."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from tunetrail.data.formats.csv_rows import check_columns_differ
from tunetrail.data.formats.files import (
    LARGEST_EXPANSION,
    LONGEST_ROW,
    SourceFile,
    opened,
)
from tunetrail.errors import SampleError
from tunetrail.samples import SourceRow

_BATCH_ROWS = 1000
# Bytes of the rows that are in memory as Python values, by what the file says of itself.
_BATCH_BYTES = 64 << 20
_FILE_MAGIC = b"ARROW1"
_FIRST_FEATHER = b"FEA1"


def parquet_rows(file: SourceFile) -> Iterator[SourceRow]:
    """Yield the rows of a Parquet file."""
    import pyarrow.parquet

    with opened(file) as stream, _complete(file, "Parquet"):
        # Texts that repeat stay in a dictionary: a small file can hold a long one a million times.
        layout = pyarrow.parquet.ParquetFile(stream).schema_arrow
        texts = [field.name for field in layout if _is_text(field.type)]
        stream.seek(0)
        # Pre-buffering would hold everything that was read until the end.
        with pyarrow.parquet.ParquetFile(
            stream, pre_buffer=False, read_dictionary=texts
        ) as parquet:
            _check_schema(file, parquet.schema_arrow)
            batch_rows = _rows_of_batch(file, parquet.metadata)
            yield from _rows(file, parquet.iter_batches(batch_size=batch_rows))


def count_parquet_rows(file: SourceFile) -> int:
    """Return the number of rows of a Parquet file, from its footer."""
    import pyarrow.parquet

    with (
        opened(file) as stream,
        _complete(file, "Parquet"),
        pyarrow.parquet.ParquetFile(stream) as parquet,
    ):
        return int(parquet.metadata.num_rows)


def arrow_rows(file: SourceFile) -> Iterator[SourceRow]:
    """Yield the rows of an Arrow file (Feather as well) or of a saved Arrow stream."""
    import pyarrow.ipc

    with opened(file) as stream, _complete(file, "Arrow"):
        magic = stream.read(len(_FILE_MAGIC))
        stream.seek(0)
        if magic.startswith(_FIRST_FEATHER):
            raise SampleError(
                f"{file.name} must be an Arrow file, got Feather's first version. "
                "Write it again with pandas."
            )
        if magic == _FILE_MAGIC:
            with pyarrow.ipc.open_file(stream) as reader:
                _check_schema(file, reader.schema)
                batches = map(reader.get_batch, range(reader.num_record_batches))
                yield from _rows(file, batches)
        # `datasets` saves streams, which have no index at their end.
        else:
            with pyarrow.ipc.open_stream(stream) as reader:
                _check_schema(file, reader.schema)
                yield from _rows(file, reader)


@contextmanager
def _complete(file: SourceFile, form: str) -> Iterator[None]:
    """Turn the errors of Arrow into `SampleError`."""
    import pyarrow

    try:
        yield
    # A damaged name of a column isn't UTF-8; pyarrow reads names without a check.
    except (
        pyarrow.ArrowException,
        OSError,
        OverflowError,
        MemoryError,
        UnicodeDecodeError,
    ) as error:
        # Errors of the system, such as a missing file, are explained elsewhere.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = " ".join(str(error).split())
        raise SampleError(
            f"{file.name} is not a complete {form} file ({reason}). Write it again."
        ) from error


def _is_text(kind: Any) -> bool:
    import pyarrow.types

    return bool(pyarrow.types.is_string(kind) or pyarrow.types.is_binary(kind))


def _check_schema(file: SourceFile, schema: Any) -> None:
    """Raise `SampleError` if a column, or a field within one, has its name twice."""
    import pyarrow.types

    check_columns_differ(file, schema.names)
    nested = [field.type for field in schema]
    while nested:
        kind = nested.pop()
        fields = [kind.field(index) for index in range(kind.num_fields)]
        if pyarrow.types.is_struct(kind):
            check_columns_differ(file, [field.name for field in fields])
        nested.extend(field.type for field in fields)


def _rows_of_batch(file: SourceFile, metadata: Any) -> int:
    """Return how many rows to hold at once, after a look at what the file says of its columns."""
    largest_row = 1
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        largest_row = max(largest_row, group.total_byte_size // max(1, group.num_rows))
        for column_index in range(group.num_columns):
            column = group.column(column_index)
            compressed = max(1, column.total_compressed_size)
            expansion = column.total_uncompressed_size / compressed
            if column.total_uncompressed_size > _BATCH_BYTES and expansion > LARGEST_EXPANSION:
                raise SampleError(
                    f"{file.name} must expand to at most {LARGEST_EXPANSION} times its size, got "
                    f"more in the column {column.path_in_schema!r}. Write it without compression."
                )
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // largest_row))


def _rows(file: SourceFile, batches: Any) -> Iterator[SourceRow]:
    """Yield the rows of record batches, numbered over all of them."""
    row_number = 0
    for batch in batches:
        _check_layout(batch)
        _check_cells(file, batch, row_number)
        size = _BATCH_ROWS if batch.num_rows == 0 else _rows_of_slice(batch)
        for start in range(0, batch.num_rows, size):
            part_of_batch = batch.slice(start, size)
            columns = [_values(column) for column in part_of_batch.columns]
            for values in zip(*columns, strict=True):
                row_number += 1
                row = zip(batch.schema.names, values, strict=True)
                yield SourceRow(row, file.name, row_number)


def _check_layout(batch: Any) -> None:
    """Raise Arrow's error for a batch whose values lie outside its memory, as in a damaged file.

    To read such values would end the process. A text that isn't UTF-8 is left to its row.
    """
    import pyarrow

    for column in batch.columns:
        try:
            column.validate(full=True)
        except pyarrow.ArrowInvalid as error:
            if "UTF8" not in str(error):
                raise


def _lengths(column: Any) -> Any:
    """Return the bytes of each text of a column; None for a column of something else."""
    import pyarrow.compute as pc
    import pyarrow.types

    if pyarrow.types.is_dictionary(column.type):
        lengths = _lengths(column.dictionary)
        return None if lengths is None else lengths.take(column.indices)
    is_text = _is_text(column.type) or pyarrow.types.is_large_string(column.type)
    return pc.binary_length(column) if is_text else None


def _check_cells(file: SourceFile, batch: Any, row_number: int) -> None:
    """Raise `SampleError` for a text that is too long, before it becomes a Python value."""
    import pyarrow.compute as pc

    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        lengths = _lengths(column)
        longest = None if lengths is None else pc.max(lengths).as_py()
        if longest is not None and longest > LONGEST_ROW:
            position = row_number + 1 + pc.index(lengths, longest).as_py()
            raise SampleError(
                f"{file.name} must have texts of at most {LONGEST_ROW >> 20} MiB, got "
                f"{longest >> 20} MiB in the column {name!r} of row {position}. Split or remove it."
            )


def _rows_of_slice(batch: Any) -> int:
    """Return how many rows of a batch to turn into Python values at once."""
    import pyarrow.compute as pc

    # What is in a dictionary once becomes a text in each row.
    all_lengths = [_lengths(column) for column in batch.columns]
    longest = sum(pc.max(lengths).as_py() or 0 for lengths in all_lengths if lengths is not None)
    nested = sum(column.nbytes for column in batch.columns) // batch.num_rows
    return int(max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, longest + nested))))


def _values(column: Any) -> list[Any]:
    """Return the values of a column as Python's own; a moment that Python can't hold is text."""
    import pyarrow
    import pyarrow.types

    # Older writers don't mark their texts as text.
    kind = column.type.value_type if pyarrow.types.is_dictionary(column.type) else column.type
    if pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind):
        with suppress(pyarrow.ArrowException):
            column = column.cast(pyarrow.large_string())
    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    # NumPy makes texts of Arrow's in a quarter of the time.
    if _is_text(column.type) or pyarrow.types.is_large_string(column.type):
        return list(column.to_numpy(zero_copy_only=False).tolist())
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError, ImportError, pyarrow.ArrowException):
        return [_value(scalar) for scalar in column]


def _value(scalar: Any) -> Any:
    """Return an Arrow value as Python's own, or else as text, inside lists and structures too."""
    import pyarrow

    try:
        return scalar.as_py()
    except (ValueError, OverflowError, ImportError, pyarrow.ArrowException):
        pass
    if isinstance(scalar, pyarrow.DictionaryScalar | pyarrow.ExtensionScalar):
        return _value(scalar.value)
    if isinstance(scalar, pyarrow.StringScalar | pyarrow.LargeStringScalar):
        # No valid Unicode: the check of the row says so.
        return scalar.as_buffer().to_pybytes().decode("utf-8", "surrogateescape")
    if isinstance(scalar, pyarrow.ListScalar):
        return [_value(element) for element in scalar.values]
    if isinstance(scalar, Mapping):
        return {name: _value(scalar[name]) for name in scalar}
    with suppress(ValueError, pyarrow.ArrowException):
        text = str(scalar.cast(pyarrow.string()).as_py())
        # Arrow's own calendar ends in the year 32767.
        if not text.startswith("<value out of range"):
            return text
    return f"{getattr(scalar, 'value', scalar)} ({scalar.type})"
