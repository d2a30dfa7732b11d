"""What is said of root before the training, and what its own figure is."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest
from tests.flow.conftest import store_rows
from tests.tracking import client_of

from tunetrail import DatabaseManager, ModelTrainingNode, NodeConfig
from tunetrail.config import EvaluationConfig, Settings
from tunetrail.pipeline.families import EMBEDDING, register_family
from tunetrail.samples import SampleKind

pytestmark = pytest.mark.processes


def train(settings: Settings, database: DatabaseManager, session_id: str) -> dict[str, Any]:
    results = ModelTrainingNode(NodeConfig(settings=settings), database).execute(
        {"session_id": session_id, "model_type": "embedding"}
    )
    return {name: step["embedding"] for name, step in results["results"]["steps"].items()}


def test_a_test_without_room_is_said_before_the_training(
    database: DatabaseManager,
    workplace: Path,
    make_settings: Any,
    make_rows: Any,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
) -> None:
    rows = make_rows("pair")
    store_rows(database, "easy", SampleKind.EMBEDDING, rows)
    scored = []
    score = EMBEDDING.score

    def counting(learner: Any, model: Any, *arguments: Any) -> Any:
        scored.append(model)
        return score(learner, model, *arguments)

    # Counts the scorings, which stay the real ones.
    request.addfinalizer(lambda: register_family(EMBEDDING))
    register_family(dataclasses.replace(EMBEDDING, score=counting))
    # Such an interval needs 31 rows that differ, more than there are.
    evaluation = EvaluationConfig(bootstrap_samples=100, confidence=1.0 - 1e-9)
    settings = make_settings(workplace, evaluation=evaluation)
    with caplog.at_level(logging.INFO, "tunetrail"):
        steps = train(settings, database, "easy")

    messages = [record.getMessage() for record in caplog.records]
    warned = [index for index, message in enumerate(messages) if "already has the best" in message]
    trained = [index for index, message in enumerate(messages) if "training from base" in message]
    assert len(warned) == 1 and warned[0] < trained[0]
    assert "the base model already has the best ndcg_at_10 on" in messages[warned[0]]
    assert steps["comparison"]["examples"] < 31
    # Before the training the base model, and after it the candidate only.
    assert len(scored) == 2


def test_root_is_quoted_on_rows_that_came_after_its_promotion(
    database: DatabaseManager, workplace: Path, make_settings: Any, make_rows: Any
) -> None:
    rows = make_rows("pair")
    store_rows(database, "first", SampleKind.EMBEDDING, rows)
    settings = make_settings(workplace)

    first = train(settings, database, "first")
    again = train(settings, database, "first")
    more = [
        {"anchor": f"novel {row} {row * 13}", "positive": f"reply {row} {row * 17}"}
        for row in range(200)
    ]
    # The session grows, so that its test side has old rows and new ones.
    store_rows(database, "first", SampleKind.EMBEDDING, more)
    later = train(settings, database, "first")

    assert first["comparison"]["root_figure"] is None
    # The same test rows that made it root.
    assert again["comparison"]["root_figure"]["rows"] == 0
    assert again["comparison"]["root_figure"]["value"] is None
    figure = later["comparison"]["root_figure"]
    assert 0 < figure["rows"] < later["comparison"]["examples"]
    assert 0.0 < figure["value"] <= 1.0
    version = client_of(settings.tracking.uri).get_model_version("embedding", "2")
    assert version.tags["tunetrail.ndcg_at_10_after_promotion"].endswith(
        f"on {figure['rows']} rows"
    )
