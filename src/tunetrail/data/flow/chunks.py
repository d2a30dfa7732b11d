"""Chunks: a session's rows cut into files, so that no step ever holds all rows.

Where a chunk ends follows from the rows' own content. A row that is added or removed changes one
chunk; the others, and their results in the cache, stay as they are.
"""

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tunetrail.data.rows import object_series

UNREADABLE = "unreadable"
"""The key of the object that stands for a value without a JSON form; no column has such objects."""

# The size of a chunk, in units of `chunk_rows`.
_SMALLEST, _LARGEST = 0.25, 2.0

# Levels of lists and dicts in a value. Valid values have two, and with some hundreds more, Python's
# JSON reader gives up.
_DEEPEST = 100

_SCHEMA = pa.schema([("row_id", pa.int64()), ("row", pa.string())])


@dataclass(frozen=True, kw_only=True, slots=True)
class RawChunk:
    """A chunk as it came in.

    Attributes:
        path: Its Parquet file: `row_id`, and each row as JSON, so that wrong types and broken text
            survive unchanged.
        digest: SHA-256 (hex) of the file's rows.
        rows: Number of rows.
    """

    path: Path
    digest: str
    rows: int


def write_chunks(
    frames: Iterable[pd.DataFrame], chunk_rows: int, folder: Path
) -> Iterator[RawChunk]:
    """Write rows, whatever their values, into chunks of about `chunk_rows` rows, and yield each.

    A chunk ends after a row whose checksum is a multiple of `chunk_rows`. It has at least a quarter
    of `chunk_rows` rows, unless it is the last, and at most twice as many.
    """
    smallest = max(1, round(_SMALLEST * chunk_rows))
    largest = max(1, round(_LARGEST * chunk_rows))

    row_ids: list[int] = []
    texts: list[str] = []
    chunks = 0
    for row_id, text in _serialised_rows(frames):
        row_ids.append(row_id)
        texts.append(text)
        # Content-defined chunking: rows that are added elsewhere don't move this boundary.
        is_boundary = len(texts) >= smallest and zlib.crc32(text.encode()) % chunk_rows == 0
        if is_boundary or len(texts) == largest:
            yield _write_chunk(row_ids, texts, folder / f"{chunks:06d}.parquet")
            row_ids, texts, chunks = [], [], chunks + 1
    if texts:
        yield _write_chunk(row_ids, texts, folder / f"{chunks:06d}.parquet")


def read_chunk(path: Path) -> pd.DataFrame:
    """Return a chunk as a frame of rows, with whatever values came in; absent values are None."""
    table = pq.read_table(path)
    rows = list(map(json.loads, table.column("row").to_pylist()))

    # In the order in which they first appear, because a row lacks its absent columns.
    columns = dict.fromkeys(chain.from_iterable(rows))
    frame = pd.DataFrame({"row_id": table.column("row_id").to_numpy()})
    for column in columns:
        frame[column] = object_series([row.get(column) for row in rows])
    return frame


def _serialised_rows(frames: Iterable[pd.DataFrame]) -> Iterator[tuple[int, str]]:
    for frame in frames:
        for row in frame.to_dict("records"):
            row_id = int(row.pop("row_id"))
            yield row_id, _row_text(row)


def _write_chunk(row_ids: list[int], texts: list[str], path: Path) -> RawChunk:
    digest = hashlib.sha256()
    for row_id, text in zip(row_ids, texts, strict=True):
        digest.update(f"{row_id}\t{text}\n".encode())

    # The file is read once and then deleted, so speed matters more than size.
    pq.write_table(pa.table([row_ids, texts], schema=_SCHEMA), path, compression="lz4")
    return RawChunk(path=path, digest=digest.hexdigest(), rows=len(row_ids))


def _row_text(row: Mapping[Any, Any]) -> str:
    """Return a row as JSON that can be read again, whatever its values."""
    present = {str(column): value for column, value in row.items() if value is not None}
    try:
        text = json.dumps(present, default=_plain_value)
        # Counting brackets is cheap; whether they are nested or only many is expensive to find out.
        if text.count("[") + text.count("{") <= _DEEPEST:
            return text
    except (TypeError, ValueError, RecursionError):
        pass
    readable = {column: _readable_value(value) for column, value in present.items()}
    return json.dumps(readable, default=_plain_value)


def _plain_value(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return {UNREADABLE: type(value).__name__}


def _readable_value(value: Any) -> Any:
    """Return a value, or its stand-in if JSON can't write it, or not read it at any stack depth."""
    try:
        json.dumps(value, default=_plain_value)
    except (TypeError, ValueError, RecursionError):
        return {UNREADABLE: type(value).__name__}
    return {UNREADABLE: type(value).__name__} if _is_too_deep(value) else value


def _is_too_deep(value: Any) -> bool:
    """Tell whether lists and dicts are nested more than `_DEEPEST` levels deep in a value."""
    # Level by level instead of recursively: the value may be deeper than the stack.
    level = [value]
    for _ in range(_DEEPEST + 1):
        children: list[Any] = []
        containers = [child for child in level if isinstance(child, list | tuple | dict)]
        for container in containers:
            children.extend(container.values() if isinstance(container, dict) else container)
        if not containers:
            return False
        level = children
    return True
