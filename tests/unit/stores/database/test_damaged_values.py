"""Damaged values of a database are named by table, row and field."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tunetrail.errors import DatabaseError
from tunetrail.samples import SampleKind
from tunetrail.stores.database.manager import DatabaseManager, PromotionRecord

Read = Callable[[DatabaseManager], object]


def read_samples(manager: DatabaseManager) -> object:
    return list(manager.read_samples("s1", SampleKind.EMBEDDING))


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Return the URL of a SQLite database with a row in each table that is damaged."""
    url = f"sqlite:///{tmp_path}/tunetrail.db"
    with DatabaseManager(url) as manager:
        rows = [{"anchor": f"question {n}", "positive": "answer"} for n in range(3)]
        manager.ingest("s1", rows, SampleKind.EMBEDDING)
        run = manager.create_training_run(["s1"], "embedding")
        manager.update_training_run(run, state="failed", reason="full disk", result={"a": 1})
        record = PromotionRecord(
            model_name="embedding",
            version="1",
            decision="refused",
            reason="not better",
            details={"a": 1},
        )
        manager.record_promotion(record)
    return url


@pytest.mark.parametrize(
    ("statement", "read", "message"),
    [
        ("UPDATE samples SET content = '{' WHERE id = 2", read_samples, "samples, row 2, content"),
        ("UPDATE samples SET metadata = 'x' WHERE id = 3", read_samples, "row 3, metadata is no J"),
        (
            "UPDATE sessions SET created_at = 'yesterday'",
            DatabaseManager.sessions,
            "sessions, row s1, created_at is no date",
        ),
        (
            "UPDATE training_runs SET updated_at = 'x'",
            DatabaseManager.training_runs,
            r"training_runs, row \w{32}, updated_at is no date",
        ),
        (
            "UPDATE training_runs SET result = '{'",
            DatabaseManager.training_runs,
            r"training_runs, row \w{32}, result is no JSON",
        ),
        (
            "UPDATE training_runs SET state = 'blob'",
            DatabaseManager.training_runs,
            r"training_runs, row \w{32}: state must be one of pending, .*got 'blob'",
        ),
        (
            "UPDATE promotions SET details = '{'",
            DatabaseManager.promotions,
            "promotions, row 1, details is no JSON",
        ),
        (
            "DELETE FROM tunetrail_version",
            DatabaseManager.sessions,
            "tunetrail_version doesn't say which version made them",
        ),
        (
            "DROP TABLE tunetrail_version",
            DatabaseManager.sessions,
            "tunetrail_version doesn't say which version made them",
        ),
    ],
)
def test_a_damaged_value_is_named(url: str, statement: str, read: Read, message: str) -> None:
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        connection.execute("DROP TRIGGER promotions_refuse_update")
        connection.execute(statement)
    connection.close()

    with DatabaseManager(url) as manager, pytest.raises(DatabaseError, match=message) as caught:
        read(manager)
    assert "\n" not in str(caught.value)


def test_an_error_of_the_caller_is_not_taken_for_damage(url: str) -> None:
    with (
        DatabaseManager(url) as manager,
        pytest.raises(ValueError, match="mine"),
        manager._database.reading(),
    ):
        raise ValueError("mine")
