"""Reads the alias `root` from MLflow's SQLite file without the seconds of importing MLflow."""

import contextlib
import sqlite3
from dataclasses import dataclass
from urllib.parse import quote

from tunetrail.paths import sqlite_file

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
    file = sqlite_file(uri)
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
