"""Locks that all processes of a database share, and that end with the process that holds them.

SQLite's are files next to the database, for the processes of one machine. PostgreSQL's are held by
the server, for the processes of all machines.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import text

from tunetrail.locks import file_lock, wait_for_lock
from tunetrail.stores.database.connection import DatabaseConnection

_TRY_TO_LOCK = text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))")
# The server shows the two halves of a lock's key in two columns.
_HOLDER = text(
    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND "
    "((classid::bigint << 32) | objid::bigint) = hashtextextended(:name, 0)"
)


@contextlib.contextmanager
def database_lock(
    database: DatabaseConnection, name: str, in_words: str, most_seconds: float | None = None
) -> Iterator[None]:
    """Hold a lock of a database, after waiting for the process that holds it.

    Args:
        database: The database.
        name: The name of the lock, which can be part of a file's name.
        in_words: What is locked, for messages.
        most_seconds: How long to wait; None for $TUNETRAIL_LOCK_SECONDS, or else ten minutes.

    Raises:
        LockError: Another process held the lock for too long.
    """
    if database.url.get_backend_name() != "postgresql":
        path = Path(str(database.url.database))
        # Its folder may be missing with the file.
        lock = path.with_name(f".{path.name}.{name}.lock")
        with file_lock(lock, most_seconds=most_seconds):
            yield
        return

    parameters = {"name": f"tunetrail {name}"}
    with database.connection() as connection:

        def try_to_lock() -> bool:
            with connection.begin():
                return bool(connection.scalar(_TRY_TO_LOCK, parameters))

        def holder() -> str:
            with connection.begin():
                return f"the server's process {connection.scalar(_HOLDER, parameters)}"

        wait_for_lock(try_to_lock, in_words, holder, most_seconds)
        # Closing the connection ends the lock.
        yield
