"""Trainings whose candidates meet the gate with a metric that the settings name."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.flow.conftest import store_rows
from tests.packages import Install

from tunetrail import DatabaseManager, ModelTrainingNode, NodeConfig
from tunetrail.config import CrossValidationConfig, EvaluationConfig, GateConfig, Settings
from tunetrail.errors import ConfigError, SampleError
from tunetrail.samples import SampleKind

pytestmark = pytest.mark.processes

PACKAGE = """
import numpy as np
from tunetrail.evaluation.metric import ExampleMetric

def distance(records, vectors, options):
    return 1.0 - (vectors("anchor") * vectors("positive")).sum(axis=1)

def known(records, vectors, options):
    return np.where(np.arange(len(records)) == 0, np.nan, 1.0)

DISTANCE = ExampleMetric(
    name="distance", label="distance", shapes=("pair",), of_vectors=distance, higher_is_better=False
)
KNOWN = ExampleMetric(name="known", label="known", shapes=("pair",), of_vectors=known)
"""
METRICS = {"distance": "DISTANCE", "known": "KNOWN"}

Make = Callable[..., Settings]


@pytest.fixture(autouse=True)
def package(install: Install) -> None:
    install(PACKAGE, metrics=METRICS)


def settings_with(settings: Settings, metric: str, **gate: Any) -> Settings:
    evaluation = EvaluationConfig(bootstrap_samples=100, metrics=[metric])
    changed = GateConfig(metric=metric, fresh_process=False, minimum_test_clusters=1, **gate)
    return dataclasses.replace(settings, gate=changed, evaluation=evaluation)


def train(settings: Settings, database: DatabaseManager, session_id: str) -> dict[str, Any]:
    results = ModelTrainingNode(NodeConfig(settings=settings), database).execute(
        {"session_id": session_id, "model_type": "embedding"}
    )
    return {name: step["embedding"] for name, step in results["results"]["steps"].items()}


def test_a_packages_metric_decides_here_and_on_earlier_sessions(
    database: DatabaseManager, workplace: Path, make_settings: Make, make_rows: Any
) -> None:
    folds = CrossValidationConfig(n_splits=2, budget=0.5)
    settings = make_settings(workplace, cross_validation=folds)
    store_rows(database, "s1", SampleKind.EMBEDDING, make_rows("pair"))
    later_rows = [
        {"anchor": f"ask {row} {row * 13}", "positive": f"say {row} {row * 17}"}
        for row in range(120)
    ]
    store_rows(database, "s2", SampleKind.EMBEDDING, later_rows)

    open_gate = {"require_interval": False, "minimum_improvement": -10.0}
    first = train(settings_with(settings, "distance", **open_gate), database, "s1")
    # No model comes nearer than this.
    later = train(settings_with(settings, "distance", minimum_improvement=2.0), database, "s2")

    comparison = first["comparison"]
    assert (comparison["metric"], comparison["higher_is_better"]) == ("distance", False)
    gained = comparison["before"] - comparison["after"]
    assert comparison["improvement"] == pytest.approx(gained)
    assert first["evaluation"]["metric"] == first["cross_validation"]["metric"] == "distance"
    assert first["training"]["monitor"] == "val/distance"
    assert first["deployment"]["decision"] == "promoted"
    assert first["deployment"]["reason"].startswith("distance: improvement")
    assert later["deployment"]["decision"] == "refused"
    (change,) = later["comparison"]["earlier_sessions"].values()
    assert change["metric"] == "distance"


def test_a_test_row_without_a_value_is_said_before_the_training(
    database: DatabaseManager,
    session: str,
    workplace: Path,
    make_settings: Make,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = settings_with(make_settings(workplace), "known")

    with (
        caplog.at_level(logging.INFO, "tunetrail"),
        pytest.raises(SampleError, match="'known' without one for 1 of"),
    ):
        train(settings, database, session)

    assert not [message for message in caplog.messages if "training from" in message]


def test_two_model_types_have_no_metric_in_common(
    database: DatabaseManager, session: str, workplace: Path, make_settings: Make
) -> None:
    settings = settings_with(make_settings(workplace), "distance")
    node = ModelTrainingNode(NodeConfig(settings=settings), database)

    for request in (node.execute, node.plan):
        with pytest.raises(
            ConfigError, match=r"gate\.metric must be auto for several model types.*model_type="
        ):
            request({"session_id": session, "model_type": "all"})
