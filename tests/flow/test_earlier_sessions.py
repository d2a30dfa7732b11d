"""A candidate meets the test rows of earlier sessions, and is refused if it has forgotten them."""

import dataclasses
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.tracking import client_of

from tunetrail import DatabaseManager, ModelTrainingNode, NodeConfig
from tunetrail.config import EvaluationConfig, GateConfig, Settings
from tunetrail.node.reproducing import reproduce
from tunetrail.samples import SampleKind

Make = Callable[..., Settings]

ROWS = 240
LENIENT = GateConfig(
    require_interval=False,
    minimum_improvement=-10.0,
    minimum_test_clusters=1,
    fresh_process=False,
)


def store(database: DatabaseManager, session_id: str, alphabet: str) -> None:
    """Store pairs whose answer is the question in capitals; sessions have letters of their own."""
    drawn = random.Random(session_id)
    words = ["".join(drawn.choices(alphabet, k=5)) for _ in range(200)]
    texts = [" ".join(drawn.choices(words, k=8)) for _ in range(ROWS)]
    rows = [{"anchor": text, "positive": text.upper()} for text in texts]
    assert database.ingest(session_id, rows, SampleKind.EMBEDDING).added == ROWS


def steps_of(results: dict[str, Any]) -> dict[str, Any]:
    return {name: step["embedding"] for name, step in results["results"]["steps"].items()}


def train(settings: Settings, database: DatabaseManager, session_id: str) -> dict[str, Any]:
    results = ModelTrainingNode(NodeConfig(settings=settings), database).execute(
        {"session_id": session_id, "model_type": "embedding"}
    )
    return steps_of(results)


def with_rate(settings: Settings, rate: float) -> Settings:
    training = dataclasses.replace(settings.embedding.training, learning_rate=rate)
    embedding = dataclasses.replace(settings.embedding, training=training)
    return dataclasses.replace(settings, embedding=embedding)


@pytest.fixture(scope="module")
def trained_on_first(
    tmp_path_factory: pytest.TempPathFactory, _tracking_template: Path, make_settings: Make
) -> Path:
    """Return the folder of the stores after a training on the session `first`."""
    folder = tmp_path_factory.mktemp("first")
    shutil.copy(_tracking_template, folder / "mlflow.db")
    with (
        pytest.MonkeyPatch.context() as environment,
        DatabaseManager(f"sqlite:///{folder}/tunetrail.db") as database,
    ):
        environment.setenv("TUNETRAIL_CACHE", str(folder / ".cache"))
        store(database, "first", "abcdef")
        train(make_settings(folder, gate=LENIENT), database, "first")
    return folder


@pytest.fixture
def database(trained_on_first: Path, workplace: Path) -> Iterator[DatabaseManager]:
    """Yield the database after the training on `first`, next to a copy of the other stores."""
    shutil.copytree(trained_on_first, workplace, symlinks=True, dirs_exist_ok=True)
    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        yield manager


@pytest.mark.processes
def test_execute_compares_on_the_test_rows_of_earlier_sessions(
    database: DatabaseManager,
    workplace: Path,
    make_settings: Make,
) -> None:
    settings = make_settings(workplace, gate=LENIENT)
    store(database, "second", "ghijkl")
    result = database.training_runs("first")[-1].result
    assert result is not None
    first = steps_of(result)
    kept = database.read_benchmark("embedding", "pair")

    second = train(settings, database, "second")

    assert first["comparison"]["earlier_sessions"] == {}
    assert {record.session_id for record in kept} == {"first"}
    assert len(kept) == first["comparison"]["side_rows"]
    (change,) = second["comparison"]["earlier_sessions"].values()
    assert change["examples"] == len(kept)
    run = client_of(settings.tracking.uri).get_run(second["deployment"]["mlflow_run_id"])
    assert run.data.metrics["earlier_sessions/first"] == change["improvement"]
    sessions = [record.session_id for record in database.read_benchmark("embedding", "pair")]
    assert list(dict.fromkeys(sessions)) == ["first", "second"]


