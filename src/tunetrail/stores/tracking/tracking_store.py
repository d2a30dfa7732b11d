"""MLflow's store: a SQLite file, a database or a server, and the locks on it."""

import contextlib
import functools
import hashlib
import logging
import os
import re
import socket
import sqlite3
import stat
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import sqlalchemy
from sqlalchemy import NullPool, make_url, text
from sqlalchemy.exc import SQLAlchemyError

from tunetrail.config import TrackingConfig
from tunetrail.errors import ConfigError
from tunetrail.locks import file_lock, wait_for_lock
from tunetrail.paths import cache_dir, private_folder, sqlite_file
from tunetrail.stores.tracking.tracking_errors import shown_uri

_DEFAULT_PORTS = {"http": 80, "https": 443}
_CONNECT_SECONDS = 10
_SECONDS_BETWEEN_ATTEMPTS = 1.0
_log = logging.getLogger(__name__)


def absolute_uri(uri: str) -> str:
    """Return the URI with an absolute path if it is that of a SQLite file.

    Raises:
        ConfigError: MLflow would open another file than the one that the URI names.
    """
    file = sqlite_file(uri)
    if file is None:
        return uri

    # MLflow writes the path into a statement as Python's repr, whose \' is none of SQL's.
    if "'" in str(file) and '"' in str(file):
        raise ConfigError(
            "tracking.uri must be a file whose path has at most one kind of quotation marks, got "
            f"{str(file)!r}. Rename the folder, or name a file in another one."
        )
    # SQLAlchemy takes what follows a ? for options and decodes %20. MLflow doesn't decode it and
    # makes a second folder, so that there is no way to write such a path.
    if "?" in str(file) or re.search("%[0-9A-Fa-f]{2}", str(file)):
        raise ConfigError(
            "tracking.uri must be a file whose path has no ? and no % before two digits, "
            f"got {str(file)!r}. Rename the folder, or name a file in another one."
        )
    return f"sqlite:///{file}"


def is_database(uri: str) -> bool:
    """Tell whether MLflow opens a database by itself, instead of asking a server."""
    return urlsplit(uri).scheme.partition("+")[0] in ("sqlite", "postgresql", "mysql", "mssql")


def check_answers(uri: str) -> None:
    """Raise an error at once if the store can't be used; MLflow would try again for minutes.

    Raises:
        OSError: The server doesn't listen, or its port is no port.
        SQLAlchemyError: The database refuses the user or the password, or doesn't exist.
    """
    url = urlsplit(uri)
    try:
        port = url.port
    except ValueError as error:
        raise OSError("its port must be a number from 0 to 65535") from error

    if url.scheme in _DEFAULT_PORTS and url.hostname:
        address = (url.hostname, port or _DEFAULT_PORTS[url.scheme])
        socket.create_connection(address, timeout=_CONNECT_SECONDS).close()
    elif is_database(uri) and sqlite_file(uri) is None:
        with _engine(uri).connect():
            pass


def wait_until_answers(uri: str, most_seconds: float) -> None:
    """Return once the store answers; raise as `check_answers` does when the time is over."""
    began, has_spoken = time.monotonic(), False
    while True:
        try:
            check_answers(uri)
            return
        except (OSError, SQLAlchemyError):
            if time.monotonic() - began >= most_seconds:
                raise
        if not has_spoken:
            _log.warning("waiting up to %.0f s for MLflow at %s", most_seconds, shown_uri(uri))
            has_spoken = True
        time.sleep(_SECONDS_BETWEEN_ATTEMPTS)


@contextlib.contextmanager
def store_lock(uri: str, purpose: str) -> Iterator[None]:
    """Hold the lock of a store for a purpose, after waiting for the process that holds it.

    MLflow itself locks neither the migrations of a fresh database nor the aliases of models.
    PostgreSQL keeps the lock itself, so that it holds among machines; a SQLite file has a lock file
    next to it. The lock of a server is shared by the processes of this user on this machine only.

    Raises:
        OSError: The lock file can't be made, or the lock isn't free after
            $TUNETRAIL_LOCK_SECONDS, or else ten minutes.
        SQLAlchemyError: The database can't be asked.
    """
    if urlsplit(uri).scheme.startswith("postgresql"):
        with _advisory_lock(uri, purpose):
            yield
        return

    file = sqlite_file(uri)
    if file is not None:
        lock = file.parent / f".{file.name}.{purpose}.lock"
    else:
        store = hashlib.sha256(uri.encode()).hexdigest()[:16]
        lock = _lock_folder() / f"{store}.{purpose}.lock"
    with file_lock(lock):
        yield


@contextlib.contextmanager
def _advisory_lock(uri: str, purpose: str) -> Iterator[None]:
    statement = text("SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 0))")
    name = {"name": f"tunetrail mlflow {purpose}"}
    # MLflow works on connections of its own meanwhile: this one only holds the lock.
    with _engine(uri).begin() as connection:
        wait_for_lock(
            lambda: bool(connection.scalar(statement, name)),
            f"the lock {purpose!r} of {shown_uri(uri)}",
            lambda: "another process",
        )
        yield


def _engine(uri: str) -> sqlalchemy.Engine:
    url = make_url(uri)
    arguments = {}
    if url.get_backend_name() == "postgresql" and "connect_timeout" not in url.query:
        arguments["connect_timeout"] = _CONNECT_SECONDS
    return sqlalchemy.create_engine(url, poolclass=NullPool, connect_args=arguments)


def _lock_folder() -> Path:
    """Return a folder for locks that belongs to this user: others could hold the locks in it."""
    folder = private_folder(cache_dir() / "locks")
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise PermissionError(
            f"{folder} must be a folder of this user's own. Remove it, or set TUNETRAIL_CACHE."
        )
    folder.chmod(0o700)
    return folder


def use_write_ahead_log(uri: str) -> None:
    """Let other processes read a SQLite store while one writes; servers stay as they are."""
    file = sqlite_file(uri)
    if file is not None:
        # MLflow's pages can then read while a training writes.
        with contextlib.closing(sqlite3.connect(file, timeout=20)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")


def warn_of_unused_variables(config: TrackingConfig, activated_uris: Collection[str]) -> None:
    """Say which of MLflow's variables are set to something else than the settings.

    Args:
        config: The settings.
        activated_uris: The stores that this process has opened: MLflow sets its variables to them,
            also for the processes that this one starts.
    """
    for variable, key, setting in (
        ("MLFLOW_TRACKING_URI", "tracking.uri", config.uri),
        ("MLFLOW_REGISTRY_URI", "tracking.uri", config.uri),
        ("MLFLOW_EXPERIMENT_NAME", "tracking.experiment", config.experiment),
    ):
        configured = os.environ.get(variable, setting)
        if configured in (setting, *activated_uris):
            continue
        # The same file may be named relative to this folder.
        if sqlite_file(configured) != sqlite_file(setting) or sqlite_file(setting) is None:
            _warn_once(
                f"{variable}={shown_uri(configured)} is set but not used: {key} is "
                f"{shown_uri(setting)}. Give {key}=..., or tracking=server to use the variable"
            )


@functools.cache
def _warn_once(message: str) -> None:
    """Log a warning once per process: a command opens its store several times."""
    _log.warning(message)
