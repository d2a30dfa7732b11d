"""Opens a SQLite file for reading only, without the seconds of importing MLflow or SQLAlchemy."""

import sqlite3
from pathlib import Path
from urllib.parse import quote


def open_read_only(file: Path, seconds: float) -> sqlite3.Connection:
    """Return a connection that can't write; raises `sqlite3.Error` if there is no such file.

    Args:
        file: The file, absolute.
        seconds: How long a lock is waited for.
    """
    return sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=seconds)