@pytest.mark.processes
def test_execute_refuses_a_candidate_that_has_forgotten_an_earlier_session(
    database: DatabaseManager, workplace: Path, make_settings: Make
) -> None:
    settings = make_settings(workplace, gate=LENIENT)
    store(database, "second", "ghijkl")

    # So high a rate that the model ends with the same vector for every text.
    steps = train(with_rate(settings, 1.0), database, "second")

    deployment = steps["deployment"]
    assert deployment["decision"] == "refused"
    assert "rows of the earlier session first, where gate.maximum_loss=0.02" in deployment["reason"]
    assert steps["comparison"]["earlier_sessions"]["first"]["upper"] < 0.0

    # A gate that accepts such losses lets the same training through.
    gate = dataclasses.replace(LENIENT, maximum_loss=1.0)
    lenient = dataclasses.replace(with_rate(settings, 1.0), gate=gate)
    assert train(lenient, database, "second")["deployment"]["decision"] == "promoted"


@pytest.mark.processes
def test_execute_leaves_out_benchmark_rows_that_the_candidate_has_learnt_from(
    database: DatabaseManager, workplace: Path, make_settings: Make
) -> None:
    settings = make_settings(workplace, gate=LENIENT)
    kept = database.read_benchmark("embedding", "pair")

    # All held-out rows of the first session come again, with a word more.
    rows = [
        {
            "anchor": f"{record.record['anchor']} again",
            "positive": f"{record.record['positive']} AGAIN",
        }
        for record in kept
    ]
    database.ingest("second", rows, SampleKind.EMBEDDING)
    steps = train(settings, database, "second")

    split = steps["evaluation"]["split"]["rows"]
    learnt = split["train"]
    (change,) = steps["comparison"]["earlier_sessions"].values()
    assert change["examples"] == len(kept) - learnt > 0


@pytest.mark.slow  # Four trainings
def test_repro_scores_the_rows_of_earlier_sessions_that_the_run_had(
    database: DatabaseManager, workplace: Path, make_settings: Make
) -> None:
    settings = make_settings(workplace, gate=LENIENT)
    store(database, "second", "ghijkl")
    second = train(settings, database, "second")
    # The benchmark grows.
    store(database, "third", "mnopqr")
    train(settings, database, "third")
    run_id = second["deployment"]["mlflow_run_id"]

    repeated = reproduce(run_id, tracking=settings.tracking, database=database)

    assert repeated.identical, repeated.to_dict()
    (family,) = repeated.families
    values = {pair.name: pair.now for pair in family.metrics}
    (change,) = second["comparison"]["earlier_sessions"].values()
    assert values["earlier_sessions/first"] == change["improvement"]
    assert not any(name == "earlier_sessions/third" for name in values)

    # Cut, so that most of the rows are gone.
    kept = database.read_benchmark("embedding", "pair")
    database.extend_benchmark("embedding", kept, 4)
    (family,) = reproduce(run_id, tracking=settings.tracking, database=database).families
    (difference,) = family.differences
    assert "rows of earlier sessions have left the benchmark" in difference.in_words


@pytest.mark.processes
def test_execute_keeps_no_benchmark_if_told_so(
    database: DatabaseManager, workplace: Path, make_settings: Make
) -> None:
    evaluation = EvaluationConfig(bootstrap_samples=100, benchmark_rows=0)
    settings = make_settings(workplace, gate=LENIENT, evaluation=evaluation)
    store(database, "second", "ghijkl")

    train(settings, database, "second")

    sessions = {record.session_id for record in database.read_benchmark("embedding", "pair")}
    assert sessions == {"first"}


@pytest.mark.processes
def test_benchmark_rows_come_back_as_they_were(database: DatabaseManager) -> None:
    from tunetrail.pipeline.benchmark import Benchmark
    from tunetrail.pipeline.families import family_named

    family = family_named("embedding")
    rows, sessions = Benchmark(database=database, family=family, session_ids=["other"]).rows("pair")
    of_first, _ = Benchmark(database=database, family=family, session_ids=["first"]).rows("pair")

    assert isinstance(rows, pd.DataFrame) and of_first.empty
    assert set(rows["shape"]) == {"pair"} and set(sessions.values()) == {"first"}
    assert (rows["positive"] == rows["anchor"].str.upper()).all()
    assert sorted(sessions) == sorted(rows["row_id"].tolist())
