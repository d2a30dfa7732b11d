"""Files of a run's folder: JSON and Parquet, nothing pickled, each written whole or not at all."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from tunetrail.data import row_files
from tunetrail.errors import UserError, first_line
from tunetrail.paths import private_file, replacing_file


def write_json(content: Any, path: Path) -> None:
    """Write plain values to a file; they are on the disk when this returns."""
    with replacing_file(path) as file:
        file.write(json.dumps(content, ensure_ascii=False).encode("utf-8"))


def write_rows(rows: pd.DataFrame, path: Path) -> None:
    """Write a frame of rows to a Parquet file."""
    unfinished = path.with_name(f".{path.name}")
    # Not synced: a Parquet file cut off by a power cut has no footer, which the reader notices.
    rows.to_parquet(private_file(unfinished), index=False)
    os.replace(unfinished, path)


def read_rows(path: Path) -> pd.DataFrame:
    """Read a Parquet file of rows; raises `UserError` if it is gone or broken."""
    with needed_to_resume(path):
        return row_files.read_rows(path)


@contextmanager
def needed_to_resume(path: Path) -> Iterator[None]:
    """Turn the failure to read a file into a `UserError` that names the file and what to do."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:  # pyarrow raises ValueErrors
        # KeyError and TypeError come from JSON that lacks a key or has one too many.
        raise UserError(
            f"{path} must be readable to resume the run: {first_line(error)}. "
            "Start it again with `tunetrail train`."
        ) from error


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
