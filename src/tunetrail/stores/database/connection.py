"""The connection to the database: its URL, its settings per dialect, and its migrations.

Connections aren't pooled: opening one costs far less than a chunk of rows, a training of many hours
holds none, and a forked data loader inherits none.
"""

import json
import logging
import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy
from sqlalchemy import (
    URL,
    Connection,
    Engine,
    NullPool,
    column,
    event,
    make_url,
    select,
    table,
    text,
)
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError

from tunetrail.errors import ConfigError, DatabaseError
from tunetrail.locks import file_lock
from tunetrail.paths import private_file
from tunetrail.stores.database.damaged_values import naming_damage
from tunetrail.stores.database.failures import readable_failures, shown
from tunetrail.stores.database.tables import Base, SessionRow

HEAD_REVISION = "0011"
"""The newest revision in migrations/versions; a database at it opens without importing Alembic."""
VERSION_TABLE = "tunetrail_version"
"""Not Alembic's default name, which MLflow uses: it may be in the same database."""
_MIGRATIONS = Path(__file__).parent / "migrations"
# Any number that other programs on the same server are unlikely to use.
_ADVISORY_LOCK = 7_368_617_021
# Longer than another process needs for a chunk: SQLite has one writer at a time.
_BUSY_SECONDS = 30
_CONNECT_SECONDS = 10
# PostgreSQL's codes of a serialisation failure and of a deadlock.
_TRY_AGAIN = ("40001", "40P01")
_MOST_ATTEMPTS = 6
# Rows arrive in no order of their digests: with less, each row would read a page of that index.
_SQLITE_CACHE_KIB = 65_536
# Made once: `json.dumps` would make an encoder for every value.
_encode = json.JSONEncoder(allow_nan=False).encode
_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)


class DatabaseConnection:
    """Transactions on a database that is migrated at its first use."""

    def __init__(self, url: str) -> None:
        self.url = parse_url(url)
        self._engine: Engine | None = None
        self._lock = threading.Lock()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Yield a connection whose work is committed at the end, or rolled back.

        Raises:
            DatabaseError: The database can't be reached, read or written.
        """
        with readable_failures(self.url):
            engine = self._ready_engine()
            with engine.begin() as connection, naming_damage(connection, shown(self.url)):
                yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Yield a connection for reading, in one transaction.

        A SQLite file that doesn't exist is not made: it is read as an empty database.

        Raises:
            DatabaseError: The database can't be reached or read.
        """
        with readable_failures(self.url):
            if not self.is_missing():
                engine = self._ready_engine()
                with engine.begin() as connection, naming_damage(connection, shown(self.url)):
                    yield connection
                return

            # In memory, and gone with the connection.
            with make_engine(URL.create("sqlite")).begin() as connection:
                Base.metadata.create_all(connection)
                yield connection

    def is_missing(self) -> bool:
        """Return whether the database is a SQLite file that doesn't exist."""
        if self.url.get_backend_name() == "postgresql":
            return False
        try:
            Path(str(self.url.database)).stat()
        # Other errors, such as a file in the place of a folder, are for the user to see.
        except FileNotFoundError:
            return True
        return False

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Yield a connection for several transactions: opening one costs as much as 500 rows.

        Raises:
            DatabaseError: The database can't be reached.
        """
        with readable_failures(self.url):
            connection = self._ready_engine().connect()
        try:
            yield connection
        finally:
            with readable_failures(self.url):
                connection.close()

    def write(self, connection: Connection, work: Callable[[Connection], _Result]) -> _Result:
        """Do some work in one transaction, and return its result.

        The work is done again if the server ended the transaction in favour of another one.

        Raises:
            DatabaseError: The database can't be read or written, or ended every attempt.
        """
        with readable_failures(self.url):
            for attempt in range(1, _MOST_ATTEMPTS):
                try:
                    with connection.begin():
                        return work(connection)
                except DBAPIError as error:
                    if getattr(error.orig, "sqlstate", None) not in _TRY_AGAIN:
                        raise
                    reason = str(error.orig).partition("\n")[0]
                    _log.warning("the database ended attempt %d to write: %s", attempt, reason)
                # Not the same time for all: they would meet again.
                time.sleep(random.uniform(0.0, 0.1 * 2**attempt))

            with connection.begin():
                return work(connection)

    def close(self) -> None:
        """Dispose of the engine; a later transaction opens it again."""
        with self._lock:
            if self._engine is not None:
                self._engine.dispose()
                self._engine = None

    def _ready_engine(self) -> Engine:
        # Two threads may need the database first at the same moment: one of them migrates it.
        with self._lock:
            if self._engine is None:
                engine = make_engine(self.url)
                with _only_one_process(self.url):
                    _make_private_file(self.url)
                    _use_write_ahead_log(engine)
                    _migrate(engine)
                self._engine = engine
            return self._engine


def parse_url(url: str) -> URL:
    """Return the URL with the driver that tunetrail uses, and with an absolute path for SQLite.

    Raises:
        ConfigError: The URL is not of a SQLite file or a PostgreSQL server. The message doesn't
            show it, as it may hold a password.
    """
    rule = "database.url must be sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/NAME"
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise ConfigError(f"{rule}, got a value that is not a URL. Check its spelling.") from error
    if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
        return _with_absolute_path(parsed)
    if parsed.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise ConfigError(f"{rule}, got a URL that begins with {parsed.drivername}://.")
    # The URL's password ends at its first @: the remainder would be shown as the host.
    if "@" in (parsed.host or ""):
        raise ConfigError(f"{rule}, got a second @. Write an @ within the password as %40.")
    return parsed.set(drivername="postgresql+psycopg")


def _with_absolute_path(url: URL) -> URL:
    name = url.database or ""
    # Connections aren't pooled: each transaction would open an empty database in memory.
    if not name or name == ":memory:" or name.startswith("file:"):
        raise ConfigError(
            "database.url must name a SQLite file, got a database in memory. "
            "Write sqlite:///tunetrail.db, for example."
        )
    # A process that changes its folder has to stay with the same file.
    return url.set(drivername="sqlite", database=str(Path(name).expanduser().absolute()))


def make_engine(url: URL) -> Engine:
    """Return an engine with the settings of the URL's dialect, without connecting to it."""
    settings: dict[str, Any] = {
        "poolclass": NullPool,
        "json_serializer": json_text,
        # Parameters hold the texts of users, which don't belong in error messages.
        "hide_parameters": True,
    }
    if url.get_backend_name() == "postgresql":
        timeout = {} if "connect_timeout" in url.query else {"connect_timeout": _CONNECT_SECONDS}
        return sqlalchemy.create_engine(url, connect_args=timeout, **settings)
    engine = sqlalchemy.create_engine(url, connect_args={"timeout": _BUSY_SECONDS}, **settings)
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: DBAPIConnection, _record: object) -> None:
    # Python's driver begins no transaction before DDL or SELECT. With its transactions off, the
    # BEGIN of _begin_sqlite covers everything.
    connection.isolation_level = None
    # SQLite ignores foreign keys on each connection that doesn't ask for them.
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA cache_size = -{_SQLITE_CACHE_KIB}")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


