"""Chunks: a session's rows cut into pieces, each one a file, so that no step ever holds them all. Judges no row.

Where a chunk ends follows from the rows' own content, so a row that is added or removed changes one chunk and leaves
the others, and what is kept of them in the cache, as they were.
"""

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tunetrail.data.rows import object_series

_SCHEMA = pa.schema([("row_id", pa.int64()), ("row", pa.string())])
_SMALLEST, _LARGEST = 0.25, 2.0
"""Of `chunk_rows`: how far a chunk's size may be from it."""
UNREADABLE = "unreadable"
"""The key of what stands for a value that JSON has no form for; no column takes an object of that kind."""

_DEEPEST = 100
"""Levels of lists and dicts in a value. Valid ones have two; some hundreds more and Python's JSON reader gives up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RawChunk:
    """A chunk as it came in.

    Attributes:
        path: Its Parquet file: `row_id`, and each row as JSON, so that wrong types and broken text survive as they are.
        digest: SHA-256 (hex) of what the file holds.
        rows: Number of rows.
    """

    path: Path
    digest: str
    rows: int


def write_chunks(
    frames: Iterable[pd.DataFrame], chunk_rows: int, folder: Path
) -> Iterator[RawChunk]:
    """Write frames of rows, whatever their values, into chunks of about `chunk_rows` rows; yield each when it is full.

    A chunk ends behind a row whose checksum is a multiple of `chunk_rows`, at a quarter of `chunk_rows` at the earliest
    and at twice as many at the latest.
    """
    smallest, largest = max(1, round(_SMALLEST * chunk_rows)), max(1, round(_LARGEST * chunk_rows))
    ids: list[int] = []
    texts: list[str] = []
    number = 0
    for frame in frames:
        for record in frame.to_dict("records"):
            row_id = int(record.pop("row_id"))
            text = _row_text(record)
            ids.append(row_id)
            texts.append(text)
            ends = len(ids) >= smallest and zlib.crc32(text.encode()) % chunk_rows == 0
            if ends or len(ids) == largest:
                yield _written(ids, texts, folder / f"{number:06d}.parquet")
                ids, texts, number = [], [], number + 1
    if ids:
        yield _written(ids, texts, folder / f"{number:06d}.parquet")


def read_chunk(path: Path) -> pd.DataFrame:
    """Return a chunk as a frame of rows with whatever values came in; columns that a row lacks are None."""
    table = pq.read_table(path)
    records = [json.loads(text) for text in table.column("row").to_pylist()]
    columns = list(dict.fromkeys(column for record in records for column in record))
    frame = pd.DataFrame({"row_id": table.column("row_id").to_numpy()})
    for column in columns:
        frame[column] = object_series([record.get(column) for record in records])
    return frame


def _written(ids: list[int], texts: list[str], path: Path) -> RawChunk:
    digest = hashlib.sha256()
    for row_id, text in zip(ids, texts, strict=True):
        digest.update(f"{row_id}\t{text}\n".encode())
    pq.write_table(pa.table([ids, texts], schema=_SCHEMA), path, compression="lz4")
    return RawChunk(path=path, digest=digest.hexdigest(), rows=len(ids))


def _row_text(record: Mapping[Any, Any]) -> str:
    present = {str(column): value for column, value in record.items() if value is not None}
    try:
        text = json.dumps(present, default=_plain)
    except (TypeError, ValueError, RecursionError):
        return json.dumps(
            {column: _readable(value) for column, value in present.items()}, default=_plain
        )
    if (
        text.count("[") + text.count("{") > _DEEPEST
    ):  # whether these are nested or only many is dear to find out
        return json.dumps(
            {column: _readable(value) for column, value in present.items()}, default=_plain
        )
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return {UNREADABLE: type(value).__name__}


def _readable(value: Any) -> Any:
    """Return a value, or what stands for it where it can't be written and read again from any depth of calls."""
    try:
        json.dumps(value, default=_plain)
    except (TypeError, ValueError, RecursionError):
        return {UNREADABLE: type(value).__name__}
    return value if _levels(value) <= _DEEPEST else {UNREADABLE: type(value).__name__}


def _levels(value: Any) -> int:
    """Return how deep lists and dicts are nested in a value, `_DEEPEST` + 1 at most."""
    levels, inside = 0, [value]
    while levels <= _DEEPEST:
        nested = [each for each in inside if isinstance(each, list | tuple | dict)]
        if not nested:
            break
        levels += 1
        inside = [
            child
            for each in nested
            for child in (each.values() if isinstance(each, dict) else each)
        ]
    return levels
