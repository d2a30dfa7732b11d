"""The MLflow client of a test's own store."""

from collections.abc import Iterable
from typing import Any

from mlflow import MlflowClient


def client_of(uri: str) -> MlflowClient:
    """Return a client of the runs and the registry of one store.

    Without the second one, MLflow takes the registry of the last training in this process.
    """
    return MlflowClient(uri, registry_uri=uri)


def runs_by_family(runs: Iterable[Any]) -> dict[str, Any]:
    """Return the runs in which families were trained, by the family's name; the last ones win."""
    with_family = filter(lambda run: "tunetrail.family" in run.data.tags, runs)
    return {run.data.tags["tunetrail.family"]: run for run in with_family}


def top_run(runs: Iterable[Any]) -> Any:
    """Return the only run that isn't below another one."""
    (top,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    return top
