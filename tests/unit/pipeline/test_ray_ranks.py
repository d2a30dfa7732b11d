"""A training on a Ray cluster of one machine: the model of two local ranks, and its failures in a line."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from tests.unit.pipeline.jobs import (
    FIT_AND_TELL,
    settings_of_two_ranks,
    weights_of,
    write_job,
)

from tunetrail.config import Settings
from tunetrail.config.trainer import TrainerConfig
from tunetrail.learning.workers import free_port
from tunetrail.pipeline.jobs import run_fit_job

pytest.importorskip("ray", reason="the extra `ray` is not installed")
# Four starts of Ray's workers, each of which imports everything.
pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(900)]

CPUS = 2
TOKEN = uuid.uuid4().hex


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of this machine with two CPUs."""
    port = free_port()
    # Ray's sockets lie there, and the names of sockets have to be short.
    with tempfile.TemporaryDirectory(
        prefix="ray-", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:
        options = ["--block", "--include-dashboard=false", "--node-ip-address=127.0.0.1"]
        options += [f"--num-cpus={CPUS}", f"--port={port}", f"--temp-dir={folder}"]
        head = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", *options],
            env=environment(""),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for_port(port)
            yield f"127.0.0.1:{port}"
        finally:
            processes = psutil.Process(head.pid).children(recursive=True)
            head.terminate()
            head.wait(timeout=60)
            _, alive = psutil.wait_procs(processes, timeout=30)
            for process in alive:
                process.kill()


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def environment(address: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "RAY_ADDRESS": address,
        "RAY_USAGE_STATS_ENABLED": "0",
        # A cluster refuses who doesn't know its token.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        # Or Ray would take 127.0.0.1 for this machine's address in the network.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }


def fit_on_ray(folder: Path, address: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", FIT_AND_TELL, str(folder)],
        env=environment(address),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def last_error(process: subprocess.Popen[str]) -> str:
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 1
    return errors.strip().splitlines()[-1]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_of_two_ranks(tmp_path, launcher="ray")


def test_two_workers_train_the_model_of_two_local_ranks(
    settings: Settings, tmp_path: Path, cluster: str
) -> None:
    on_ray = write_job(tmp_path / "ray", settings)
    settings.trainer = TrainerConfig(accelerator="cpu", devices=2)
    local = write_job(tmp_path / "local", settings)
    expected = run_fit_job(local)

    output, errors = fit_on_ray(on_ray, cluster).communicate(timeout=200)

    assert (on_ray / "result.json").exists(), errors
    result = json.loads((on_ray / "result.json").read_text())
    assert result["history"]["train/loss"] == expected["history"]["train/loss"]
    weights = weights_of(on_ray / "model")
    assert all(
        torch.equal(weights[name], weight) for name, weight in weights_of(local / "model").items()
    )
    reports = [json.loads(line) for line in output.splitlines() if line.startswith("[")]
    assert [step for step, names in reports if "train/loss" in names] == list(range(1, 9))
    assert not (on_ray / "checkpoints").exists()


def test_the_error_of_a_worker_is_that_of_the_training(
    settings: Settings, tmp_path: Path, cluster: str
) -> None:
    folder = write_job(tmp_path / "fit", settings)
    job = json.loads((folder / "job.json").read_text())
    job["start"] = str(tmp_path / "nowhere")
    (folder / "job.json").write_text(json.dumps(job))

    error = last_error(fit_on_ray(folder, cluster))

    assert error.startswith("tunetrail.errors.BrokenModelError: ")
    assert "/nowhere can't be loaded" in error


def test_more_workers_than_the_cluster_has_are_refused(
    settings: Settings, tmp_path: Path, cluster: str
) -> None:
    settings.trainer = TrainerConfig(accelerator="cpu", devices=CPUS + 1, launcher="ray")
    folder = write_job(tmp_path / "fit", settings)

    assert last_error(fit_on_ray(folder, cluster)) == (
        "tunetrail.errors.ConfigError: trainer.devices must be at most the 2 CPU cores of the Ray "
        "cluster, got 3. Lower it, or add machines to the cluster."
    )


def stop_at(process: subprocess.Popen[str], step: int, signal_number: signal.Signals) -> str:
    """Send a signal when a step is reported, and return what the process says in the end."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("[") and json.loads(line)[0] >= step:
            break
    process.send_signal(signal_number)
    return process.communicate(timeout=100)[1]


def test_a_stopped_training_continues_where_it_was(
    settings: Settings, tmp_path: Path, cluster: str
) -> None:
    training = settings.embedding.training
    training.batch_size, training.num_epochs, training.early_stopping_patience = 2, 50, 0
    cut = write_job(tmp_path / "cut", settings)
    settings.trainer = TrainerConfig(accelerator="cpu", devices=2)
    whole = write_job(tmp_path / "whole", settings)
    expected = run_fit_job(whole)

    for step, signal_number in ((5, signal.SIGINT), (150, signal.SIGTERM)):
        errors = stop_at(fit_on_ray(cut, cluster), step, signal_number)
        assert not (cut / "result.json").exists()
        assert (cut / "checkpoints" / "last.ckpt").exists(), errors
    resumed = fit_on_ray(cut, cluster)
    _, errors = resumed.communicate(timeout=200)

    assert resumed.returncode == 0, errors
    history = json.loads((cut / "result.json").read_text())["history"]
    assert history["train/loss"] == expected["history"]["train/loss"]
    weights = weights_of(cut / "model")
    assert all(
        torch.equal(weights[name], weight) for name, weight in weights_of(whole / "model").items()
    )
