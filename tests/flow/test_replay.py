"""A training learns rows of earlier sessions again, and never one that a session holds out."""

import dataclasses
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.flow.conftest import ending_at
from tests.tracking import client_of

from tunetrail import DatabaseManager, ModelTrainingNode, NodeConfig
from tunetrail.config import Settings
from tunetrail.errors import ConfigError, SampleError
from tunetrail.samples import SampleKind

Make = Callable[..., Settings]

ROWS = 120


def pairs(session_id: str, alphabet: str) -> list[dict[str, str]]:
    """Return pairs whose answer is the question in capitals, in words of the session's own."""
    drawn = random.Random(session_id)
    words = ["".join(drawn.choices(alphabet, k=5)) for _ in range(200)]
    texts = [" ".join(drawn.choices(words, k=8)) for _ in range(ROWS)]
    return [{"anchor": text, "positive": text.upper()} for text in texts]


def train(settings: Settings, database: DatabaseManager, session_id: str) -> dict[str, Any]:
    """Return the results of the embedding model by step."""
    results = ModelTrainingNode(NodeConfig(settings=settings), database).execute(
        {"session_id": session_id, "model_type": "embedding"}
    )
    return {name: step["embedding"] for name, step in results["results"]["steps"].items()}


def sessions_of(database: DatabaseManager, row_ids: Any) -> dict[str, int]:
    counts = {}
    for summary in database.sessions():
        own_ids = database.sample_ids(summary.session_id, SampleKind.EMBEDDING)
        counts[summary.session_id] = len(set(own_ids) & set(map(int, row_ids)))
    return counts


@pytest.fixture(scope="module")
def trained_on_two(
    tmp_path_factory: pytest.TempPathFactory, _tracking_template: Path, make_settings: Make
) -> Path:
    """Return the folder of the stores after trainings on the sessions `first` and `second`."""
    folder = tmp_path_factory.mktemp("two")
    shutil.copy(_tracking_template, folder / "mlflow.db")
    with (
        pytest.MonkeyPatch.context() as environment,
        DatabaseManager(f"sqlite:///{folder}/tunetrail.db") as database,
    ):
        environment.setenv("TUNETRAIL_CACHE", str(folder / ".cache"))
        for session_id, alphabet in (("first", "abcdef"), ("second", "ghijkl")):
            database.ingest(session_id, pairs(session_id, alphabet), SampleKind.EMBEDDING)
            train(make_settings(folder), database, session_id)
    return folder


@pytest.fixture
def database(trained_on_two: Path, workplace: Path) -> Iterator[DatabaseManager]:
    """Yield the database after both trainings, with a third session that wasn't trained on."""
    shutil.copytree(trained_on_two, workplace, symlinks=True, dirs_exist_ok=True)
    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        manager.ingest("third", pairs("third", "mnopqr"), SampleKind.EMBEDDING)
        yield manager


@pytest.mark.processes
def test_execute_replays_an_equal_share_of_each_earlier_session(
    database: DatabaseManager, workplace: Path, make_settings: Make
) -> None:
    steps = train(make_settings(workplace, replay=0.5), database, "third")

    training, split = steps["training"], steps["evaluation"]["split"]["rows"]
    replayed = training["replayed"]
    wanted = round(0.5 * split["train"])
    assert {session: entry["rows"] for session, entry in replayed["sessions"].items()} == {
        "first": wanted // 2,
        "second": wanted - wanted // 2,
    }
    assert training["rows"] == split["train"] + wanted

    # Recorded: as inputs of the run, as parameter, and in the ledger.
    run = client_of(make_settings(workplace).tracking.uri).get_run(
        steps["deployment"]["mlflow_run_id"]
    )
    inputs = {
        entry.dataset.name: entry.dataset.digest
        for entry in run.inputs.dataset_inputs
        if entry.tags[0].value == "replay"
    }
    assert set(inputs) == {"first", "second"}
    assert run.data.params["replay"] == "0.5"
    assert run.data.metrics["replay/rows"] == wanted
    learnt = database.learnt_rows("embedding", steps["deployment"]["version"])
    assert sessions_of(database, learnt)["third"] == split["train"]


@pytest.mark.processes
def test_replayed_rows_follow_from_the_seed_and_were_learnt_before(
    database: DatabaseManager, workplace: Path, make_settings: Make
) -> None:
    settings = make_settings(workplace, replay=0.4)
    root = database.learnt_rows("embedding", "2")
    held_out = {record.row_id for record in database.read_benchmark("embedding", "pair")}

    drawn = []
    for seed in (1, 1, 2):
        node = ModelTrainingNode(
            NodeConfig(settings=dataclasses.replace(settings, seed=seed)), database
        )
        outcome = node.fit({"session_id": "third", "model_type": "embedding"})
        assert outcome.prepared is not None and outcome.prepared.replayed is not None
        drawn.append(outcome.prepared.replayed["row_id"].tolist())

    assert drawn[0] == drawn[1] != drawn[2]
    assert set(drawn[0]) <= set(root.tolist())
    assert not set(drawn[0]) & held_out


