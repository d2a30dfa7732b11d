"""Row files: frames of rows as Parquet, typed and without pickle. Knows which type a column has, not what it means."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tunetrail.data.rows import SET_ASIDE_COLUMNS, object_series
from tunetrail.samples import COMMON_COLUMNS, ColumnType, column_type, shapes_of_kind

_TYPES = {
    "row_id": pa.int64(),
    "shape": pa.string(),
    "cluster": pa.string(),
    "language": pa.string(),
    "token_count": pa.int32(),
    "characters": pa.int32(),
}
"""Arrow types of the columns that the steps add; every other column has the type of its values."""
_TYPES_OF_VALUES = {
    ColumnType.NUMBER: pa.float64(),
    ColumnType.WEIGHT: pa.float64(),
    ColumnType.VECTOR: pa.list_(pa.float64()),
    ColumnType.MESSAGES: pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
}
"""Arrow types by type of column; values of every other type are text."""
_NUMBERS = ("row_id", "token_count", "characters")
_GROUP_ROWS = 10_000


def columns_of_shapes(kind: str, shapes: Sequence[str]) -> list[str]:
    """Return the columns that rows of these shapes can have; those of every shape of the kind where none is given."""
    content = dict.fromkeys(
        column
        for shape in shapes_of_kind(kind)
        if shape.name in shapes or not shapes
        for column in shape.columns
    )
    return ["row_id", "shape", *content, *COMMON_COLUMNS]


def schema_of(columns: Sequence[str]) -> pa.Schema:
    """Return the Arrow schema of these columns."""
    return pa.schema([(name, _arrow_type(name)) for name in columns])


def _arrow_type(column: str) -> pa.DataType:
    return _TYPES.get(column) or _TYPES_OF_VALUES.get(column_type(column), pa.string())


SET_ASIDE_SCHEMA = schema_of(SET_ASIDE_COLUMNS)
"""Schema of `set_aside.parquet` and `changes.parquet`."""


def table_of(rows: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    """Return a frame of valid rows as an Arrow table; a column that the frame lacks is full of nulls.

    Raises:
        pyarrow.ArrowException: A value doesn't have its column's type; validated rows always do.
    """
    arrays = [
        pa.array(rows[field.name].tolist(), field.type)
        if field.name in rows
        else pa.nulls(len(rows), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def frame_of(table: pa.Table) -> pd.DataFrame:
    """Return an Arrow table as a frame of rows: numbers as NumPy's, everything else as Python objects."""
    columns: dict[str, Any] = {}
    for name in table.column_names:
        column = table.column(name)
        columns[name] = column.to_numpy() if name in _NUMBERS else object_series(column.to_pylist())
    return pd.DataFrame(columns)


def write_rows(rows: pd.DataFrame, schema: pa.Schema, path: Path) -> None:
    """Write a frame to one Parquet file."""
    pq.write_table(table_of(rows, schema), path, compression="zstd", compression_level=1)


def read_rows(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read one Parquet file as a frame; only `columns`, where given."""
    return frame_of(pq.read_table(path, columns=None if columns is None else list(columns)))


def row_count(path: Path) -> int:
    """Return the number of rows of a Parquet file, from its footer."""
    return int(pq.read_metadata(path).num_rows)


def frames_of_file(path: Path, rows: int = _GROUP_ROWS) -> Iterator[pd.DataFrame]:
    """Yield a Parquet file's rows in frames of up to `rows` rows."""
    with pq.ParquetFile(
        path, pre_buffer=False
    ) as file:  # which would keep all that was read until the end
        for batch in file.iter_batches(batch_size=rows):
            yield frame_of(pa.Table.from_batches([batch]))


class RowWriter:
    """Writes frames of one schema to a Parquet file, one after the other; the file exists even if none comes."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.rows = 0
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd", compression_level=1)

    def write(self, rows: pd.DataFrame) -> None:
        """Append a frame."""
        if len(rows):
            self._writer.write_table(table_of(rows, self._schema))
            self.rows += len(rows)

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()
