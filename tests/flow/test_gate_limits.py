"""Trainings whose candidates are too slow, too large, or lose on a slice: refused, and why."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from tests.tracking import client_of

from tunetrail import DatabaseManager, ModelTrainingNode, NodeConfig
from tunetrail.config import GateConfig, Settings

pytestmark = pytest.mark.processes

OPEN: dict[str, Any] = {
    "require_interval": False,
    "minimum_improvement": -10.0,
    "minimum_test_clusters": 1,
    "fresh_process": False,
}


@pytest.mark.parametrize(
    ("limits", "decision", "words"),
    [
        ({"maximum_latency_ms": 1e-3}, "refused", "gate.maximum_latency_ms=0.001 is exceeded by"),
        ({"maximum_model_mib": 1e-3}, "refused", "gate.maximum_model_mib=0.001 is exceeded by"),
        (
            {"maximum_latency_ms": 1e5, "maximum_model_mib": 1e5, "maximum_slice_loss": 0.0},
            "promoted",
            "is above -10.0000",
        ),
    ],
)
def test_a_candidate_is_measured_and_refused_above_a_limit(
    session: str,
    database: DatabaseManager,
    make_settings: Callable[..., Settings],
    workplace: Any,
    limits: dict[str, float],
    decision: str,
    words: str,
) -> None:
    settings = make_settings(workplace)
    settings = dataclasses.replace(settings, gate=GateConfig(**OPEN, **limits))

    node = ModelTrainingNode(NodeConfig(settings=settings), database)
    results = node.execute({"session_id": session, "model_type": "embedding"})

    steps = results["results"]["steps"]
    deployment, costs = steps["deployment"]["embedding"], steps["comparison"]["embedding"]["costs"]
    assert (deployment["decision"], words in deployment["reason"]) == (decision, True)
    assert (costs["latency"] is not None) is ("maximum_latency_ms" in limits)
    assert (costs["model_mib"] is not None) is ("maximum_model_mib" in limits)
    metrics = client_of(settings.tracking.uri).get_run(deployment["mlflow_run_id"]).data.metrics
    assert ("comparison/root_latency_ms" in metrics) is ("maximum_latency_ms" in limits)
