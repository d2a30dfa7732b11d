import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunetrail.config import TrackingConfig
from tunetrail.errors import UserError
from tunetrail.samples import SampleKind
from tunetrail.stores.database.manager import DatabaseManager
from tunetrail.stores.resumable_runs import (
    CONFIGURATION,
    ModelRun,
    find_resumable_run,
    finished_steps,
)
from tunetrail.stores.tracking.provenance import version_tags
from tunetrail.stores.tracking.tracker import TrackedRun, Tracker

SETTINGS = {"seed": 3, "embedding": {"max_length": 64}}


@pytest.fixture
def tracking(workplace: Path) -> TrackingConfig:
    return TrackingConfig(
        uri=f"sqlite:///{workplace}/mlflow.db", artifacts=str(workplace / "mlartifacts")
    )


@pytest.fixture
def tracker(tracking: TrackingConfig) -> Tracker:
    return Tracker(tracking)


@pytest.fixture
def database(workplace: Path, migrated_database: Path) -> Iterator[DatabaseManager]:
    """A database with the session s1."""
    shutil.copy(migrated_database, workplace / "tunetrail.db")
    with DatabaseManager(f"sqlite:///{workplace}/tunetrail.db") as manager:
        manager.ingest("s1", [{"text": "a"}], SampleKind.EMBEDDING)
        yield manager


@pytest.fixture
def stopped(
    tracker: Tracker, database: DatabaseManager
) -> tuple[str, TrackedRun, TrackedRun, TrackedRun]:
    """A run of both model types that was stopped in the second: its training run, itself, and those below it."""
    training = database.create_training_run("s1", "all")
    run = tracker.start_run(
        "s1 (all)", tags={"tunetrail.training_run": training, "tunetrail.model_type": "all"}
    )
    database.update_training_run(training, state="running", mlflow_run_id=run.run_id)
    run.log_dict(SETTINGS, CONFIGURATION)
    first, second = (
        run.child(each, {"tunetrail.model_type": each}) for each in ("embedding", "llm")
    )
    first.finish("succeeded")
    for each in (second, run):
        each.finish("interrupted", "SystemExit: 143")
    database.update_training_run(training, state="interrupted", reason="SystemExit: 143")
    return training, run, first, second


def refusal(
    tracking: TrackingConfig, database: DatabaseManager, run_id: str, *, force: bool = False
) -> str:
    with pytest.raises(UserError) as raised:
        find_resumable_run(tracking, database, run_id, force=force)
    assert raised.value.exit_code == 2 and "\n" not in str(raised.value)
    return str(raised.value)


def test_find_takes_the_id_of_the_run_of_one_below_it_and_of_the_training_run(
    tracking: TrackingConfig,
    database: DatabaseManager,
    stopped: tuple[str, TrackedRun, TrackedRun, TrackedRun],
) -> None:
    training, run, first, second = stopped
    fold = second.child("fold-1", {"tunetrail.fold": "1"})
    found = [
        find_resumable_run(tracking, database, each)
        for each in (run.run_id, first.run_id, second.run_id, fold.run_id, training)
    ]
    assert all(each == found[0] for each in found)
    assert (found[0].run_id, found[0].training.run_id, found[0].settings) == (
        run.run_id,
        training,
        SETTINGS,
    )
    assert found[0].model_runs == {
        "embedding": ModelRun(run_id=first.run_id, finished=True),
        "llm": ModelRun(run_id=second.run_id, finished=False),
    }
    assert found[0].changed_versions == ()


@pytest.mark.parametrize(
    ("outcome", "finished"),
    [(None, False), ("fitted", False), ("promoted", True), ("refused", True)],
)
def test_find_takes_the_run_of_one_model_type_for_its_own(
    tracking: TrackingConfig,
    tracker: Tracker,
    database: DatabaseManager,
    outcome: str | None,
    finished: bool,
) -> None:
    training = database.create_training_run("s1", "embedding")
    run = tracker.start_run("r", tags={"tunetrail.training_run": training})
    run.log_dict(SETTINGS, CONFIGURATION)
    run.set_tags({"tunetrail.family": "embedding"})
    if outcome is not None:
        run.set_tags({"tunetrail.outcome": outcome})
    # A fold, which is no run of a model type.
    run.child("fold-1", {"tunetrail.fold": "1"})
    run.finish("failed")
    database.update_training_run(training, state="failed", mlflow_run_id=run.run_id)

    resumable = find_resumable_run(tracking, database, run.run_id)

    assert resumable.model_runs == {"embedding": ModelRun(run_id=run.run_id, finished=finished)}


