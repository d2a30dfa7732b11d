"""One readable line for each way in which a database fails. Knows the drivers' messages, and no table."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from tunetrail.errors import DatabaseError

_ADVICE = (
    (
        "database or disk is full",
        "The disk is full. Free some space and run the same command again.",
    ),
    (
        "no space left on device",
        "The disk is full. Free some space and run the same command again.",
    ),
    (
        "could not extend file",
        "The server's disk is full. Free some space and run the same command again.",
    ),
    (
        "file is not a database",
        "The file is no SQLite database. Give another path in database.url.",
    ),
    (
        "malformed",
        "The file is damaged. Restore it from a backup or give another path in database.url.",
    ),
    ("unable to open database file", "The file can't be opened. Check its path and permissions."),
    ("readonly database", "The file or its folder can't be written. Check the permissions."),
    (
        "database is locked",
        "Another process kept it locked for too long. Stop that process or try again.",
    ),
    (
        "disk i/o error",
        "The disk or the network folder failed. Check it and run the same command again.",
    ),
    ("append-only", "The ledger of promotions is append-only. Record a new decision instead."),
    (
        "connection refused",
        "The server can't be reached. Check that it runs, and its host and port.",
    ),
    ("failed to resolve host", "The server's host name is unknown. Check database.url."),
    ("timeout expired", "The server doesn't answer. Check its host, port and the network."),
    (
        "password authentication failed",
        "The server refuses this user or password. Check database.url.",
    ),
    ("no password supplied", "The server wants a password. Put it into database.url."),
    ("does not exist", "Create what is missing on the server, or check database.url."),
    (
        "permission denied",
        "Permission is denied. Check the permissions of the file or of the database user.",
    ),
)
_ADVICE_BY_NUMBER = {
    errno.ENOSPC: "The disk is full. Free some space and run the same command again.",
    errno.EACCES: "Its folder can't be written. Check the permissions.",
    errno.EROFS: "Its folder can't be written: the file system is read-only.",
    errno.ENOTDIR: "Its folder can't be made: a part of the path is a file. Give another path in database.url.",
    errno.EEXIST: "Its folder can't be made: a part of the path is a file. Give another path in database.url.",
    errno.EISDIR: "The path is a folder. Give the path of a file in database.url.",
}


def shown(url: URL) -> str:
    """Return the URL without its password and without its query, which may hold one too."""
    return url.set(query={}).render_as_string(hide_password=True)


@contextmanager
def readable_failures(url: URL) -> Iterator[None]:
    """Turn every failure of the database or its file into a `DatabaseError` of one line."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise DatabaseError(f"The database {shown(url)} failed. {_explained(error)}") from error
    except ModuleNotFoundError as error:
        raise DatabaseError(
            f"The database {shown(url)} needs the package {error.name!r}. Install `psycopg[binary]`."
        ) from error


def _explained(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in _ADVICE_BY_NUMBER:
        return _ADVICE_BY_NUMBER[error.errno]
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    # Further lines of the server's answer may hold the values of a row, except where it could not be reached at all.
    text = str(cause) if isinstance(error, OperationalError) else str(cause).partition("\n")[0]
    text = " ".join(text.split())
    advice = next((advice for words, advice in _ADVICE if words in text.lower()), "")
    return f"{advice} ({text})" if advice else f"{type(cause).__name__}: {text}"
