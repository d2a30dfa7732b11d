"""Read rows from an application's own database by a query that can't change it."""

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunetrail.data.formats.files import LONGEST_ROW
from tunetrail.errors import SampleError, first_line
from tunetrail.quick_sqlite import open_read_only
from tunetrail.samples import SourceRow

_FETCHED_ROWS = 1000
# How long a writer of the application is waited for.
_LOCK_SECONDS = 5.0
_EXAMPLE = "'SELECT question AS anchor, answer AS positive FROM faq'"
_RULE = "the database must be sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME"
# Texts, quoted names and comments, whose words and semicolons aren't the query's own.
_LITERALS = re.compile(
    r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\$(\w*)\$.*?\$\1\$|--[^\n]*|/\*.*?\*/", re.DOTALL
)


@dataclass(frozen=True)
class DatabaseQuery:
    """A query on an application's own database.

    Args:
        url: `sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/NAME`.
        query: One SELECT, or one WITH that ends in a SELECT.

    Raises:
        SampleError: The URL or the query is none of these.
    """

    url: str = field(repr=False)
    query: str

    def __post_init__(self) -> None:
        _checked_query(self.query)
        backend = self.address.get_backend_name()
        if backend not in ("sqlite", "postgresql", "postgres"):
            raise SampleError(f"{_RULE}, got a URL that begins with {backend}://.")

    @property
    def address(self) -> Any:
        """The URL in its parts."""
        from sqlalchemy import make_url
        from sqlalchemy.exc import ArgumentError

        try:
            return make_url(self.url)
        except (ArgumentError, ValueError) as error:
            raise SampleError(f"{_RULE}, got something else. Check its spelling.") from error

    @property
    def name(self) -> str:
        """The URL without its password, and without its query, which may hold one, too."""
        return str(self.address.set(query={}).render_as_string(hide_password=True))


def query_rows(source: DatabaseQuery) -> Iterator[SourceRow]:
    """Return an iterator over the rows of a query, read in a transaction that can't write.

    Raises:
        SampleError: The database is missing or fails, or the query does.
    """
    address, name = source.address, source.name
    statement = _checked_query(source.query)
    if address.get_backend_name() == "sqlite":
        path = Path(address.database or "").expanduser()
        if not path.is_file():
            raise SampleError(f"{name} doesn't exist. Check the path after sqlite:///.")
        return _rows(_sqlite_engine(path), statement, name)
    return _rows(_postgresql_engine(address), statement, name)


def _checked_query(query: str) -> str:
    """Return the query without its last semicolon; raises `SampleError` unless it is a SELECT."""
    # Only for a clear message: the transaction refuses what writes.
    bare = _LITERALS.sub(" ", query).strip().rstrip(";").strip()
    first_word = bare.partition(" ")[0].split("\n")[0].split("(")[0].upper()
    if first_word not in ("SELECT", "WITH", "VALUES") or ";" in bare:
        raise SampleError(
            f"--query must be one SELECT, got {query.strip()[:60]!r}. Write it like {_EXAMPLE}."
        )
    return query.strip().rstrip(";")


def _sqlite_engine(path: Path) -> Any:
    import sqlalchemy

    def connect() -> sqlite3.Connection:
        connection = open_read_only(path.absolute(), _LOCK_SECONDS)
        # The mode protects this file only, not another one that the query might attach.
        connection.execute("PRAGMA query_only = ON")
        return connection

    return sqlalchemy.create_engine("sqlite://", creator=connect, poolclass=sqlalchemy.NullPool)


def _postgresql_engine(address: Any) -> Any:
    import sqlalchemy

    try:
        return sqlalchemy.create_engine(
            address.set(drivername="postgresql+psycopg"),
            poolclass=sqlalchemy.NullPool,
            execution_options={"postgresql_readonly": True},
        )
    except ModuleNotFoundError as error:
        raise SampleError(
            "reading from PostgreSQL needs the package 'psycopg'. "
            "Install it: pip install 'tunetrail[postgres]'."
        ) from error


def _rows(engine: Any, statement: str, name: str) -> Iterator[SourceRow]:
    from sqlalchemy import text
    from sqlalchemy.exc import SQLAlchemyError

    # SQLAlchemy would take a colon, as in JSON, for the beginning of a parameter.
    clause = text(statement.replace(":", r"\:"))
    try:
        with engine.connect() as connection:
            # On the server's side: the rows come as they are read.
            options = {"stream_results": True, "max_row_buffer": _FETCHED_ROWS}
            result = connection.execution_options(**options).execute(clause)
            columns = _checked_columns(list(result.keys()))
            for position, values in enumerate(result, start=1):
                row = SourceRow(zip(columns, values, strict=True), name, position)
                _check_length(row, name, position)
                yield row
    except (SQLAlchemyError, sqlite3.Error) as error:
        reason = " ".join(first_line(getattr(error, "orig", None) or error).split())
        raise SampleError(
            f"{name} can't be read ({reason}). Check the URL and the query."
        ) from error


def _checked_columns(columns: list[str]) -> list[str]:
    repeated = sorted({column for column in columns if columns.count(column) > 1})
    if repeated:
        raise SampleError(
            f"--query must name each column once, got {', '.join(map(repr, repeated))} twice. "
            "Rename one with AS."
        )
    return columns


def _check_length(row: SourceRow, name: str, position: int) -> None:
    for column, value in row.items():
        if isinstance(value, str | bytes) and len(value) > LONGEST_ROW:
            raise SampleError(
                f"{name} must have texts of at most {LONGEST_ROW >> 20} MiB, got more in "
                f"{column!r} of row {position}. Leave it out of the query."
            )
