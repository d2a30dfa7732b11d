"""Reads the alias `root` from MLflow's SQLite file without the seconds of importing MLflow."""

import contextlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

_STATEMENT = "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = 'root'"


@dataclass(frozen=True)
class Alias:
    """Where the alias is.

    Attributes:
        version: The version that it names; None if there is no alias.
    """

    version: str | None


def quick_alias(uri: str, name: str) -> Alias | None:
    """Return where root of a registered model is; None if only MLflow itself can tell.

    Args:
        uri: The MLflow store.
        name: The registered model.
    """
    file = _sqlite_file(uri)
    if file is None or not file.is_file():
        return None
    try:
        address = f"file:{quote(str(file))}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=20)) as connection:
            row = connection.execute(_STATEMENT, (name,)).fetchone()
    # A later MLflow may keep aliases elsewhere.
    except sqlite3.Error:
        return None
    return Alias(None if row is None else str(row[0]))


def is_missing_file(uri: str) -> bool:
    """Return whether an MLflow store is a SQLite file that doesn't exist."""
    file = _sqlite_file(uri)
    return file is not None and not file.is_file()


def _sqlite_file(uri: str) -> Path | None:
    prefix = "sqlite:///"
    return Path(uri.removeprefix(prefix)).resolve() if uri.startswith(prefix) else None
