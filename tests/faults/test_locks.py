"""Locks that another process holds: a command says what it waits for, and goes on or gives up."""

import fcntl
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from tests.faults.conftest import Overrides
from tests.faults.processes import Command
from tests.faults.test_kills import check_nothing_is_left

from tunetrail.stores.database.manager import DatabaseManager

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SECONDS = 4.0
"""How long a lock is held: longer than a command waits in silence."""
PATIENCE = {"TUNETRAIL_LOCK_SECONDS": "2"}
"""A command gives up after these seconds."""

Hold = Callable[[Path], AbstractContextManager[None]]


@contextmanager
def held_file(file: Path) -> Iterator[None]:
    """Hold the lock of a file."""
    with open(file, "a") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield


@contextmanager
def held_database(file: Path) -> Iterator[None]:
    """Hold a transaction that writes to a SQLite database."""
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


ROWS = '{"anchor": "a new question", "positive": "a new answer"}\n'
INGEST = ("ingest", "rows.jsonl", "--session", "s2", "--kind", "embedding")
LOCKS = [
    ("train", ".mlflow.db.embedding.root.lock", held_file),
    ("train", ".mlflow.db.initialise.lock", held_file),
    ("rollback", ".tunetrail.db.embedding.root.lock", held_file),
    ("train", "tunetrail.db", held_database),
    ("train", "mlflow.db", held_database),
    ("ingest", "tunetrail.db", held_database),
]


def arguments_of(command: str, overrides: Overrides) -> tuple[str, ...]:
    """Return a command and its arguments."""
    if command == "ingest":
        return INGEST
    if command == "rollback":
        return ("root", "rollback", "embedding", "base", "--reason", "tried")
    return ("train", *overrides("seed=1"))


@pytest.mark.parametrize(("command", "file", "hold"), LOCKS)
def test_a_lock_that_is_released_delays_a_command(
    project: Path, overrides: Overrides, command: str, file: str, hold: Hold
) -> None:
    (project / "rows.jsonl").write_text(ROWS)
    started = Command(folder=project, arguments=arguments_of(command, overrides))

    with hold(project / file):
        started.start()
        time.sleep(SECONDS)
        while command == "rollback" and "waiting for" not in started.printed():
            assert started.is_running, started.printed()
            time.sleep(0.1)

    ended = started.wait()
    assert ended.exit_code == 0, ended.printed
    check_nothing_is_left(project)


@pytest.mark.parametrize(
    ("command", "file"),
    [
        ("train", ".mlflow.db.embedding.root.lock"),
        ("rollback", ".tunetrail.db.embedding.root.lock"),
    ],
)
def test_a_lock_that_is_never_released_ends_a_command_in_one_line(
    project: Path, overrides: Overrides, command: str, file: str
) -> None:
    arguments = arguments_of(command, overrides)
    with held_file(project / file):
        ended = Command(folder=project, arguments=arguments, environment=PATIENCE).run()

    assert ended.exit_code == 1, ended.printed
    assert file in ended.last_line and "held by process" in ended.last_line
    assert "Traceback" not in ended.printed

    # What had to wait is done by the next one.
    with DatabaseManager(f"sqlite:///{project}/tunetrail.db") as database:
        run = database.training_runs()[-1]
    if command == "train":
        arguments = ("resume", run.run_id)
    ended = Command(folder=project, arguments=arguments).run()
    assert ended.exit_code == 0, ended.printed
    check_nothing_is_left(project)
