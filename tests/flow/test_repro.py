"""`tunetrail repro`: runs that are repeated, identically or not, and what is said to differ."""

import contextlib
import dataclasses
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tests.commands import CallMain
from tests.flow.conftest import ending_at
from tests.tracking import client_of

from tunetrail import DatabaseManager, ModelTrainingNode, NodeConfig
from tunetrail.config import CrossValidationConfig, Settings
from tunetrail.config.trainer import TrainerConfig
from tunetrail.errors import UserError
from tunetrail.node.reproducing import IDENTICAL_TAG, REPRODUCES_TAG, reproduce
from tunetrail.samples import SampleKind

Make = Callable[..., Settings]


def train(settings: Settings, database: DatabaseManager, model_type: str = "embedding") -> str:
    """Train on the session, and return the run's id."""
    node = ModelTrainingNode(NodeConfig(settings=settings), database)
    node.execute({"session_id": "s1", "model_type": model_type})
    run_id = database.training_runs()[-1].mlflow_run_id
    assert run_id is not None
    return run_id


def versions(settings: Settings) -> list[tuple[str, str]]:
    """Return name and version of each registered version, and of each root."""
    client = client_of(settings.tracking.uri)
    registered = [(item.name, item.version) for item in client.search_model_versions()]
    models = [client.get_registered_model(item.name) for item in client.search_registered_models()]
    return registered + [(item.name, item.aliases.get("root", "")) for item in models]


@pytest.mark.processes
def test_repro_repeats_a_training_identically_and_changes_neither_root_nor_registry(
    session: str, database: DatabaseManager, make_settings: Make, workplace: Path
) -> None:
    settings = make_settings(workplace, cross_validation=CrossValidationConfig(n_splits=2))
    train(settings, database)
    # From root, which the first training has made.
    run_id = train(settings, database)
    before, lines = versions(settings), len(database.promotions())
    database.ingest("s1", [{"anchor": "new", "positive": "rows"}], SampleKind.EMBEDDING)

    result = reproduce(run_id, tracking=settings.tracking, database=database)

    assert result.identical, result.to_dict()
    assert result.differences == []
    (family,) = result.families
    assert {pair.name for pair in family.metrics} >= {"comparison/after", "val/loss", "train/loss"}
    assert family.rows is not None and len(family.rows.added) == 1
    assert (versions(settings), len(database.promotions())) == (before, lines)
    run = client_of(settings.tracking.uri).get_run(result.reproduction_id)
    assert run.data.tags[REPRODUCES_TAG] == run.data.tags["mlflow.parentRunId"] == run_id
    assert (run.data.tags[IDENTICAL_TAG], run.info.status) == ("true", "FINISHED")
    assert not (Path(settings.output_dir) / run.info.run_id).exists()


@pytest.mark.processes
def test_repro_repeats_a_job_of_a_sweep_and_each_family_of_a_run(
    session: str, database: DatabaseManager, make_settings: Make, workplace: Path
) -> None:
    settings = make_settings(workplace)
    node = ModelTrainingNode(NodeConfig(settings=settings), database)
    job = node.fit({"session_id": "s1", "model_type": "llm"}).mlflow_run_id
    run_id = train(settings, database, "all")

    fitted = reproduce(job, tracking=settings.tracking, database=database)
    trained = reproduce(run_id, tracking=settings.tracking, database=database)

    assert fitted.identical and trained.identical, (fitted.to_dict(), trained.to_dict())
    (family,) = fitted.families
    names = {pair.name for pair in family.metrics}
    assert "validation/bits_per_byte" in names and "comparison/after" not in names
    assert [family.family for family in trained.families] == ["embedding", "llm"]
    # Of a run of several families, one can be repeated by itself.
    llm = trained.families[1]
    alone = reproduce(llm.run_id, tracking=settings.tracking, database=database)
    assert alone.identical and [family.family for family in alone.families] == ["llm"]
    client = client_of(settings.tracking.uri)
    assert client.get_run(alone.reproduction_id).data.tags["mlflow.parentRunId"] == llm.run_id


@pytest.mark.processes
def test_repro_repeats_a_training_on_two_devices_identically(
    session: str, database: DatabaseManager, make_settings: Make, workplace: Path
) -> None:
    two_devices = TrainerConfig(accelerator="cpu", devices=2)
    settings = make_settings(workplace, trainer=two_devices)
    run_id = train(settings, database)

    result = reproduce(run_id, tracking=settings.tracking, database=database)

    assert result.identical, result.to_dict()
    assert result.differences == []