@pytest.mark.processes
def test_no_near_duplicate_of_a_held_out_row_is_replayed(
    database: DatabaseManager, workplace: Path, make_settings: Make
) -> None:
    # Rows of the first session come again in a session of their own, with a word more.
    rows = [
        {"anchor": f"{row['anchor']} again", "positive": f"{row['positive']} AGAIN"}
        for row in pairs("first", "abcdef")
    ]
    database.ingest("again", rows, SampleKind.EMBEDDING)
    node = ModelTrainingNode(NodeConfig(settings=make_settings(workplace, replay=1.0)), database)

    outcome = node.fit({"session_id": "again", "model_type": "embedding"})

    prepared = outcome.prepared
    assert prepared is not None and prepared.replayed is not None
    of_first = prepared.replayed[prepared.replayed["session"] == "first"]
    held_out = pd.concat([prepared.split.validation, prepared.split.test])
    assert len(of_first) > 0
    assert not set(of_first["anchor"] + " again") & set(held_out["anchor"])
    assert len(outcome.steps["training"]["replayed"]["twins_of_held_out"]) > 0


@pytest.mark.processes
def test_prepare_writes_the_rows_that_a_training_would_replay(
    database: DatabaseManager, workplace: Path, make_settings: Make
) -> None:
    node = ModelTrainingNode(NodeConfig(settings=make_settings(workplace, replay=0.5)), database)
    request = {"session_id": "third", "model_type": "embedding"}

    session = node.prepare(request, workplace / "look")

    rows = pd.read_parquet(workplace / "look" / "rows" / "replayed.parquet")
    assert rows["session"].value_counts().to_dict() == session.replayed
    assert set(session.replayed) == {"first", "second"}
    report = (workplace / "look" / "report.html").read_text()
    assert "Rows of earlier sessions that are learnt again: first" in report

    # Without replay, nothing of it stays.
    ModelTrainingNode(NodeConfig(settings=make_settings(workplace)), database).prepare(
        request, workplace / "look"
    )
    assert not (workplace / "look" / "rows" / "replayed.parquet").exists()


@pytest.mark.processes
def test_a_resumed_run_replays_the_rows_that_it_has_drawn(
    database: DatabaseManager, workplace: Path, make_settings: Make
) -> None:
    settings = make_settings(workplace, replay=0.3)
    with (
        ending_at("embedding: training from", KeyboardInterrupt()),
        pytest.raises(KeyboardInterrupt),
    ):
        train(settings, database, "third")
    run = database.training_runs("third")[-1]
    assert run.mlflow_run_id is not None
    (drawn_file,) = Path(settings.output_dir).glob("*/replayed.parquet")
    drawn = pd.read_parquet(drawn_file)["row_id"].tolist()

    results = ModelTrainingNode(NodeConfig(settings=settings), database).resume(run.mlflow_run_id)

    deployment = results["results"]["steps"]["deployment"]["embedding"]
    learnt = set(map(int, database.learnt_rows("embedding", deployment["version"])))
    assert set(drawn) <= learnt
    training = results["results"]["steps"]["training"]["embedding"]
    assert training["replayed"]["rows"] == len(drawn)


def test_replay_is_refused_before_there_is_a_root(
    workplace: Path, make_settings: Make, make_rows: Callable[[str], list[dict[str, Any]]]
) -> None:
    with DatabaseManager("sqlite:///tunetrail.db") as database:
        database.ingest("only", make_rows("pair"), SampleKind.EMBEDDING)
        with pytest.raises(
            ConfigError,
            match=r"^replay must be 0 until root has learnt from an earlier session, got 0.2: "
            r"there is no root of embedding yet. Leave it out this time.$",
        ):
            train(make_settings(workplace, replay=0.2), database, "only")
        assert not list(workplace.glob("training_output/*/prepared"))


@pytest.mark.processes
def test_replay_is_refused_if_root_knows_only_the_session_itself(
    database: DatabaseManager, workplace: Path, make_settings: Make
) -> None:
    settings = make_settings(workplace, replay=0.2)
    embedding = dataclasses.replace(settings.embedding, start_from="base")
    train(dataclasses.replace(settings, replay=0.0, embedding=embedding), database, "second")

    with pytest.raises(ConfigError, match=r"version 3 of embedding has learnt from second\."):
        train(settings, database, "second")


@pytest.mark.processes
def test_replay_is_refused_if_earlier_sessions_have_other_rows(
    database: DatabaseManager,
    workplace: Path,
    make_settings: Make,
    make_rows: Callable[[str], list[dict[str, Any]]],
) -> None:
    database.ingest("scored", make_rows("score"), SampleKind.EMBEDDING)

    with pytest.raises(SampleError, match=r"no earlier session has .* after first \(pair\)"):
        train(make_settings(workplace, replay=0.2), database, "scored")
