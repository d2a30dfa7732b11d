"""Statements of many rows store the same as one statement for each row."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event

from tunetrail.errors import DatabaseError
from tunetrail.samples import SampleKind
from tunetrail.stores.database.connection import DatabaseConnection
from tunetrail.stores.database.insertion import insert_missing, insert_missing_values
from tunetrail.stores.database.manager import DatabaseManager
from tunetrail.stores.database.tables import SampleRow, SessionRow, now


@pytest.mark.parametrize("count", [1, 2, 3, 100, 2047, 2048, 2049, 5000])
def test_rows_keep_their_order_whatever_their_number(manager: DatabaseManager, count: int) -> None:
    rows = [{"text": f"text {n}"} for n in range(count)]
    assert manager.ingest("s", rows, SampleKind.LLM).added == count

    stored = [sample for chunk in manager.read_samples("s", SampleKind.LLM) for sample in chunk]
    assert [sample.row_id for sample in stored] == list(range(1, count + 1))
    assert [sample.sample.content for sample in stored] == rows


def test_only_the_missing_rows_of_a_statement_are_inserted(manager: DatabaseManager) -> None:
    manager.ingest("s", [{"text": f"text {n}"} for n in range(0, 3000, 3)], SampleKind.LLM)
    report = manager.ingest("s", [{"text": f"text {n}"} for n in range(3000)], SampleKind.LLM)
    assert (report.added, report.already_present) == (2000, 1000)


def counted_parameters(manager: DatabaseManager) -> list[int]:
    """Return a list that grows by the number of parameters of each statement from now on."""
    counts: list[int] = []

    @event.listens_for(manager._database._ready_engine(), "before_cursor_execute")
    def count(_connection: Any, _cursor: Any, _statement: str, parameters: Any, *_: Any) -> None:
        counts.append(len(parameters))

    return counts


# In a statement of PostgreSQL, each row has parameters of its own.
@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_statement_has_at_most_as_many_parameters_as_every_sqlite_takes(
    manager: DatabaseManager,
) -> None:
    counts = counted_parameters(manager)
    manager.ingest("s", [{"text": f"text {n}"} for n in range(9000)], SampleKind.LLM)
    # Only the content and the digest differ from row to row.
    assert 2 * 2048 < max(counts) < 2 * 2048 + 20


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_rows_that_differ_in_all_columns_are_within_the_limit_of_parameters(
    manager: DatabaseManager,
) -> None:
    counts = counted_parameters(manager)
    rows = [tuple(f"{column}{row}" for column in range(9)) for row in range(5000)]
    names = ("kind", "shape", "content", "group_name", "timestamp", "metadata", "digest")
    with manager._database.transaction() as connection:
        insert_missing(connection, SessionRow, [{"session_id": "s"}], created_at=now())
        values = [(*row[:7], float(index), index) for index, row in enumerate(rows)]
        columns = (*names, "weight", "occurrence")
        constant = {"session_id": "s", "created_at": now(), "logged": None}
        added = insert_missing_values(connection, SampleRow, columns, values, **constant)

    assert added == 5000 and 10_000 < max(counts) <= 32_766


def test_equal_rows_are_inserted_once(manager: DatabaseManager) -> None:
    database: DatabaseConnection = manager._database
    moment = now()
    with database.transaction() as connection:
        rows = [("a",)] * 5
        columns = ("session_id",)
        assert insert_missing_values(connection, SessionRow, columns, rows, created_at=moment) == 1


def test_insert_missing_of_constants_counts_the_new_rows(manager: DatabaseManager) -> None:
    database: DatabaseConnection = manager._database
    rows = [{"session_id": name} for name in ("a", "b", "a")]
    with database.transaction() as connection:
        assert insert_missing(connection, SessionRow, rows, created_at=now()) == 2
        assert insert_missing(connection, SessionRow, [], created_at=now()) == 0


def test_a_chunk_is_written_by_another_thread_while_the_next_one_is_read(
    manager: DatabaseManager,
) -> None:
    writers: set[int] = set()

    @event.listens_for(manager._database._ready_engine(), "begin")
    def begin(_connection: Any) -> None:
        writers.add(threading.get_ident())

    manager.ingest("s", [{"text": f"text {n}"} for n in range(30)], SampleKind.LLM, chunk_size=10)
    assert writers and threading.get_ident() not in writers


def test_what_was_read_before_an_error_is_stored(manager: DatabaseManager) -> None:
    def rows() -> Iterator[dict[str, str]]:
        for n in range(25):
            yield {"text": f"text {n}"}
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        manager.ingest("s", rows(), SampleKind.LLM, chunk_size=10)
    assert manager.session_summary("s").samples[SampleKind.LLM] == 20


def test_a_failure_of_the_database_ends_the_ingest(manager: DatabaseManager) -> None:
    manager.ingest("s", [{"text": "a text"}], SampleKind.LLM)
    with manager._database.transaction() as connection:
        connection.exec_driver_sql("DROP TABLE samples")

    read = []
    rows = ({"text": f"text {read.append(n) or n}"} for n in range(10_000))
    with pytest.raises(DatabaseError):
        manager.ingest("s", rows, SampleKind.LLM, chunk_size=10)
    # No more than the chunk that was read meanwhile.
    assert len(read) <= 30
