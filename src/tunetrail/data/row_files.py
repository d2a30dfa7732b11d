"""Row files: frames of rows as Parquet, typed and without pickle."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tunetrail.data.rows import SET_ASIDE_COLUMNS, object_series
from tunetrail.paths import private_file
from tunetrail.samples import (
    COMMON_COLUMNS,
    ColumnType,
    column_type,
    holds_turns,
    shapes_of_kind,
)
from tunetrail.samples.messages import without_absent

# Arrow types of the columns that steps add; other columns have the type of their values.
_TYPES = {
    "row_id": pa.int64(),
    "shape": pa.string(),
    "cluster": pa.string(),
    "language": pa.string(),
    "token_count": pa.int32(),
    "characters": pa.int32(),
}
_TURNS = pa.list_(
    pa.struct(
        [
            ("role", pa.string()),
            ("content", pa.string()),
            ("tool_calls", pa.string()),
            ("tool_call_id", pa.string()),
            ("name", pa.string()),
            ("weight", pa.float64()),
        ]
    )
)
# Arrow types by type of column; values of all other types are text.
_TYPES_OF_VALUES = {
    ColumnType.NUMBER: pa.float64(),
    ColumnType.WEIGHT: pa.float64(),
    ColumnType.VERDICT: pa.bool_(),
    ColumnType.VECTOR: pa.list_(pa.float64()),
    ColumnType.MESSAGES: _TURNS,
    ColumnType.TURNS: _TURNS,
}
_INTEGER_COLUMNS = ("row_id", "token_count", "characters")
_GROUP_ROWS = 10_000


def columns_of_shapes(kind: str, shapes: Sequence[str]) -> list[str]:
    """Return the columns that rows of these shapes can have; of all shapes if none is named."""
    columns = ["row_id", "shape"]
    for shape in shapes_of_kind(kind):
        if shape.name in shapes or not shapes:
            columns += shape.columns
    return list(dict.fromkeys([*columns, *COMMON_COLUMNS]))


def schema_of(columns: Sequence[str]) -> pa.Schema:
    """Return the Arrow schema of these columns."""
    return pa.schema([(name, _arrow_type(name)) for name in columns])


def _arrow_type(column: str) -> pa.DataType:
    return _TYPES.get(column) or _TYPES_OF_VALUES.get(column_type(column), pa.string())


SET_ASIDE_SCHEMA = schema_of(SET_ASIDE_COLUMNS)
"""Schema of `set_aside.parquet` and `changes.parquet`."""


def table_of(rows: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    """Return a frame of valid rows as an Arrow table; columns that it lacks are full of nulls.

    Raises:
        pyarrow.ArrowException: A value doesn't have its column's type; validated rows always do.
    """
    # With the schema's types: inferred ones would depend on the values of each chunk.
    arrays = []
    for field in schema:
        values = rows[field.name].tolist() if field.name in rows else [None] * len(rows)
        arrays.append(pa.array(values, field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def frame_of(table: pa.Table) -> pd.DataFrame:
    """Return an Arrow table as a frame: integers in NumPy's type, everything else as objects."""
    columns: dict[str, Any] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if name in _INTEGER_COLUMNS:
            columns[name] = column.to_numpy()
            continue
        values = column.to_pylist()
        if holds_turns(name):
            # A struct has all keys in every turn; a sample has only the ones that it needs.
            values = [turns and without_absent(turns) for turns in values]
        columns[name] = object_series(values)
    return pd.DataFrame(columns)


def write_rows(rows: pd.DataFrame, schema: pa.Schema, path: Path) -> None:
    """Write a frame to one Parquet file."""
    pq.write_table(
        table_of(rows, schema), private_file(path), compression="zstd", compression_level=1
    )


def read_rows(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read one Parquet file as a frame; only `columns` if they are given."""
    return frame_of(pq.read_table(path, columns=None if columns is None else list(columns)))


def row_count(path: Path) -> int:
    """Return the number of rows of a Parquet file, from its footer."""
    return int(pq.read_metadata(path).num_rows)


def frames_of_file(path: Path, rows: int = _GROUP_ROWS) -> Iterator[pd.DataFrame]:
    """Yield a Parquet file's rows in frames of up to `rows` rows."""
    # Pre-buffering would hold everything that was read until the end.
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(batch_size=rows):
            yield frame_of(pa.Table.from_batches([batch]))


class RowWriter:
    """Writes frames of one schema to a Parquet file, which exists even if no frame comes."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.rows = 0
        self._schema = schema
        self._writer = pq.ParquetWriter(
            private_file(path), schema, compression="zstd", compression_level=1
        )

    def write(self, rows: pd.DataFrame) -> None:
        """Append a frame."""
        if len(rows):
            self._writer.write_table(table_of(rows, self._schema))
            self.rows += len(rows)

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()
