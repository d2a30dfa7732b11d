"""The commands of the documents on a SLURM cluster of two nodes, which the tests start on this machine."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tests.flow.nodes import ONE_THREAD, STEPS, store_arguments, training_arguments
from tests.flow.training_runs import losses, wait_for_step
from tests.slurm import DAEMONS, slurm_cluster

from tunetrail import DatabaseManager

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not all(map(shutil.which, DAEMONS)), reason="SLURM isn't installed"),
]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "training.md"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Mapping[str, str]]:
    """The environment in which SLURM's commands find the cluster, and its nodes find tunetrail."""
    with slurm_cluster() as environment:
        path = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
        yield {
            **environment,
            **ONE_THREAD,
            "PATH": path,
            "PYTHONPATH": os.pathsep.join(sys.path),
        }


def documented_script(arguments: list[str]) -> str:
    """Return the script of docs/training.md for nodes without a GPU."""
    script = re.search(r"```sh\n(#!/bin/bash\n#SBATCH.+?)```", PAGE.read_text(), re.DOTALL)
    assert script is not None
    text = script[1].replace(" --gpus-per-node=8", "").replace("trainer.devices=8", "")
    return text.replace("session_id=ID", shlex.join(arguments)).replace("/shared/tunetrail", "out")


def submit(script: str, workplace: Path, cluster: Mapping[str, str]) -> str:
    """Submit a script, and return the job's id."""
    command = ["sbatch", "--parsable", "--output=job-%j.txt"]
    environment = {**cluster, "TUNETRAIL_HOME": str(workplace)}
    submitted = subprocess.run(
        command,
        input=script,
        cwd=workplace,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert submitted.returncode == 0, submitted.stderr
    return submitted.stdout.strip()


def state_of(job: str, cluster: Mapping[str, str]) -> str:
    """Return the state of a job, such as RUNNING or COMPLETED."""
    command = ["scontrol", "show", "job", job]
    answer = subprocess.run(command, env=dict(cluster), capture_output=True, text=True)
    state = re.search(r"JobState=(\w+)", answer.stdout)
    return state[1] if state else ""


def wait_for_end(job: str, cluster: Mapping[str, str]) -> str:
    """Return the state in which a job has ended."""
    deadline = time.monotonic() + 600
    while (state := state_of(job, cluster)) in ("PENDING", "RUNNING", "COMPLETING"):
        assert time.monotonic() < deadline, "the job doesn't end"
        time.sleep(0.5)
    return state


def test_the_documented_script_trains_and_resumes_on_two_nodes(
    cluster: Mapping[str, str],
    workplace: Path,
    session: str,
    database: DatabaseManager,
    tiny_embedding_model: str,
) -> None:
    arguments = [
        f"session_id={session}",
        *training_arguments(workplace, tiny_embedding_model),
    ]

    cancelled = submit(documented_script(arguments), workplace, cluster)
    output = workplace / f"job-{cancelled}.txt"
    wait_for_step(
        workplace,
        12,
        lambda: state_of(cancelled, cluster) in ("PENDING", "RUNNING"),
        output.read_text,
    )
    subprocess.run(["scancel", cancelled], env=dict(cluster), check=True)
    assert wait_for_end(cancelled, cluster) == "CANCELLED", output.read_text()

    (run,) = database.training_runs()
    assert (run.state, run.reason) == ("interrupted", "stopped by SIGTERM"), output.read_text()
    resume = shlex.join(["resume", str(run.mlflow_run_id), *store_arguments(workplace)])
    script = re.sub(r"train .+", resume, documented_script([]))
    resumed = submit(script, workplace, cluster)

    state = wait_for_end(resumed, cluster)
    assert state == "COMPLETED", (workplace / f"job-{resumed}.txt").read_text()
    assert [step for step, _ in losses(workplace, "embedding")] == list(range(1, STEPS + 1))
    assert [run.state for run in database.training_runs()] == ["succeeded"]


def test_the_jobs_of_a_sweep_run_on_the_cluster(
    cluster: Mapping[str, str],
    workplace: Path,
    session: str,
    tiny_embedding_model: str,
) -> None:
    pytest.importorskip("submitit", reason="the extra `slurm` is not installed")
    alone = ("trainer.num_nodes", "trainer.node_timeout_minutes")
    arguments = training_arguments(workplace, tiny_embedding_model)
    arguments = [argument for argument in arguments if not argument.startswith(alone)]
    command = [
        *(sys.executable, "-m", "tunetrail", "train", "-m", f"session_id={session}", *arguments),
        *("seed=1,2", "hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=20"),
    ]

    environment = {**cluster, "TUNETRAIL_HOME": str(workplace)}
    sweep = subprocess.run(command, cwd=workplace, env=environment, capture_output=True, text=True)

    assert sweep.returncode == 0, sweep.stdout + sweep.stderr
    assert "2 jobs are submitted (submitit, slurm)" in sweep.stdout + sweep.stderr
    logs = sorted((workplace / "training_output").rglob("train.log"))
    assert len(logs) == 2
    assert not list((workplace / "training_output").rglob("*.pkl"))
