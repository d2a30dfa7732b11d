"""Turn the failures of database drivers into readable errors of one line."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from tunetrail.errors import FREE_SPACE, DatabaseError, is_disk_full

_DISK_FULL = f"The disk is full. {FREE_SPACE}"
# What to do, by words of the driver's message; the first that match decide.
_ADVICE = {
    "database or disk is full": _DISK_FULL,
    "no space left on device": _DISK_FULL,
    "could not extend file": _DISK_FULL.replace("The disk", "The server's disk"),
    "file is not a database": "The file isn't a SQLite database. Correct database.url.",
    "malformed": "The file is damaged. Restore a backup or give another path in database.url.",
    "unable to open database file": "The file can't be opened. Check its path and permissions.",
    "readonly database": "The file or its folder can't be written. Check the permissions.",
    "database is locked": "Another process kept it locked for too long. Stop it or try again.",
    "disk i/o error": "The disk or the network folder failed, or memory is short. Check them.",
    "append-only": "The ledger of promotions is append-only. Record a new decision instead.",
    "connection refused": "The server can't be reached. Check its host and port, and that it runs.",
    "failed to resolve host": "The server's host name is unknown. Check database.url.",
    "timeout expired": "The server doesn't answer. Check its host, its port and the network.",
    "password authentication failed": "The user or the password is wrong. Check database.url.",
    "no password supplied": "The server requires a password. Add it to database.url.",
    "does not exist": "It is missing on the server. Create it, or check database.url.",
    "permission denied": "Check the permissions of the file or of the database user.",
}
_FILE_IN_PATH = "Its folder can't be made: a part of the path is a file. Check database.url."
_ADVICE_BY_ERRNO = {
    errno.EACCES: "Its folder can't be written. Check the permissions.",
    errno.EROFS: "Its folder can't be written: the file system is read-only.",
    errno.ENOTDIR: _FILE_IN_PATH,
    errno.EEXIST: _FILE_IN_PATH,
    errno.EISDIR: "The path is a folder. Give the path of a file in database.url.",
}


def shown(url: URL) -> str:
    """Return the URL without its password, and without its query, which may hold one as well."""
    return url.set(query={}).render_as_string(hide_password=True)


@contextmanager
def readable_failures(url: URL) -> Iterator[None]:
    """Turn every failure of the database or its file into a `DatabaseError` of one line."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise DatabaseError(f"The database {shown(url)} failed. {_explained(error)}") from error
    # SQLAlchemy imports a driver only when the engine is made.
    except ModuleNotFoundError as error:
        advice = f"needs the package {error.name!r}. Install `psycopg[binary]`."
        raise DatabaseError(f"The database {shown(url)} {advice}") from error


def _explained(error: Exception) -> str:
    # By number: the words of the operating system depend on its language.
    if isinstance(error, OSError) and is_disk_full(error):
        return _DISK_FULL
    if isinstance(error, OSError) and error.errno in _ADVICE_BY_ERRNO:
        return _ADVICE_BY_ERRNO[error.errno]

    # The driver's own message, without the statement that SQLAlchemy adds.
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    text = str(cause)
    if not isinstance(error, OperationalError):
        # Further lines of the server's answer may hold the values of a row.
        text = text.partition("\n")[0]
    text = " ".join(text.split())

    matching = (advice for words, advice in _ADVICE.items() if words in text.lower())
    advice = next(matching, "")
    return f"{advice} ({text})" if advice else f"{type(cause).__name__}: {text}"
