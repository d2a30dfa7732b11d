"""A run that has ended and goes on: reopened, and as if it had never ended. What else a run does: test_tracking."""

import os
from pathlib import Path
from typing import Any

import pytest

from tunetrail.config import TrackingConfig
from tunetrail.errors import TrackingError
from tunetrail.stores.tracking.tracker import TrackedRun, Tracker


@pytest.fixture
def tracker(workplace: Path) -> Tracker:
    """A store whose migrations have run."""
    return Tracker(
        TrackingConfig(
            uri=f"sqlite:///{workplace}/mlflow.db", artifacts=str(workplace / "mlartifacts")
        )
    )


def read(tracker: Tracker, run: TrackedRun) -> Any:
    return tracker.client.get_run(run.run_id)


def history(tracker: Tracker, run: TrackedRun, metric: str) -> list[tuple[int, float]]:
    return [
        (point.step, point.value) for point in tracker.client.get_metric_history(run.run_id, metric)
    ]


def ended(tracker: Tracker, state: str = "interrupted") -> TrackedRun:
    foreign = {
        "tunetrail.pid": "1",
        "tunetrail.host": "another",
        "tunetrail.process_started": "0.0",
    }
    run = tracker.start_run("r", tags=foreign)
    run.log_metrics({"train/loss": 3.0, "train/rate": 0.5}, 1)
    run.log_metrics({"train/loss": 2.0}, 2)
    run.log_metrics({"cleaning/rows": 7.0})
    run.finish(state, "SystemExit: 143")
    return run


@pytest.mark.parametrize("state", ["interrupted", "failed"])
def test_reopen_makes_the_run_this_process_s_own_and_running(tracker: Tracker, state: str) -> None:
    run = tracker.run(ended(tracker, state).run_id)
    run.reopen()
    stored = read(tracker, run)

    assert stored.info.status == "RUNNING"
    assert (
        stored.data.tags["tunetrail.pid"] == str(os.getpid())
        and stored.data.tags["tunetrail.resumed"] == "1"
    )
    assert "tunetrail.reason" not in stored.data.tags and "tunetrail.state" not in stored.data.tags

    run.finish("succeeded")
    assert read(tracker, run).info.status == "FINISHED"


def test_reopen_counts_and_takes_a_run_that_never_ended(tracker: Tracker) -> None:
    run = tracker.start_run("killed")
    for _ in range(3):
        again = tracker.run(run.run_id)
        again.reopen()
    assert again.resumed == 3 and read(tracker, run).data.tags["tunetrail.resumed"] == "3"


def test_reopened_run_logs_nothing_twice(tracker: Tracker) -> None:
    run = tracker.run(ended(tracker).run_id)
    run.reopen()
    run.log_metrics({"train/loss": 2.0, "train/rate": 0.25}, 2)
    run.log_metrics({"train/loss": 1.0}, 3)
    run.log_metrics({"cleaning/rows": 7.0})

    assert history(tracker, run, "train/loss") == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert history(tracker, run, "train/rate") == [(1, 0.5), (2, 0.25)]
    assert history(tracker, run, "cleaning/rows") == [(0, 7.0)]


def test_reopened_run_logs_what_has_changed(tracker: Tracker) -> None:
    run = tracker.run(ended(tracker).run_id)
    run.reopen()
    run.log_metrics({"cleaning/rows": 8.0})
    assert read(tracker, run).data.metrics["cleaning/rows"] == 8.0


def test_reopened_run_keeps_the_log_of_before(tracker: Tracker) -> None:
    run = ended(tracker)
    run.log_text("before", "log.txt")
    run = tracker.run(run.run_id)
    run.reopen()

    with pytest.raises(ValueError, match="again"), run.finish_on_exit():
        raise ValueError("again")
    assert set(run.artifacts()) == {"log.txt", "log_resumed_1.txt"}


def test_read_dict_gives_back_what_was_logged(tracker: Tracker) -> None:
    run = tracker.start_run("r")
    content = {"share": 1 / 3, "é": [1, None, True], "nested": {"a": "b"}}
    run.log_dict(content, "steps/a.json")
    assert run.read_dict("steps/a.json") == content
    assert run.artifacts("steps") == ["steps/a.json"] and run.artifacts() == ["steps"]


def test_read_dict_says_what_can_not_be_read(tracker: Tracker) -> None:
    run = tracker.start_run("r")
    run.log_text('{"cut', "a.json")

    with pytest.raises(TrackingError, match=r"the artifact a.json of the run \w+ is not JSON"):
        run.read_dict("a.json")
    with pytest.raises(TrackingError, match="MLflow store sqlite"):
        run.read_dict("absent.json")


def test_children_are_those_of_the_run_without_deleted_ones(tracker: Tracker) -> None:
    parent = tracker.start_run("parent")
    folds = [parent.child(f"fold-{fold}") for fold in (1, 2)]
    folds[0].child("below")

    assert {child.info.run_id for child in tracker.children(parent.run_id)} == {
        fold.run_id for fold in folds
    }

    tracker.delete_run(folds[0].run_id)
    assert [child.info.run_id for child in tracker.children(parent.run_id)] == [folds[1].run_id]


def test_find_run_knows_neither_strange_nor_deleted_ones(tracker: Tracker) -> None:
    run = tracker.start_run("r")

    assert tracker.find_run("nothing") is None and tracker.find_run("0" * 32) is None

    stored = tracker.find_run(run.run_id)
    assert stored is not None and stored.info.run_name == "r"

    tracker.delete_run(run.run_id)
    assert tracker.find_run(run.run_id) is None


def test_version_of_run_is_the_newest_it_registered(tracker: Tracker) -> None:
    run = tracker.start_run("r")

    assert tracker.version_of_run("embedding", run.run_id) is None

    tracker.client.create_registered_model("embedding")
    for owner in (run.run_id, run.run_id, tracker.start_run("other").run_id):
        tracker.client.create_model_version("embedding", source="file:///nowhere", run_id=owner)
    assert tracker.version_of_run("embedding", run.run_id) == "2"
