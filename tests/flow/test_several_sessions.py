"""A training of several sessions: each keeps its split, and the gate looks at each of them."""

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.flow.conftest import rows_of, store_rows
from tests.tracking import client_of

from tunetrail import DatabaseManager, ModelTrainingNode, NodeConfig
from tunetrail.config import (
    CrossValidationConfig,
    EmbeddingConfig,
    FurtherLossesConfig,
    Settings,
)
from tunetrail.errors import ConfigError, SampleError, SessionError
from tunetrail.node.reproducing import reproduce
from tunetrail.pipeline import DataSciencePipeline
from tunetrail.pipeline.families import EMBEDDING
from tunetrail.pipeline.session_rows import rows_by_session
from tunetrail.samples import SampleKind

Make = Callable[..., Settings]

ROWS = 60


def pairs(session_id: str, alphabet: str) -> list[dict[str, str]]:
    """Return pairs whose answer is the question in capitals, in words of the session's own."""
    drawn = random.Random(session_id)
    words = ["".join(drawn.choices(alphabet, k=5)) for _ in range(200)]
    texts = [" ".join(drawn.choices(words, k=8)) for _ in range(ROWS)]
    return [{"anchor": text, "positive": text.upper()} for text in texts]


@pytest.fixture
def two_sessions(database: DatabaseManager) -> DatabaseManager:
    """Return the database with the sessions `a` and `b`; the first row of `a` is in `b` as well."""
    rows = pairs("a", "abcdef")
    store_rows(database, "a", SampleKind.EMBEDDING, rows)
    store_rows(database, "b", SampleKind.EMBEDDING, [rows[0], *pairs("b", "ghijkl")])
    return database


def node_of(settings: Settings, database: DatabaseManager) -> ModelTrainingNode:
    return ModelTrainingNode(NodeConfig(settings=settings), database)


def request_of(*session_ids: str) -> dict[str, Any]:
    return {"session_id": list(session_ids), "model_type": "embedding"}


def sides_of(folder: Path) -> dict[str, pd.DataFrame]:
    names = ("train", "validation", "test")
    return {name: pd.read_parquet(folder / "rows" / f"{name}.parquet") for name in names}


def shapes_of(database: DatabaseManager, session_id: str, row_ids: set[int]) -> set[str]:
    """Return the shapes of some samples of a session."""
    chunks = database.read_samples(session_id, SampleKind.EMBEDDING)
    return {row.sample.shape for rows in chunks for row in rows if row.row_id in row_ids}


