"""Reads names of sessions, runs and versions for completion: without SQLAlchemy, and never slowly.

Whatever goes wrong, there are no names: a Tab key is no place for an error.
"""

import contextlib
import sqlite3
from collections.abc import Iterator

from tunetrail.paths import sqlite_file
from tunetrail.quick_sqlite import open_read_only

_MOST = 200
# How long a lock or a server is waited for.
_SECONDS = 1
# What gives the names of a kind, each with what is said about it.
_STATEMENTS = {
    "sessions": "SELECT session_id, '' FROM sessions ORDER BY created_at DESC",
    "runs": (
        "SELECT mlflow_run_id, state || ', session ' || session_id || ', ' || model_type "
        "FROM training_runs WHERE mlflow_run_id IS NOT NULL ORDER BY created_at DESC"
    ),
    "resumable": (
        "SELECT mlflow_run_id, state || ', session ' || session_id || ', ' || model_type "
        "FROM training_runs WHERE mlflow_run_id IS NOT NULL "
        "AND state IN ('failed', 'interrupted', 'running') ORDER BY created_at DESC"
    ),
    "sweeps": "SELECT DISTINCT study, '' FROM study_logs",
    "families": "SELECT DISTINCT model_name, '' FROM promotions",
    "versions": (
        "SELECT DISTINCT model_name || '/' || version, '' FROM promotions WHERE version <> ''"
    ),
}


def quick_names(url: str, kind: str) -> list[tuple[str, str]]:
    """Return names of the database and what to say about each, the newest first; [] on any error.

    Args:
        url: SQLite or PostgreSQL, as in `database.url`.
        kind: `sessions`, `runs`, `resumable`, `sweeps`, `families` or `versions`.
    """
    try:
        with _connection(url) as connection:
            cursor = connection.cursor()
            cursor.execute(f"{_STATEMENTS[kind]} LIMIT {_MOST}")
            return [(str(name), str(text)) for name, text in cursor.fetchall()]
    # The driver of PostgreSQL is optional, and its errors have a module of their own.
    except Exception:
        return []


@contextlib.contextmanager
def _connection(url: str) -> Iterator["sqlite3.Connection"]:
    file = sqlite_file(url)
    if file is not None:
        with contextlib.closing(open_read_only(file, _SECONDS)) as database:
            yield database
        return

    import psycopg

    server = url.replace("postgresql+psycopg://", "postgresql://", 1)
    with psycopg.connect(server, connect_timeout=_SECONDS) as session:
        yield session  # type: ignore[misc]
