import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.commands import CallMain

import tunetrail
from tunetrail.stores.database.manager import DatabaseManager

KEYS_OF_FAMILY = {
    "model_type",
    "base_model",
    "batch_size",
    "work",
    "speeds",
    "stages",
    "memory",
    "disk",
    "places",
    "notes",
    "assumptions",
    "not_included",
    "seconds",
    "tokens_per_epoch",
}


@pytest.fixture
def words(
    database: DatabaseManager, session: str, tiny_embedding_model: str, tiny_language_model: str
) -> list[str]:
    """The arguments of a plan on a session with samples of both kinds."""
    return [
        "plan",
        f"session_id={session}",
        f"embedding.model={tiny_embedding_model}",
        f"llm.model={tiny_language_model}",
        "preparation.cache_dir=cache",
        "embedding.training.batch_size=4",
        "llm.training.batch_size=4",
        "evaluation.generation.max_new_tokens=4",
    ]


def test_plan_says_what_a_training_takes_and_records_nothing(
    words: list[str], workplace: Path, call_main: CallMain
) -> None:
    before = {path.name for path in workplace.iterdir()}

    result = call_main(*words, "--json")

    assert result.exit_code == 0, result.err
    plan = json.loads(result.out)
    assert plan.keys() == {"session_id", "families", "planning_seconds", "seconds"}
    assert list(plan["families"]) == ["embedding", "llm"]
    for family in plan["families"].values():
        assert family.keys() == KEYS_OF_FAMILY
        assert sum(family["work"]["rows"].values()) > 0 and family["work"]["steps"] > 0
        assert family["speeds"]["train_seconds"] > 0.0 and family["memory"]["peak_bytes"] > 0
        assert family["disk"]["registered_version"] > 0 and family["disk"]["while_training"] > 0
        assert family["places"]["root_version"] is None
        assert family["seconds"] == pytest.approx(
            sum(stage["seconds"] for stage in family["stages"])
        )
    # Neither a run nor a folder of it; the cache is the training's. SQLite makes files for readers.
    made = {path.name for path in workplace.iterdir()} - before
    assert made <= {"cache", "mlflow.db-wal", "mlflow.db-shm"}


def test_plan_prints_stages_places_and_what_was_assumed(
    words: list[str], call_main: CallMain
) -> None:
    two_processes = ["trainer.accelerator=cpu", "trainer.devices=2"]
    result = call_main(
        *words, *two_processes, "model_type=embedding", "cross_validation.n_splits=2"
    )

    assert result.exit_code == 0
    assert "not included: what the processes send one another." in result.out
    for expected in (
        "embedding:",
        "tokens and ",
        "cross-validation",
        "evaluation",
        "memory:",
        "disk:",
        "experiment tunetrail in sqlite:///mlflow.db",
        "a new version of embedding; the alias root (no version yet)",
        "assumed: nothing ends the training early",
        "the 2 processes of the training share the cores",
        "The training takes about",
    ):
        assert expected in result.out

    # Before the steps are timed.
    assert "embedding: rows: train" in result.err
    quiet = call_main(*words, "model_type=embedding", "--quiet")
    assert (quiet.exit_code, quiet.out) == (0, "")


def test_a_later_plan_of_the_same_rows_takes_the_speeds_of_an_earlier_one(
    words: list[str], call_main: CallMain
) -> None:
    def planned(*more: str) -> dict[str, Any]:
        result = call_main(*words, "model_type=embedding", *more, "--json")
        assert result.exit_code == 0, result.err
        return dict(json.loads(result.out)["families"]["embedding"])

    first = planned("embedding.training.num_epochs=1")
    later = planned("embedding.training.num_epochs=3", "embedding.training.learning_rate=1e-5")
    larger = planned("embedding.training.batch_size=8")

    first_speeds, later_speeds = first["speeds"], later["speeds"]
    assert first_speeds.pop("age_seconds") == 0.0 < later_speeds.pop("age_seconds")
    assert later_speeds == first_speeds
    assert later["work"]["steps"] == 3 * first["work"]["steps"]
    # A batch of another size takes another time, and another memory.
    assert larger["speeds"]["age_seconds"] == 0.0

    shown = call_main(*words, "model_type=embedding")
    assert re.search(r"from \d+ timed steps?, \d+ s ago", shown.out)
    assert "steps that were timed" in shown.err and "a few timed steps" not in shown.err


def test_plan_in_python_says_the_same(session: str, tiny_embedding_model: str) -> None:
    plan = tunetrail.plan(
        session,
        "embedding",
        verbose=0,
        embedding={"model": tiny_embedding_model, "training": {"batch_size": 4}},
        cross_validation="off",
    )

    family = plan.families["embedding"]
    assert family.work.steps > 0 and not family.work.folds
    assert [stage.stage for stage in family.stages] == [
        "prepare",
        "training",
        "evaluation",
        "deployment",
    ]
    assert repr(plan).splitlines()[0].split() == [
        "model",
        "train",
        "rows",
        "steps",
        "time",
        "memory",
    ]
    assert "<td>embedding</td>" in plan._repr_html_()
