import logging
import os
import shutil
import sqlite3
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from tunetrail import DatabaseManager, Session
from tunetrail.errors import ConfigError
from tunetrail.stores.database import log_writer
from tunetrail.stores.database.log_spool import (
    LogSpool,
    deliver_left_entries,
    entries_of,
    spool_folder,
)


@pytest.fixture(autouse=True)
def quick_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_SECONDS_BETWEEN_BATCHES", "_SECONDS_BETWEEN_ATTEMPTS"):
        monkeypatch.setattr(log_writer, name, 0.02)


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/tunetrail.db"


def entries(database: str) -> list[tuple[Any, ...]]:
    """Return entry, kind and the entry that it is about, in the order of their arrival."""
    with sqlite3.connect(database.removeprefix("sqlite:///")) as connection:
        return connection.execute(
            "SELECT entry_id, kind, about FROM log_entries ORDER BY id"
        ).fetchall()


def log_pairs(session: Session, count: int) -> list[str]:
    return [session.log(anchor=f"question {n}", positive=f"answer {n}") for n in range(count)]


def test_session_stores_entries_of_all_threads_in_the_order_of_each(database: str) -> None:
    ids: list[list[str]] = [[] for _ in range(4)]
    with Session("s1", "embedding", database) as session:
        threads = [
            threading.Thread(target=lambda n=n: ids[n].extend(log_pairs(session, 50)))
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        session.feedback(ids[0][0], "up")
        assert session.end()

        stored = [entry_id for entry_id, *_ in entries(database)]
        assert [[entry_id for entry_id in stored if entry_id in set(of)] for of in ids] == ids
        assert [kind for _, kind, _ in entries(database)][-2:] == ["feedback", "end"]
        assert entries(database)[-2][2] == ids[0][0]
        status = session.status
        assert (status.logged, status.delivered, status.waiting, status.dropped) == (202, 202, 0, 0)

    # Nothing is left on disk.
    assert not spool_folder(database).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"session_id": "../x"}, "session_id must be 1 to 128 letters"),
        ({"kind": "embeding"}, "kind must be one of conversation, embedding, llm.*'embedding'"),
        ({"database": "mysql://x"}, "database.url must be sqlite"),
        ({"most_characters": 10}, "most_characters must be at least 100000, got 10"),
    ],
)
def test_session_refuses_wrong_arguments_at_once(
    database: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Session(**{"session_id": "s1", "kind": "embedding", "database": database} | arguments)


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda session: session.log(), "log must be given the columns of a row"),
        (lambda session: session.log(42), "not a mapping"),
        (lambda session: session.log(anchor="a"), "columns must"),
        (lambda session: session.feedback("x\ty", "up"), "feedback must name a sample by the id"),
        (lambda session: session.feedback("0123456789abcdef-0"), "must have a verdict"),
        (
            lambda session: session.feedback("0123456789abcdef-0", correction="x"),
            "correction is for conversations",
        ),
    ],
)
def test_session_never_raises_and_says_a_problem_once(
    database: str, call: Any, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Session("s1", "embedding", database) as session:
        call(session)
        call(session)
        status = session.status

    assert problem in status.last_problem
    assert len(caplog.records) == 1 and problem in caplog.text


def test_session_logs_what_json_does_not_know_as_text(database: str) -> None:
    with Session("s1", "embedding", database) as session:
        row: dict[str, Any] = {"anchor": "a", "positive": "b", "score": float("nan"), "own": {1, 2}}
        session.log(row, path=Path("x"))
        circle: list[Any] = []
        circle.append(circle)
        session.log(anchor="a", positive=circle)

    assert session.status.problems == 1 and len(entries(database)) == 1


def test_session_spools_while_the_database_is_away_and_delivers_in_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # A file in the place of the folder: the database can't be made.
    folder = tmp_path / "folder"
    folder.touch()
    database, spool = f"sqlite:///{folder}/tunetrail.db", tmp_path / "spool"
    session = Session("s1", "embedding", database, spool=spool)

    ids = log_pairs(session, 20)
    assert session.flush()
    assert not session.close(seconds=0.2)
    (file,) = spool.glob("*.entries")
    in_spool = [entry.entry_id for entry in entries_of(file.read_bytes())]
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (spool, file)]
    folder.unlink()
    ids += log_pairs(session, 20)
    assert session.close()

    assert in_spool == ids[:20] and modes == [0o700, 0o600]
    assert [entry_id for entry_id, *_ in entries(database)] == ids
    assert not spool.exists()
    texts = [record.getMessage() for record in caplog.records]
    assert (
        len(texts) == 3 and "entries are kept in" in texts[0] and "has the entries now" in texts[2]
    )