def test_find_names_versions_that_have_changed(
    tracking: TrackingConfig,
    database: DatabaseManager,
    stopped: tuple[str, TrackedRun, TrackedRun, TrackedRun],
) -> None:
    now = version_tags()
    stopped[1].set_tags({**now, "version.torch": "1.0"})
    found = find_resumable_run(tracking, database, stopped[0])
    assert found.changed_versions == (f"torch 1.0 (now {now['version.torch']})",)


def test_find_refuses_what_is_no_run(
    tracking: TrackingConfig, database: DatabaseManager, tracker: Tracker
) -> None:
    assert "RUN_ID must be the id of a run, got 'nothing'" in refusal(tracking, database, "nothing")
    sweep = tracker.start_run("sweep", tags={"tunetrail.sweep": "x=1,2"})
    assert "`tunetrail runs` lists them" in refusal(tracking, database, sweep.run_id)
    assert "of a run of `tunetrail train`" in refusal(tracking, database, sweep.child("c").run_id)


def test_find_refuses_a_store_that_is_not_there_and_makes_none(
    database: DatabaseManager, workplace: Path
) -> None:
    absent = TrackingConfig(uri=f"sqlite:///{workplace}/absent.db")
    assert "absent.db: there is no such file" in refusal(absent, database, "x")
    assert not (workplace / "absent.db").exists()


def test_find_refuses_a_run_that_has_succeeded(
    tracking: TrackingConfig, database: DatabaseManager
) -> None:
    training = database.create_training_run("s1", "all")
    run = Tracker(tracking).start_run("r", tags={"tunetrail.training_run": training})
    database.update_training_run(training, state="running", mlflow_run_id=run.run_id)
    database.update_training_run(training, state="succeeded")
    assert (
        refusal(tracking, database, run.run_id)
        == f"the run {run.run_id} has succeeded: nothing is left to do."
    )
    assert "has succeeded" in refusal(tracking, database, training, force=True)


def test_find_refuses_a_run_that_is_alive(
    tracking: TrackingConfig, database: DatabaseManager
) -> None:
    training = database.create_training_run("s1", "all")
    run = Tracker(tracking).start_run("r", tags={"tunetrail.training_run": training})
    database.update_training_run(training, state="running", mlflow_run_id=run.run_id)
    for force in (False, True):
        assert f"the run {run.run_id} is still running in process " in refusal(
            tracking, database, run.run_id, force=force
        )


def test_find_wants_force_for_a_run_of_another_host(
    tracking: TrackingConfig, database: DatabaseManager, stopped: tuple[str, TrackedRun, TrackedRun, TrackedRun],
    workplace: Path,
) -> None:  # fmt: skip
    with sqlite3.connect(workplace / "tunetrail.db") as connection:
        connection.execute("UPDATE training_runs SET state = 'running', host = 'node-7'")
    connection.close()
    assert "on the host node-7, which may be alive" in refusal(tracking, database, stopped[0])
    assert (
        find_resumable_run(tracking, database, stopped[0], force=True).training.process.host
        == "node-7"
    )


def test_find_refuses_a_database_without_the_run(
    tracking: TrackingConfig,
    stopped: tuple[str, TrackedRun, TrackedRun, TrackedRun],
    workplace: Path,
) -> None:
    with DatabaseManager(f"sqlite:///{workplace}/other.db") as other:
        message = refusal(tracking, other, stopped[1].run_id)
    assert "other.db has no record of the run" in message and "database.url=URL" in message


def test_find_refuses_a_run_that_ended_before_anything_was_kept(
    tracking: TrackingConfig, database: DatabaseManager, tracker: Tracker
) -> None:
    training = database.create_training_run("s1", "all")
    database.update_training_run(training, state="failed")
    assert f"the run {training} is no longer in MLflow, so it can't be resumed" in refusal(
        tracking, database, training
    )
    run = tracker.start_run("r", tags={"tunetrail.training_run": training})
    assert "ended before its configuration was stored" in refusal(tracking, database, run.run_id)
    run.log_text("{", CONFIGURATION)
    assert "the configuration of the run" in refusal(tracking, database, run.run_id)


def test_finished_steps_are_read_in_the_order_asked_for(tracker: Tracker) -> None:
    run = tracker.start_run("embedding")
    for name in ("training", "cleaning"):
        run.log_dict({"name": name, "value": 0.1}, f"steps/{name}.json")
    found = finished_steps(tracker, run.run_id, ("cleaning", "training"))
    assert json.dumps(found) == json.dumps(
        {name: {"name": name, "value": 0.1} for name in ("cleaning", "training")}
    )
    with pytest.raises(
        UserError, match=f"the results of the finished run {run.run_id} can't be read"
    ):
        finished_steps(tracker, run.run_id, ("cleaning", "evaluation"))
