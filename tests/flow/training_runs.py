"""What a training has left so far: its run in the workplace's MLflow store, and its exported model."""

import contextlib
import hashlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.tracking import client_of, runs_by_family

_WAIT_SECONDS = 400
"""How long a training may take on a busy machine to reach a step."""


def last_step(workplace: Path) -> int:
    """Return the last training step whose loss is logged, 0 if there is none."""
    query = "SELECT max(step) FROM metrics WHERE key = 'train/loss'"
    with contextlib.closing(sqlite3.connect(workplace / "mlflow.db", timeout=20)) as connection:
        (step,) = connection.execute(query).fetchone()
    return int(step or 0)


def wait_for_step(
    workplace: Path, step: int, is_running: Callable[[], bool], printed: Callable[[], str]
) -> None:
    """Wait until the loss of a step is logged; fails with what was printed if the training ends."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while last_step(workplace) < step:
        assert is_running(), printed()
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.01)


def run_of(workplace: Path, model_type: str, experiment_name: str = "tunetrail") -> Any:
    """Return the MLflow run in which a model type was trained."""
    client = client_of(f"sqlite:///{workplace}/mlflow.db")
    experiment = client.get_experiment_by_name(experiment_name)
    assert experiment is not None
    return runs_by_family(client.search_runs([experiment.experiment_id]))[model_type]


def losses(
    workplace: Path, model_type: str, experiment: str = "tunetrail"
) -> list[tuple[int, float]]:
    """Return step and loss of each step of a training."""
    client = client_of(f"sqlite:///{workplace}/mlflow.db")
    run_id = run_of(workplace, model_type, experiment).info.run_id
    metrics = client.get_metric_history(run_id, "train/loss")
    return sorted((metric.step, metric.value) for metric in metrics)


def hash_of_root(folder: Path, model_type: str) -> str:
    """Return the hash of the weights of the exported root model."""
    (file,) = (folder / "models" / model_type / "root").rglob("*.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()
