"""Results of a training of one embedding model, as the node returns them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

COMPARISON = {
    "metric": "ndcg_at_10",
    "higher_is_better": True,
    "before": 0.5,
    "after": 0.625,
    "improvement": 0.125,
    "lower": 0.05,
    "upper": 0.2,
    "confidence": 0.95,
    "examples": 40,
    "bootstrap_samples": 1000,
    "better_share": 0.5,
    "worse_share": 0.25,
    "against": "base",
}
DEPLOYMENT = {
    "name": "embedding",
    "version": "3",
    "promote": True,
    "decision": "promoted",
    "reason": "it is better",
    "mlflow_run_id": "c" * 32,
}
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def training_results(
    *, comparison: Mapping[str, Any] = _NOTHING, deployment: Mapping[str, Any] = _NOTHING
) -> dict[str, Any]:
    """Results whose comparison and deployment differ from the usual ones as the arguments say."""
    steps: dict[str, Any] = {
        "cross_validation": {"embedding": {}},
        "evaluation": {"embedding": {}},
        "comparison": {"embedding": {**COMPARISON, **comparison}},
        "deployment": {"embedding": {**DEPLOYMENT, **deployment}},
    }
    identity = {"session_id": "s1", "model_type": "embedding", "timestamp": "2026-11-30T00:00:00"}
    return {**identity, "results": {**identity, "steps": steps}}
