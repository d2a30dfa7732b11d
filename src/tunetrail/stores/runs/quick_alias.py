"""Reads the alias `root` from MLflow's SQLite file without the seconds of importing MLflow."""

import contextlib
import sqlite3
from dataclasses import dataclass

from tunetrail.paths import sqlite_file
from tunetrail.quick_sqlite import open_read_only

_STATEMENT = "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = 'root'"
# How long a lock is waited for.
_SECONDS = 20


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
    file = sqlite_file(uri)
    if file is None or not file.is_file():
        return None
    try:
        with contextlib.closing(open_read_only(file, _SECONDS)) as connection:
            return Alias(root_version_in(connection, name))
    # A later MLflow may keep aliases elsewhere.
    except sqlite3.Error:
        return None


def root_version_in(connection: sqlite3.Connection, name: str) -> str | None:
    """Return the version of a registered model that is root in MLflow's database, or None."""
    row = connection.execute(_STATEMENT, (name,)).fetchone()
    return None if row is None else str(row[0])