def test_session_goes_around_a_disk_that_cannot_be_written(
    database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = tmp_path / "file"
    spool.touch()

    for durable in (False, True):
        with Session("s1", "embedding", database, spool=spool, durable=durable) as session:
            log_pairs(session, 10)
            assert session.flush()

    assert len(entries(database)) == 20
    assert len(caplog.records) == 2 and "entries can't be kept in" in caplog.text


def test_session_bounds_memory_and_counts_what_it_drops(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "folder"
    folder.touch()
    database = f"sqlite:///{folder}/tunetrail.db"
    session = Session("s1", "llm", database, spool=folder / "spool", most_characters=100_000)

    ids = [session.log(text="x" * 10_000) for _ in range(20)]
    assert not session.flush(seconds=0.1)
    dropped = session.status.dropped
    folder.unlink()
    assert session.close()

    assert dropped == 11
    # What waited first is kept.
    assert [entry_id for entry_id, *_ in entries(database)] == ids[:9]
    assert session.flush() and session.status.waiting == 0
    assert sum("entries are dropped" in record.getMessage() for record in caplog.records) == 1


def test_durable_session_has_each_entry_on_disk_when_the_call_returns(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.touch()
    spool = tmp_path / "spool"
    session = Session("s1", "llm", f"sqlite:///{folder}/t.db", spool=spool, durable=True)

    for count in range(1, 4):
        session.log(text=f"text {count}")
        (file,) = spool.glob("*.entries")
        assert len(list(entries_of(file.read_bytes()))) == count

    folder.unlink()
    assert session.close()


def test_entries_of_a_dead_process_are_delivered_once_and_without_a_cut_off_line(
    database: str, tmp_path: Path
) -> None:
    spool = LogSpool(tmp_path / "spool")
    line = "0123456789abcdef-{}\ts1\tllm\t\t1.5\t{{}}\n"
    spool.append("".join(line.format(n) for n in range(3)))
    spool.append("0123456789abcdef-3\ts1\tllm\t\t1.5\t{")
    assert spool.path is not None
    # Another file, as the lock ends with a process only.
    shutil.copy(spool.path, spool.folder / "1-1.entries")

    with DatabaseManager(database) as manager:
        assert deliver_left_entries(manager, spool.folder) == 3
        assert deliver_left_entries(manager, spool.folder) == 0
        # The spool of a living process is left to it.
        assert spool.path.exists()

    assert len(entries(database)) == 3
    spool.abandon()


def test_next_session_delivers_what_a_dead_process_left(database: str) -> None:
    folder = spool_folder(database)
    spool = LogSpool(folder)
    spool.append("0123456789abcdef-0\ts0\tllm\t\t1.5\t{}\n")
    spool.abandon()

    with Session("s1", "llm", database) as session:
        session.log(text="a text")

    assert next(entry_id for entry_id, *_ in entries(database)) == "0123456789abcdef-0"
    assert not folder.exists()


def test_spool_takes_all_of_an_append_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = LogSpool(tmp_path)
    spool.append("first\n")
    assert spool.path is not None
    with monkeypatch.context() as patched:
        # A disk that is full takes the beginning.
        write = os.write
        patched.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
        with pytest.raises(OSError, match="a part of the lines"):
            spool.append("second\n")
    spool.append("third\n")

    assert spool.path.read_text() == "first\nthird\n"
    spool.abandon()


def test_a_forked_process_has_ids_and_a_spool_of_its_own(database: str) -> None:
    session = Session("s1", "embedding", database)
    first = log_pairs(session, 5)

    child = os.fork()
    if child == 0:
        # Without pytest's own end of the process.
        log_pairs(session, 5)
        os._exit(0 if session.close() and session.status.delivered == 5 else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    second = log_pairs(session, 5)
    assert session.close()
    stored = [entry_id for entry_id, *_ in entries(database)]
    assert len(stored) == len(set(stored)) == 15 and set(first + second) < set(stored)


def test_spool_folder_of_a_server_says_nothing_about_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    folder = spool_folder("postgresql+psycopg://ada:secret@host/shop")

    assert folder.parent == Path("/state/tunetrail") and folder.name.startswith("spool-")
    assert folder == spool_folder("postgresql+psycopg://ada:other@host/shop")


def test_session_says_nothing_about_a_good_first_row(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), Session("s1", "embedding", database) as session:
        log_pairs(session, 1)

    assert [record for record in caplog.records if record.name.startswith("tunetrail")] == []
