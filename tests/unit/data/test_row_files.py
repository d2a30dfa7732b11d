import random
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from tunetrail.data.row_files import (
    RowWriter,
    frames_of_file,
    read_rows,
    row_count,
    schema_of,
    table_of,
    write_rows,
)

SCHEMA = schema_of(["row_id", "text", "score", "embedding", "weight"])
ROWS = pd.DataFrame(
    {
        "row_id": [1, 2],
        "text": pd.Series(["é\0", None], dtype=object),
        "score": pd.Series([0.5, None], dtype=object),
        "embedding": pd.Series([[1.0, 2.0], None], dtype=object),
        "weight": pd.Series([None, 2.0], dtype=object),
    }
)


def test_read_rows_returns_what_write_rows_wrote(tmp_path: Path) -> None:
    write_rows(ROWS, SCHEMA, tmp_path / "rows.parquet")
    pd.testing.assert_frame_equal(read_rows(tmp_path / "rows.parquet"), ROWS)
    assert row_count(tmp_path / "rows.parquet") == 2
    assert list(read_rows(tmp_path / "rows.parquet", ["text"])) == ["text"]


def test_table_of_fills_a_missing_column_with_nulls_and_refuses_a_wrong_type() -> None:
    assert table_of(ROWS.drop(columns="score"), SCHEMA).column("score").null_count == 2
    with pytest.raises(pa.ArrowException):
        table_of(ROWS.assign(row_id=["a", "b"]), SCHEMA)


def test_row_writer_leaves_a_file_even_without_rows(tmp_path: Path) -> None:
    writer = RowWriter(tmp_path / "rows.parquet", SCHEMA)
    writer.write(ROWS.iloc[:0])
    writer.close()
    assert row_count(tmp_path / "rows.parquet") == 0


def test_frames_of_file_keeps_no_more_than_it_yields(tmp_path: Path) -> None:
    rng = random.Random(1)
    schema = schema_of(["row_id", "text"])
    writer = RowWriter(tmp_path / "rows.parquet", schema)
    for group in range(30):
        texts = [rng.randbytes(500).hex() for _ in range(1000)]
        writer.write(
            pd.DataFrame(
                {"row_id": range(1000 * group, 1000 * group + 1000), "text": texts}, dtype=object
            )
        )
    writer.close()
    before, held, ids = pa.total_allocated_bytes(), 0, []

    for frame in frames_of_file(tmp_path / "rows.parquet", rows=1000):
        held = max(held, pa.total_allocated_bytes() - before)
        ids += frame["row_id"].tolist()

    assert ids == list(range(30_000))
    assert held < 10e6  # of 30 MB