@pytest.fixture
def copied_model(tiny_embedding_model: str, workplace: Path) -> Path:
    """A copy of the tiny model, which a test may change."""
    return Path(shutil.copytree(tiny_embedding_model, workplace / "base"))


@pytest.mark.processes
def test_repro_names_what_differs(
    session: str,
    database: DatabaseManager,
    make_settings: Make,
    workplace: Path,
    call_main: CallMain,
    capsys: pytest.CaptureFixture[str],
    copied_model: Path,
) -> None:
    settings = make_settings(workplace)
    embedding = dataclasses.replace(settings.embedding, model=str(copied_model))
    settings = dataclasses.replace(settings, embedding=embedding)
    run_id = train(settings, database)
    (weights,) = copied_model.rglob("*.safetensors")
    values = {name: value * 1.01 for name, value in load_file(weights).items()}
    save_file(values, weights, metadata={"format": "pt"})
    command = ("repro", run_id[:10], f"tracking.uri={settings.tracking.uri}")

    capsys.readouterr()  # the bar of the first training
    other_model = call_main(*command, "--json")

    assert other_model.exit_code == 1, other_model.err
    (family,) = json.loads(other_model.out)["families"]
    assert [found["kind"] for found in family["differences"]] == ["model"]
    assert family["weights"]["equal"] is False
    assert family["divergence"]["step"] == 1

    # Of the rows that are gone or say something else, each is named, and nothing is trained.
    with contextlib.closing(sqlite3.connect("tunetrail.db")) as connection, connection:
        connection.execute("DELETE FROM samples WHERE id IN (3, 5)")
        connection.execute("UPDATE samples SET weight = 2 WHERE id = 7")
    runs = len(client_of(settings.tracking.uri).search_runs(["0", "1"]))
    gone = call_main(*command)
    assert gone.exit_code == 1
    assert "embedding: rows that are gone: 2 (row ids 3, 5)" in gone.out
    assert "embedding: rows that have changed: 1 (row ids 7)" in gone.out
    assert "not repeated" in gone.out
    assert len(client_of(settings.tracking.uri).search_runs(["0", "1"])) == runs

    forced = call_main(*command, "--force")
    assert forced.exit_code == 1
    assert "prepared rows: digest of the training rows of s1 was" in forced.out
    assert "the training goes another way from step 1 on" in forced.out


BAD_WORDS = [
    (("repro",), "repro takes the id of one run, got none"),
    (("repro", "a", "b"), "repro takes the id of one run, got a, b"),
    (("repro", "--jsn", "a"), "repro has no option --jsn; it has --force, --json and --quiet"),
    (("repro", "a", "seed=3"), "the configuration that it began with, got seed=3"),
    (("repro", "../a"), "RUN_ID must"),
    (("repro", "f" * 32), "RUN_ID must be the id of a run"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_WORDS)
def test_repro_refuses_bad_words_in_one_line(
    call_main: CallMain, workplace: Path, arguments: tuple[str, ...], message: str
) -> None:
    uri = f"tracking.uri=sqlite:///{workplace}/mlflow.db"
    result = call_main(*arguments, uri)
    assert (result.exit_code, message in result.error_line) == (2, True), result.err


@pytest.mark.processes
def test_repro_refuses_a_run_that_was_not_trained_or_whose_root_is_gone(
    session: str, database: DatabaseManager, make_settings: Make, workplace: Path
) -> None:
    settings = make_settings(workplace)
    train(settings, database)
    run_id = train(settings, database)
    client_of(settings.tracking.uri).delete_model_version("embedding", "1")
    with pytest.raises(UserError, match=r"models:/embedding/1 was root when .* was deleted"):
        reproduce(run_id, tracking=settings.tracking, database=database)

    with ending_at("training from", KeyboardInterrupt()), pytest.raises(KeyboardInterrupt):
        train(dataclasses.replace(settings, seed=3), database)
    stopped = database.training_runs()[-1].mlflow_run_id
    assert stopped is not None
    with pytest.raises(UserError, match=r"whose training has ended, got .*, which is interrupted"):
        reproduce(stopped, tracking=settings.tracking, database=database)