@contextmanager
def _only_one_process(url: URL) -> Iterator[None]:
    """Let one process at a time prepare a SQLite file; PostgreSQL is locked by the migration."""
    if url.get_backend_name() == "postgresql":
        yield
        return
    path = Path(str(url.database))
    lock = path.with_name(path.name + ".lock")
    with file_lock(lock):
        yield


def _make_private_file(url: URL) -> None:
    # SQLite gives its -wal and -shm files the mode of the database's file.
    if url.get_backend_name() == "sqlite":
        private_file(Path(str(url.database)))


def _use_write_ahead_log(engine: Engine) -> None:
    if engine.dialect.name != "sqlite":
        return
    # With it, readers and the writer don't block each other. SQLite can't change the mode within
    # a transaction, so the statement bypasses the BEGIN of SQLAlchemy's connections.
    driver = engine.raw_connection()
    try:
        cursor = driver.cursor()
        # The file remembers the mode. To set it again would need a lock on a busy file.
        if cursor.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            cursor.execute("PRAGMA journal_mode = WAL")
    finally:
        driver.close()


def _migrate(engine: Engine) -> None:
    with engine.begin() as connection:
        if _revision(connection) == HEAD_REVISION:
            return
        if connection.dialect.name == "postgresql":
            # Held until the commit: the next process then finds the migration done.
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        _check_origin(connection)
        _upgrade(connection)


def _check_origin(connection: Connection) -> None:
    """Raise `DatabaseError` if there are tables, and nothing tells which version made them."""
    has_tables = sqlalchemy.inspect(connection).has_table(SessionRow.__tablename__)
    if has_tables and _revision(connection) is None:
        raise DatabaseError(
            f"The database {shown(connection.engine.url)} has tables, but its table "
            f"{VERSION_TABLE} doesn't say which version made them: its row was removed. Restore "
            f"the database from a copy, or write the revision there, such as {HEAD_REVISION}."
        )


def _revision(connection: Connection) -> str | None:
    if not sqlalchemy.inspect(connection).has_table(VERSION_TABLE):
        return None
    revision = connection.scalar(select(column("version_num")).select_from(table(VERSION_TABLE)))
    return None if revision is None else str(revision)


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    # Alembic's configuration takes a % for the start of an interpolation.
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["version_table"] = VERSION_TABLE
    try:
        command.upgrade(config, "head")
    # The database has a revision that isn't among these: a newer version migrated it.
    except CommandError as error:
        raise DatabaseError(
            f"The database {shown(connection.engine.url)} is from another version of tunetrail. "
            f"Update tunetrail, or give another database.url. ({error})"
        ) from error


def lock_until_commit(connection: Connection, name: str) -> None:
    """Wait for the transaction that holds a lock, and hold it until this one ends.

    SQLite has one writer at a time anyway.
    """
    if connection.dialect.name == "postgresql":
        statement = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")
        connection.execute(statement, {"name": f"tunetrail {name}"})


def json_text(value: Any) -> str:
    """Return JSON that every database accepts: NaN and infinities become null, objects text."""
    try:
        return _encode(value)
    except (TypeError, ValueError):
        # Nearly all values are plain JSON, so that only the others are copied.
        return _encode(_plain(value))


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    # Arrays and scalars of NumPy, and tensors of torch.
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return str(value)


def is_storable(text: str) -> bool:
    """Tell whether every database can hold a text as it is."""
    return "\0" not in text and (text.isascii() or storable(text) == text)


def storable(text: str) -> str:
    """Return the text with lone surrogates and NUL escaped, which PostgreSQL can't store."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
