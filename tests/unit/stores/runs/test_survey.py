"""What a crash may have left in a store, read from its file and by MLflow."""

import dataclasses
import sqlite3
from pathlib import Path

import pytest

from tunetrail.config import TrackingConfig
from tunetrail.stores.processes import ProcessIdentity
from tunetrail.stores.runs.mlflow_survey import MlflowSurvey
from tunetrail.stores.runs.quick_survey import QuickSurvey
from tunetrail.stores.runs.survey import StoreSurvey, open_survey
from tunetrail.stores.tracking.tracker import Tracker

NAMES = ("embedding", "llm", "none of them")


@pytest.fixture
def tracker(tmp_path: Path) -> Tracker:
    """A store with runs, versions, an alias and logged models, of which some are deleted."""
    config = TrackingConfig(
        uri=f"sqlite:///{tmp_path}/mlflow.db", artifacts=str(tmp_path / "mlartifacts")
    )
    tracker = Tracker(config)
    client = tracker.client
    tracker.start_run("finished").finish("succeeded")
    run = tracker.start_run("running")
    client.delete_run(tracker.start_run("running and deleted").run_id)
    foreign_run = client.create_run(client.create_experiment("another"))
    gone = client.create_experiment("deleted")
    client.create_run(gone)
    client.create_logged_model(gone, name="embedding")
    client.delete_experiment(gone)

    client.create_registered_model("embedding")
    client.create_registered_model("llm")
    for source_run in (run.run_id, foreign_run.info.run_id, None):
        client.create_model_version("embedding", str(tmp_path), source_run)
    client.delete_model_version("embedding", "2")
    client.set_registered_model_alias("embedding", "root", "1")
    client.create_model_version("llm", str(tmp_path), run.run_id)

    client.create_logged_model(tracker.experiment_id, name="embedding", source_run_id=run.run_id)
    deleted = client.create_logged_model(tracker.experiment_id, name="embedding")
    client.delete_logged_model(deleted.model_id)
    return tracker


def contents(survey: StoreSurvey) -> dict[str, object]:
    return {
        "running": survey.running(),
        "roots": {name: survey.root_version(name) for name in NAMES},
        "versions": {name: dict(survey.versions(name)) for name in NAMES},
        "models": sorted(survey.logged_models(), key=lambda model: model.model_id),
    }


def test_the_file_says_what_mlflow_says(tracker: Tracker) -> None:
    quick = open_survey(tracker.config)

    assert isinstance(quick, QuickSurvey)
    found = contents(quick)
    assert found == contents(MlflowSurvey(tracker))
    assert found["roots"] == {"embedding": "1", "llm": None, "none of them": None}
    processes = quick.running().values()
    # The second run is of another program.
    assert sorted(map(str, processes)) == sorted([str(ProcessIdentity.current()), "None"])
    assert [version for version, _ in quick.versions("embedding").items()] == ["3", "1"]
    assert len(quick.logged_models()) == 1


def test_a_survey_sees_what_came_after_it_was_opened(tracker: Tracker) -> None:
    quick = open_survey(tracker.config)
    assert quick is not None

    tracker.client.set_registered_model_alias("embedding", "root", "3")

    assert quick.root_version("embedding") == "3"
    assert quick.tracker.config.uri == tracker.config.uri


def test_a_store_with_other_tables_is_left_to_mlflow(tracker: Tracker, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("ALTER TABLE logged_models RENAME COLUMN source_run_id TO run_id")

    assert QuickSurvey.of_store(tracker.config) is None


def test_a_store_that_is_not_there_has_no_survey(tmp_path: Path) -> None:
    missing = dataclasses.replace(TrackingConfig(), uri=f"sqlite:///{tmp_path}/none.db")

    assert open_survey(missing) is None
    assert not (tmp_path / "none.db").exists()
