"""The driver of a sweep that is resumed after files, samples or root have changed."""

import json
from pathlib import Path

import pytest
from sqlalchemy import delete, update

from tunetrail.config import SearchConfig, TrackingConfig, TrainRequest
from tunetrail.deployment.root_alias import RootAlias
from tunetrail.pipeline.pins import Pins
from tunetrail.samples import SampleKind
from tunetrail.stores.database.manager import DatabaseManager
from tunetrail.stores.database.tables import SampleRow
from tunetrail.stores.tracking.tracker import TrackedRun, Tracker
from tunetrail.sweeps.driver import SweepDriver
from tunetrail.sweeps.pinning import pins_of_now, warn_of_changes
from tunetrail.sweeps.space import SearchSpace
from tunetrail.sweeps.sweep_plan import Objective


def rows(first: int, last: int) -> list[dict[str, str]]:
    return [
        {"anchor": f"question {row}", "positive": f"answer {row}"} for row in range(first, last)
    ]


def of_sessions(workplace: Path, sessions: str | list[str]) -> TrainRequest:
    """What a job of a sweep over these sessions is asked for."""
    tracking = TrackingConfig(uri=f"sqlite:///{workplace}/mlflow.db")
    return TrainRequest(session_id=sessions, tracking=tracking)


def promote(run: TrackedRun, name: str) -> None:
    """Make a version root, as a promotion does; its model is of no interest."""
    tracker, place = run.tracker, run.artifact_location("model")
    tracker.client.create_registered_model(name)
    version = tracker.client.create_model_version(name, place, run.run_id)
    RootAlias(tracker=tracker, name=name).move(str(version.version))


def test_what_has_changed_since_a_sweep_began_is_said(
    workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def request(**changes: object) -> TrainRequest:
        tracking = TrackingConfig(uri=f"sqlite:///{workplace}/mlflow.db")
        return TrainRequest(session_id="s1", tracking=tracking, **changes)  # type: ignore[arg-type]

    with DatabaseManager(f"sqlite:///{workplace}/tunetrail.db") as manager:
        manager.ingest("s1", rows(0, 4), SampleKind.EMBEDDING)
        driver = SweepDriver.start(
            manager,
            request(),
            [Objective(name="ndcg_at_10", higher_is_better=True)],
            search=SearchConfig(),
            space=SearchSpace(()),
            arguments=["session_id=s1"],
        )
        sweep = driver.tracked_run.run_id

        SweepDriver.reopen(manager, request(model_dir="elsewhere"), sweep)
        assert caplog.text == ""
        SweepDriver.reopen(manager, request(seed=7), sweep)
        assert "have changed: seed was 42, is 7; jobs that have not begun" in caplog.text

        manager.ingest("s1", rows(4, 7), SampleKind.EMBEDDING)
        promote(driver.tracked_run, "embedding")
        caplog.clear()
        SweepDriver.reopen(manager, request(), sweep)

    assert caplog.messages == [
        "since the sweep began: 3 new samples of the session s1 are left out; root is version 1, "
        "and jobs still begin with none"
    ]


def test_samples_that_are_gone_are_said(
    manager: DatabaseManager, caplog: pytest.LogCaptureFixture, workplace: Path
) -> None:
    request = of_sessions(workplace, "s1")
    manager.ingest("s1", rows(0, 4), SampleKind.EMBEDDING)
    pins = pins_of_now(manager, request)
    assert Pins.from_plain(json.loads(json.dumps(pins.to_plain()))) == pins
    warn_of_changes(pins, manager, request)
    assert caplog.messages == []

    with manager._database.transaction() as connection:
        connection.execute(delete(SampleRow).where(SampleRow.id == pins.last_id("s1")))
    warn_of_changes(pins, manager, request)

    (line,) = caplog.messages
    assert "1 of 4 samples of the session s1 are gone or have changed" in line


def test_a_sample_that_was_edited_is_said(
    manager: DatabaseManager, caplog: pytest.LogCaptureFixture, workplace: Path
) -> None:
    request = of_sessions(workplace, "s1")
    manager.ingest("s1", rows(0, 4), SampleKind.EMBEDDING)
    pins = pins_of_now(manager, request)

    with manager._database.transaction() as connection:
        edit = update(SampleRow).where(SampleRow.id == pins.last_id("s1"))
        connection.execute(edit.values(digest="another"))
    warn_of_changes(pins, manager, request)

    (line,) = caplog.messages
    assert "some samples of the session s1 are gone or have changed" in line


def test_each_session_of_several_has_its_own_pin(
    manager: DatabaseManager, caplog: pytest.LogCaptureFixture, workplace: Path
) -> None:
    request = of_sessions(workplace, ["s1", "s2"])
    for session in ("s1", "s2"):
        manager.ingest(session, rows(0, 4), SampleKind.EMBEDDING)
    pins = pins_of_now(manager, request)

    manager.ingest("s1", rows(4, 6), SampleKind.EMBEDDING)
    warn_of_changes(pins, manager, request)

    assert pins.samples.keys() == {"s1", "s2"}
    assert caplog.messages == [
        "since the sweep began: 2 new samples of the session s1 are left out"
    ]


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        (None, "1", "root is version 1, and jobs still begin with none"),
        ("1", "2", "root is version 2, and jobs still begin with version 1"),
        ("1", None, "root is none, and jobs still begin with version 1"),
    ],
)
def test_another_root_is_said(
    manager: DatabaseManager,
    caplog: pytest.LogCaptureFixture,
    workplace: Path,
    before: str | None,
    now: str | None,
    words: str,
) -> None:
    request = of_sessions(workplace, "s1")
    manager.ingest("s1", rows(0, 4), SampleKind.EMBEDDING)
    run = Tracker(request.tracking).start_run("versions")
    client, alias = run.tracker.client, RootAlias(tracker=run.tracker, name="embedding")
    client.create_registered_model("embedding")
    for _ in range(2):
        client.create_model_version("embedding", run.artifact_location("model"), run.run_id)
    if before is not None:
        alias.move(before)
    pins = pins_of_now(manager, request)

    if now is not None:
        alias.move(now)
    else:
        client.delete_registered_model_alias("embedding", "root")
    warn_of_changes(pins, manager, request)

    assert pins.root == before
    assert caplog.messages == [f"since the sweep began: {words}"]
