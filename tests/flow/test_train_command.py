import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tunetrail import DatabaseManager
from tunetrail.cli import main


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def overrides(workplace: Path, tiny_embedding_model: str, tiny_language_model: str) -> list[str]:
    """Arguments of a short training of an embedding model."""
    return [
        f"tracking.uri=sqlite:///{workplace}/mlflow.db",
        f"embedding.model={tiny_embedding_model}",
        f"llm.model={tiny_language_model}",
        "llm.max_length=192",
        "cross_validation=off",
        "gate=point",
        "gate.minimum_improvement=-10",
        "evaluation.bootstrap_samples=100",
        *(
            f"{each}.training.{value}"
            for each in ("embedding", "llm")
            for value in ("max_steps=3", "warmup_steps=0", "num_epochs=1")
        ),
    ]


@pytest.fixture
def train(
    workplace: Path,
    session: str,
    overrides: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Callable[..., Ended]]:
    """`tunetrail train session_id=s1 ...` in this process; what it sets in the environment and in logging is undone."""
    monkeypatch.setenv("TUNETRAIL_HOME", str(workplace))
    monkeypatch.setenv("COLUMNS", "160")
    for name in (
        "TUNETRAIL_SHIPPED",
        "HYDRA_FULL_ERROR",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR",
        "HF_HUB_DISABLE_PROGRESS_BARS",
    ):
        monkeypatch.setenv(name, "1")

    def run(*arguments: str) -> Ended:
        flags = [each for each in arguments if each.startswith("-")]
        given = [each for each in arguments if not each.startswith("-")]
        code = main(["train", *flags, f"session_id={session}", *overrides, *given])
        printed = capsys.readouterr()
        return Ended(code, printed.out, printed.err)

    yield run


def runs(workplace: Path) -> list[Any]:
    client = MlflowClient(f"sqlite:///{workplace}/mlflow.db")
    return list(
        client.search_runs(
            [each.experiment_id for each in client.search_experiments()], order_by=["start_time"]
        )
    )


def wait_for(holds: Callable[[], bool], seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.2)


@pytest.fixture
def start_long_training(
    session: str, workplace: Path, overrides: list[str]
) -> Iterator[Callable[[], "subprocess.Popen[str]"]]:
    """Start a training of a minute in a process of its own and wait until it has logged a step."""
    started: list[subprocess.Popen[str]] = []

    def start() -> "subprocess.Popen[str]":
        long = [
            "model_type=embedding",
            "embedding.training.max_steps=100000",
            "embedding.training.logging_steps=1",
        ]
        command = [
            sys.executable,
            "-m",
            "tunetrail",
            "train",
            f"session_id={session}",
            *overrides,
            *long,
        ]
        with open(workplace / "terminal.txt", "w") as terminal:
            process = subprocess.Popen(
                command, cwd=workplace, stdout=terminal, stderr=terminal, text=True
            )
        started.append(process)
        wait_for(
            lambda: (
                process.poll() is not None
                or any("train/loss" in each.data.metrics for each in runs(workplace))
            )
        )
        assert process.poll() is None, (workplace / "terminal.txt").read_text()
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_train_prints_the_table_and_how_to_look_closer(
    train: Callable[..., Ended], workplace: Path
) -> None:
    ended = train("model_type=all")
    assert ended.code == 0, ended.err
    assert "nDCG@10" in ended.out and "bits/byte" in ended.out and ended.out.count("= root") == 2
    assert f"ui --uri sqlite:///{workplace}/mlflow.db" in ended.out
    assert "Traceback" not in ended.err
    for model_type in ("embedding", "llm"):
        assert (workplace / "models" / model_type / "root" / "config.json").exists()


def test_train_marks_a_killed_run_and_goes_on(
    start_long_training: Callable[[], Any],
    train: Callable[..., Ended],
    database: DatabaseManager,
    workplace: Path,
) -> None:
    process = start_long_training()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [each.state for each in database.training_runs()] == ["running"]
    ended = train("model_type=embedding")
    assert ended.code == 0, ended.err
    assert [each.state for each in database.training_runs()] == ["interrupted", "succeeded"]
    dead, alive = (
        [each for each in runs(workplace) if each.info.status == status]
        for status in ("KILLED", "FINISHED")
    )
    assert [each.info.run_name for each in dead] == ["s1 (embedding)", "embedding"]
    assert {each.data.tags["tunetrail.state"] for each in dead} == {"interrupted"}
    assert [each.info.run_name for each in alive] == ["s1 (embedding)", "embedding"]
    assert (workplace / "models" / "embedding" / "root" / "config.json").exists()


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_train_ends_by_a_signal_with_its_code_and_marks_the_run(
    start_long_training: Callable[[], Any],
    database: DatabaseManager,
    workplace: Path,
    number: int,
    code: int,
) -> None:
    process = start_long_training()
    process.send_signal(number)
    assert process.wait(timeout=60) == code, (workplace / "terminal.txt").read_text()
    (run,) = database.training_runs()
    assert run.state == "interrupted"
    assert [each.info.status for each in runs(workplace)] == ["KILLED", "KILLED"]
    assert list((workplace / "training_output").glob("*/fit/checkpoints/last.ckpt"))
    assert "Traceback" not in (workplace / "terminal.txt").read_text()


def test_train_sweeps_over_two_values_under_one_run(
    train: Callable[..., Ended], workplace: Path
) -> None:
    ended = train("-m", "model_type=embedding", "embedding.training.learning_rate=1e-4,1e-3")
    assert ended.code == 0, ended.err
    found = runs(workplace)
    assert {each.info.status for each in found} == {"FINISHED"}
    (sweep,) = [each for each in found if "mlflow.parentRunId" not in each.data.tags]
    jobs = [each for each in found if each.data.tags.get("mlflow.parentRunId") == sweep.info.run_id]
    assert sweep.info.run_name == "sweep embedding.training.learning_rate=1e-4,1e-3"
    assert [each.data.params["embedding.training.learning_rate"] for each in jobs] == [
        "0.0001",
        "0.001",
    ]
    assert all("embedding/after" in each.data.metrics for each in jobs)
    assert "TUNETRAIL_SWEEP_RUN" not in os.environ


def test_train_sweeps_on_after_a_failed_job(
    train: Callable[..., Ended],
    database: DatabaseManager,
    workplace: Path,
    tiny_embedding_model: str,
) -> None:
    ended = train(
        "-m", "model_type=embedding", f"embedding.model=nobody/no-such-model,{tiny_embedding_model}"
    )
    assert ended.code == 1
    assert "was not found" in ended.err and "Traceback" not in ended.err
    assert sorted(each.state for each in database.training_runs()) == ["failed", "succeeded"]
    (sweep,) = [each for each in runs(workplace) if "mlflow.parentRunId" not in each.data.tags]
    assert sweep.info.status == "FAILED"
    jobs = [
        each
        for each in runs(workplace)
        if each.data.tags.get("mlflow.parentRunId") == sweep.info.run_id
    ]
    assert sorted(each.info.status for each in jobs) == ["FAILED", "FINISHED"]
    assert "TUNETRAIL_SWEEP_RUN" not in os.environ
