import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tunetrail import DatabaseManager, Session
from tunetrail.config import DatabaseConfig, TrainRequest, WatchConfig
from tunetrail.errors import ConfigError, UserError
from tunetrail.samples import SampleKind
from tunetrail.watching import STARTED_BY, Due, Watch


def pairs(count: int, first: int = 0) -> list[dict[str, Any]]:
    numbers = range(first, first + count)
    return [{"anchor": f"question {n}", "positive": f"answer {n}"} for n in numbers]


@pytest.fixture
def database(tmp_path: Path, migrated_database: Path) -> Iterator[DatabaseManager]:
    shutil.copy(migrated_database, tmp_path / "tunetrail.db")
    with DatabaseManager(f"sqlite:///{tmp_path}/tunetrail.db") as database:
        yield database


def watch_of(
    database: DatabaseManager, session_ids: list[str] | None = None, **values: Any
) -> Watch:
    request = TrainRequest(
        session_id="all-sessions",
        model_type=values.pop("model_type", "embedding"),
        database=DatabaseConfig(url=database.shown_url),
        watch=WatchConfig(min_rows=values.pop("min_rows", 10), **values),
    )
    return Watch(request, database, session_ids, lambda node, results: None)


def train(
    database: DatabaseManager, state: str, *, by_watch: bool = True, session: str = "s1"
) -> str:
    """A training run of this process, ended in a state."""
    started_by = f"{STARTED_BY}: 10 new samples" if by_watch else None
    run_id = database.create_training_run(session, "embedding", started_by)
    database.update_training_run(run_id, state="running")
    if state != "running":
        database.update_training_run(run_id, state=state, reason="a reason")
    return run_id


def due_on(session_id: str, reason: str, run_id: str | None = None) -> Due:
    return Due(session_id=session_id, family="embedding", reason=reason, run_id=run_id)


@pytest.mark.parametrize("state", ["succeeded", "failed", "interrupted"])
def test_watch_trains_at_enough_samples_that_came_since_the_last_training(
    database: DatabaseManager, state: str
) -> None:
    watch = watch_of(database)
    database.ingest("s1", pairs(9), SampleKind.EMBEDDING)
    database.ingest("s1", [{"text": f"text {n}"} for n in range(20)], SampleKind.LLM)
    too_few = watch.next_due()
    database.ingest("s1", pairs(1, first=9), SampleKind.EMBEDDING)
    enough = watch.next_due()
    # Whoever has trained, and however it ended: the same samples aren't tried again and again.
    train(database, state, by_watch=False)
    trained = watch.next_due()
    database.ingest("s1", pairs(12, first=20), SampleKind.EMBEDDING)

    assert (too_few, enough, trained) == (None, due_on("s1", "10 new samples"), None)
    assert watch.next_due() == watch_of(database).next_due() == due_on("s1", "12 new samples")


def test_watch_trains_the_oldest_session_first_and_only_those_it_was_told(
    database: DatabaseManager,
) -> None:
    for session_id in ("s1", "s2"):
        database.ingest(session_id, pairs(10), SampleKind.EMBEDDING)

    assert watch_of(database).next_due() == due_on("s1", "10 new samples")
    assert watch_of(database, ["s2"]).next_due() == due_on("s2", "10 new samples")


def test_watch_collects_what_was_logged_once_it_may_be_enough(
    database: DatabaseManager, tmp_path: Path
) -> None:
    watch = watch_of(database)
    with Session("s1", "embedding", database.shown_url) as session:
        for row in pairs(9):
            session.log(row)
        assert session.close()
        assert watch.next_due() is None
        assert database.application_log.count_uncollected() == {"s1": 9}
        session.log(pairs(1, first=9)[0])

    assert watch.next_due() == due_on("s1", "10 new samples")
    assert database.application_log.count_uncollected() == {}


def test_watch_trains_when_a_session_ends(database: DatabaseManager) -> None:
    with Session("s1", "embedding", database.shown_url) as session:
        session.log(pairs(1)[0])
        assert session.end()
        assert watch_of(database, on_end=False).next_due() is None
        assert watch_of(database).next_due() == due_on("s1", "the session has ended")
        train(database, "succeeded")
        # Neither the old end nor a new one without samples.
        assert watch_of(database).next_due() is None
        assert session.end()
        assert watch_of(database).next_due() is None
        session.log(pairs(1, first=1)[0])
        assert session.end()
        assert watch_of(database).next_due() == due_on("s1", "the session has ended")


def test_watch_delivers_what_a_dead_application_left(database: DatabaseManager) -> None:
    folder = Path(f"{database.shown_url.removeprefix('sqlite:///')}.spool")
    folder.mkdir()
    rows = [
        f'0123456789abcdef-{n}\ts1\tembedding\t\t1.5\t{{"text": "text {n}"}}\n' for n in range(10)
    ]
    (folder / "1-1.entries").write_text("".join(rows))

    assert watch_of(database).next_due() == due_on("s1", "10 new samples")
    assert not folder.exists()


def test_watch_resumes_its_own_interrupted_training_only(database: DatabaseManager) -> None:
    database.ingest("s1", pairs(10), SampleKind.EMBEDDING)
    database.ingest("s2", pairs(10), SampleKind.EMBEDDING)
    train(database, "interrupted", by_watch=False, session="s2")
    run_id = train(database, "interrupted")

    assert watch_of(database).next_due() == due_on("s1", f"{run_id} was interrupted", run_id)


def test_watch_waits_while_somebody_else_trains_here(database: DatabaseManager) -> None:
    database.ingest("s1", pairs(10), SampleKind.EMBEDDING)
    database.ingest("s2", pairs(10), SampleKind.EMBEDDING)
    run_id = train(database, "running")
    busy = watch_of(database).next_due()
    database.update_training_run(run_id, state="succeeded")

    assert busy is None and watch_of(database).next_due() == due_on("s2", "10 new samples")


def test_watch_of_all_models_trains_each_that_has_samples(database: DatabaseManager) -> None:
    database.ingest("s1", [{"text": f"text {n}"} for n in range(20)], SampleKind.LLM)

    due = watch_of(database, model_type="all").next_due()

    assert due == replace(due_on("s1", "20 new samples"), family="llm")


def test_watch_says_once_what_cannot_be_trained_and_goes_on(
    database: DatabaseManager, caplog: pytest.LogCaptureFixture
) -> None:
    database.ingest("s1", pairs(10), SampleKind.EMBEDDING)
    request = TrainRequest(
        model_type="embedding",
        database=DatabaseConfig(url=database.shown_url),
        watch=WatchConfig(min_rows=10, once=True),
        # A file in the place of the folder: refused before there is a run.
        model_dir=database.shown_url.removeprefix("sqlite:///"),
    )

    Watch(request, database, None, lambda node, results: None).run()

    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1 and "the training of embedding on s1 failed: model_dir" in caplog.text
    assert database.training_runs() == []


def test_second_watch_of_a_database_is_refused(database: DatabaseManager) -> None:
    with (
        database.lock("watch", "the watch"),
        pytest.raises(UserError, match="must be the only one of its database"),
    ):
        watch_of(database, once=True).run()


@pytest.mark.parametrize("values", [{"min_rows": 0}, {"interval_seconds": 0}])
def test_watch_config_refuses_values_out_of_range(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"watch\.\w+ must be at least 1, got 0"):
        WatchConfig(**values)