def test_prepare_gives_each_row_the_side_that_it_has_in_its_own_session(
    two_sessions: DatabaseManager,
    workplace: Path,
    make_settings: Make,
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = node_of(make_settings(workplace), two_sessions)
    alone = {}
    for session_id in ("a", "b"):
        node.prepare({"session_id": session_id, "model_type": "embedding"}, workplace / session_id)
        for side, rows in sides_of(workplace / session_id).items():
            alone |= dict.fromkeys(rows["row_id"], (session_id, side))

    session = node.prepare(request_of("a", "b"), workplace / "both")

    together = {}
    for side, rows in sides_of(workplace / "both").items():
        for row_id, session_id in zip(rows["row_id"], rows["session"], strict=True):
            together[row_id] = (session_id, side)
    assert together.items() <= alone.items()
    # The row that both have is there once, and the account adds up.
    assert len(together) == len(alone) - 1 == sum(session.sides.values())
    split = session.step("split")
    assert (split.rows_in, split.set_aside) == (len(alone), 1)
    assert "1 of 121 rows are left out" in session.warnings[-1]
    assert f"embedding: {session.warnings[-1]}" in caplog.messages
    set_aside = pd.read_parquet(workplace / "both" / "set_aside.parquet")
    assert (
        "of row 1" in set_aside["reason"].iloc[-1]
        or "another session" in (set_aside["reason"].iloc[-1])
    )


def test_no_near_duplicate_of_a_row_that_another_session_holds_out_is_learnt(
    database: DatabaseManager, workplace: Path, make_settings: Make
) -> None:
    rows = pairs("a", "abcdef")
    store_rows(database, "a", SampleKind.EMBEDDING, rows)
    again = [
        {"anchor": f"{row['anchor']} again", "positive": f"{row['positive']} AGAIN"} for row in rows
    ]
    own = pairs("b", "ghijkl")
    store_rows(database, "b", SampleKind.EMBEDDING, [*own, *again])

    node_of(make_settings(workplace), database).prepare(request_of("b", "a"), workplace / "both")

    def beginnings(rows: pd.DataFrame) -> set[str]:
        return {anchor.removesuffix(" again") for anchor in rows["anchor"]}

    sides = sides_of(workplace / "both")
    assert not beginnings(sides["train"]) & beginnings(sides["test"])
    assert not beginnings(sides["train"]) & beginnings(sides["validation"])
    assert not beginnings(sides["validation"]) & beginnings(sides["test"])


@pytest.mark.processes
def test_execute_trains_on_several_sessions_and_records_all_of_them(
    two_sessions: DatabaseManager, workplace: Path, make_settings: Make
) -> None:
    settings = make_settings(workplace, session_weights=[2.0, 0.5])

    results = node_of(settings, two_sessions).execute(request_of("a", "b"))

    steps = {name: step["embedding"] for name, step in results["results"]["steps"].items()}
    assert results["session_id"] == ["a", "b"]
    assert set(steps["comparison"]["sessions"]) == {"a", "b"}
    (line,) = two_sessions.promotions("embedding")
    assert (line.session_id, line.sessions) == ("a", ("a", "b"))
    (training_run,) = two_sessions.training_runs("b")
    assert training_run.session_ids == ("a", "b") and training_run.state == "succeeded"
    assert {summary.state for summary in two_sessions.sessions()} == {"succeeded"}

    run = client_of(settings.tracking.uri).get_run(steps["deployment"]["mlflow_run_id"])
    inputs = [(entry.dataset.name, entry.tags[0].value) for entry in run.inputs.dataset_inputs]
    assert {("a", "training"), ("b", "training"), ("a", "test"), ("b", "test")} <= set(inputs)
    assert run.data.tags["tunetrail.session_id"] == "a+b"
    assert "sessions/b" in run.data.metrics

    # Each row of `a` twice, and half of the rows of `b`.
    learnt = set(map(int, two_sessions.learnt_rows("embedding", line.version)))
    of_a = learnt & set(two_sessions.sample_ids("a", SampleKind.EMBEDDING))
    of_b = learnt & set(two_sessions.sample_ids("b", SampleKind.EMBEDDING))
    assert steps["training"]["rows"] == 2 * len(of_a) + len(of_b)
    assert len(of_a) + 2 * len(of_b) == pytest.approx(
        steps["evaluation"]["split"]["rows"]["train"], abs=1
    )

    # The next session meets the test rows of both.
    store_rows(two_sessions, "c", SampleKind.EMBEDDING, pairs("c", "mnopqr"))
    settings = dataclasses.replace(settings, session_weights=[], replay=0.2)
    results = node_of(settings, two_sessions).execute(
        {"session_id": "c", "model_type": "embedding"}
    )
    steps = {name: step["embedding"] for name, step in results["results"]["steps"].items()}
    assert set(steps["comparison"]["earlier_sessions"]) == {"a", "b"}
    assert set(steps["training"]["replayed"]["sessions"]) == {"a", "b"}


@pytest.mark.processes  # Four trainings
def test_folds_learn_each_session_as_often_as_its_weight_says(
    two_sessions: DatabaseManager, workplace: Path, make_settings: Make
) -> None:
    tokens = {}
    for name, weights in {"once": [], "twice": [2.0, 2.0]}.items():
        settings = make_settings(
            workplace / name,
            session_weights=weights,
            cross_validation=CrossValidationConfig(n_splits=2, budget=1.0, max_cost=100.0),
        )
        settings.embedding.training.max_steps = -1
        pipeline = DataSciencePipeline(settings)
        outcome = pipeline.run(
            "embedding",
            rows_by_session(two_sessions, ["a", "b"], EMBEDDING, settings),
            name="a+b",
            until="cross_validate",
        )
        folds = pipeline.tracker.children(outcome.mlflow_run_id)
        tokens[name] = [fold.data.metrics["train/tokens"] for fold in folds]

    assert len(tokens["once"]) == 2
    assert tokens["twice"] == [2.0 * count for count in tokens["once"]]


@pytest.mark.parametrize(
    ("request_", "settings", "error", "match"),
    [
        (["a", "a"], {}, ConfigError, r"session_id must be all different, got \['a', 'a'\]\."),
        ([], {}, ConfigError, r"session_id must be an id or a list of ids, got \[\]\."),
        (["a", "nope"], {}, SessionError, r"session_id must name a session .* got 'nope'"),
        (["a", "../b"], {}, ConfigError, r"session_id must be 1 to 128 letters"),
        (
            ["a", "b"],
            {"session_weights": [1.0]},
            ConfigError,
            r"session_weights must be empty or a weight for each of 2 sessions, got \[1.0\]\.",
        ),
        (
            ["a", "scored"],
            {},
            SampleError,
            r"embedding samples of several sessions must all have one shape, got pair in session a "
            r"and score in session scored\. Train on them one after the other\.",
        ),
    ],
)
def test_execute_refuses_sessions_that_cannot_be_learnt_together(
    request_: list[str],
    settings: dict[str, Any],
    error: type[Exception],
    match: str,
    two_sessions: DatabaseManager,
    workplace: Path,
    make_settings: Make,
) -> None:
    store_rows(two_sessions, "scored", SampleKind.EMBEDDING, rows_of("score"))
    node = node_of(make_settings(workplace, **settings), two_sessions)
    with pytest.raises(error, match=match):
        node.execute(request_of(*request_))
    assert two_sessions.training_runs() == []


def test_one_of_several_sessions_may_have_further_shapes_if_one_is_chosen(
    two_sessions: DatabaseManager, workplace: Path, make_settings: Make
) -> None:
    store_rows(two_sessions, "a", SampleKind.EMBEDDING, rows_of("score"))
    settings = make_settings(workplace)
    chosen: EmbeddingConfig = dataclasses.replace(settings.embedding, shape="pair")
    node = node_of(dataclasses.replace(settings, embedding=chosen), two_sessions)

    node.prepare(request_of("a", "b"), workplace / "both")

    assert set(sides_of(workplace / "both")["train"]["shape"]) == {"pair"}


@pytest.mark.slow  # Two trainings
def test_further_shapes_of_several_sessions_are_learnt_and_repeated(
    two_sessions: DatabaseManager, workplace: Path, make_settings: Make
) -> None:
    # The first session has two further shapes, the second one of them, with another weight.
    for shape in ("score", "label"):
        store_rows(two_sessions, "a", SampleKind.EMBEDDING, rows_of(shape))
    # In other words, as near-duplicates across sessions are learnt once.
    labels = [{**row, "text": row["text"][::-1]} for row in rows_of("label")]
    store_rows(two_sessions, "b", SampleKind.EMBEDDING, labels)
    settings = make_settings(workplace, session_weights=[1.0, 2.0])
    further = FurtherLossesConfig(score="auto", label="auto")
    settings.embedding = dataclasses.replace(settings.embedding, shape="pair", also_train=further)

    results = node_of(settings, two_sessions).execute(request_of("a", "b"))

    steps = {name: step["embedding"] for name, step in results["results"]["steps"].items()}
    (line,) = two_sessions.promotions("embedding")
    learnt = set(map(int, two_sessions.learnt_rows("embedding", line.version)))
    of_a = learnt & set(two_sessions.sample_ids("a", SampleKind.EMBEDDING))
    of_b = learnt & set(two_sessions.sample_ids("b", SampleKind.EMBEDDING))
    assert steps["training"]["rows"] == len(of_a) + 2 * len(of_b)
    shapes = {
        session_id: shapes_of(two_sessions, session_id, ids)
        for session_id, ids in {"a": of_a, "b": of_b}.items()
    }
    assert shapes == {"a": {"pair", "score", "label"}, "b": {"pair", "label"}}

    run_id = steps["deployment"]["mlflow_run_id"]
    repeated = reproduce(run_id, tracking=settings.tracking, database=two_sessions)
    (family,) = repeated.families
    assert repeated.identical and family.rows is not None and not family.differences


@pytest.mark.parametrize("weights", [[0.0, 1.0], [1.0, 11.0], [float("nan"), 1.0]])
def test_weights_out_of_range_are_refused(weights: list[float]) -> None:
    with pytest.raises(ConfigError, match="session_weights must be numbers above 0 and at most 10"):
        Settings(session_weights=weights)
