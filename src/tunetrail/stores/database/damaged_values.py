"""Values of the database that can't be read: damaged by a disk, or written by another program."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Column, Connection, String, cast, select

from tunetrail.errors import DatabaseError
from tunetrail.stores.database.tables import Base, UtcDateTime


@contextmanager
def naming_damage(connection: Connection, shown_url: str) -> Iterator[None]:
    """Let an error over a value that can't be read name its table, its row and its field.

    Raises:
        DatabaseError: A value that was read in the block is damaged.
    """
    try:
        yield
    # What SQLAlchemy's types raise says nothing of where the value stands.
    except (TypeError, ValueError) as error:
        damage = _first_damage(connection)
        if damage is None:
            raise
        raise DatabaseError(
            f"The database {shown_url} has a value that can't be read: {damage}. Restore the "
            "database from a copy, or correct the value."
        ) from error


def _first_damage(connection: Connection) -> str | None:
    """Return the first value that can't be read, in words; None if all can be read.

    Only SQLite keeps such values: PostgreSQL checks its columns.
    """
    if connection.dialect.name != "sqlite":
        return None
    for table in Base.metadata.sorted_tables:
        keys = list(table.primary_key.columns)
        for column in table.columns:
            if not isinstance(column.type, JSON | UtcDateTime):
                continue
            for *identity, text in connection.execute(select(*keys, cast(column, String))):
                if text is not None and not _is_readable(column, text):
                    row = ", ".join(map(str, identity))
                    # JSON may be somebody's text, which doesn't belong in a message.
                    form = "JSON" if isinstance(column.type, JSON) else "date"
                    return f"{table.name}, row {row}, {column.name} is no {form}"
    return None


def _is_readable(column: Column[Any], text: str) -> bool:
    try:
        if isinstance(column.type, JSON):
            json.loads(text)
        else:
            datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
