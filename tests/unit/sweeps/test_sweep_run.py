import os
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from tests.tracking import client_of

from tunetrail.config import SWEEP_RUN_VARIABLE
from tunetrail.sweeps.sweep_run import SweepRunCallback, end_sweep


@pytest.fixture
def config(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What Hydra hands to its callbacks."""
    monkeypatch.setenv(SWEEP_RUN_VARIABLE, "")
    overrides = ["session_id=s1", "seed=1,2"]
    tracking = {
        "uri": f"sqlite:///{workplace}/mlflow.db",
        "artifacts": str(workplace / "artifacts"),
        "experiment": "e",
    }
    return OmegaConf.create({"tracking": tracking, "hydra": {"overrides": {"task": overrides}}})


def the_run(config: Any) -> Any:
    client = client_of(config.tracking.uri)
    (run,) = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    return run


def test_callback_opens_a_run_for_the_jobs_and_closes_it(config: Any) -> None:
    callback = SweepRunCallback()
    callback.on_multirun_start(config)
    run = the_run(config)

    assert os.environ[SWEEP_RUN_VARIABLE] == run.info.run_id and run.info.status == "RUNNING"
    assert run.info.run_name == "sweep seed=1,2"
    assert run.data.tags["tunetrail.sweep"] == "session_id=s1 seed=1,2"

    callback.on_multirun_end(config)
    assert the_run(config).info.status == "FINISHED" and SWEEP_RUN_VARIABLE not in os.environ


@pytest.mark.parametrize(("state", "status"), [("failed", "FAILED"), ("interrupted", "KILLED")])
def test_end_sweep_marks_the_run_once(config: Any, state: str, status: str) -> None:
    SweepRunCallback().on_multirun_start(config)
    end_sweep(state, "the reason")
    end_sweep("succeeded")
    run = the_run(config)
    assert (run.info.status, run.data.tags["tunetrail.reason"]) == (status, "the reason")


def test_end_sweep_does_nothing_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SWEEP_RUN_VARIABLE, raising=False)
    end_sweep("failed")


def test_end_sweep_leaves_the_sweep_of_another_process_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(SWEEP_RUN_VARIABLE, "somebody-elses-run")
    end_sweep("failed")
