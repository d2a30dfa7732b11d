"""`tunetrail train` in this process, and in processes of its own that signals end."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.commands import CallMain, CommandResult
from tests.tracking import client_of

from tunetrail import DatabaseManager

pytestmark = pytest.mark.processes

StartTraining = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def overrides(workplace: Path, tiny_embedding_model: str, tiny_language_model: str) -> list[str]:
    """Arguments of a short training of either model type."""
    training = [
        f"{model_type}.training.{override}"
        for model_type in ("embedding", "llm")
        for override in ("max_steps=3", "warmup_steps=0", "num_epochs=1")
    ]
    return [
        f"tracking.uri=sqlite:///{workplace}/mlflow.db",
        f"embedding.model={tiny_embedding_model}",
        f"llm.model={tiny_language_model}",
        "llm.max_length=192",
        "cross_validation=off",
        "gate=point",
        "gate.fresh_process=false",
        "gate.minimum_improvement=-10",
        "evaluation.bootstrap_samples=100",
        *training,
    ]


@pytest.fixture
def train(
    call_main: CallMain, session: str, overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> CallMain:
    """`tunetrail train session_id=s1 ...` in this process."""
    monkeypatch.setenv("COLUMNS", "160")

    def call(*arguments: str) -> CommandResult:
        return call_main("train", f"session_id={session}", *overrides, *arguments)

    return call


def all_runs(workplace: Path) -> list[Any]:
    """Return the MLflow runs of all experiments, oldest first."""
    client = client_of(f"sqlite:///{workplace}/mlflow.db")
    experiment_ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiment_ids, order_by=["start_time"]))


def sweep_and_jobs(workplace: Path) -> tuple[Any, list[Any]]:
    """Return the only run without a parent, and the runs right below it."""
    runs = all_runs(workplace)
    (sweep,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    sweep_id = sweep.info.run_id
    return sweep, [run for run in runs if run.data.tags.get("mlflow.parentRunId") == sweep_id]


def has_logged_a_step(workplace: Path) -> bool:
    return any("train/loss" in run.data.metrics for run in all_runs(workplace))


@pytest.fixture
def start_long_training(
    session: str, workplace: Path, overrides: list[str]
) -> Iterator[StartTraining]:
    """Start a training of a minute in a process of its own and wait until it has logged a step."""
    processes: list[subprocess.Popen[str]] = []
    terminal = workplace / "terminal.txt"
    arguments = [
        f"session_id={session}",
        *overrides,
        "model_type=embedding",
        "embedding.training.max_steps=100000",
        "embedding.training.logging_steps=1",
        # The metric of five rows doesn't change, which would end the training within seconds.
        "callbacks=no_early_stopping",
    ]

    def start() -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "tunetrail", "train", *arguments]
        with open(terminal, "w") as file:
            process = subprocess.Popen(command, cwd=workplace, stdout=file, stderr=file, text=True)
        processes.append(process)

        deadline = time.monotonic() + 240
        while not has_logged_a_step(workplace):
            assert process.poll() is None, terminal.read_text()
            assert time.monotonic() < deadline, "it took too long"
            time.sleep(0.2)
        return process

    yield start

    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_train_prints_the_table_and_how_to_look_closer(train: CallMain, workplace: Path) -> None:
    result = train("model_type=all")

    assert result.exit_code == 0, result.err
    assert "nDCG@10" in result.out and "bits/byte" in result.out
    assert result.out.count("= root") == 2
    assert f"ui --uri sqlite:///{workplace}/mlflow.db" in result.out
    assert "Traceback" not in result.err
    for model_type in ("embedding", "llm"):
        assert (workplace / "models" / model_type / "root" / "config.json").exists()


def test_train_adds_callbacks_and_loggers_by_name(train: CallMain, workplace: Path) -> None:
    result = train(
        "model_type=embedding",
        "embedding.training.logging_steps=1",
        # The metric of five rows doesn't change, which would end the training within seconds.
        "callbacks=no_early_stopping",
        "callbacks=[device_stats,model_summary]",
        "logger=csv",
        "+trainer.callbacks.limit={_target_: pytorch_lightning.callbacks.Timer, duration: 00:12:00:00}",
    )

    assert result.exit_code == 0, result.err
    (run,) = all_runs(workplace)
    assert "DeviceStatsMonitor.on_train_batch_end/cpu_percent" in run.data.metrics
    client = client_of(f"sqlite:///{workplace}/mlflow.db")
    files = client.list_artifacts(run.info.run_id, "logs/csv/version_0")
    assert [Path(file.path).name for file in files] == ["hparams.yaml", "metrics.csv"]
    assert not list((workplace / "training_output").glob("*/fit"))


def test_train_marks_a_killed_run_and_goes_on(
    start_long_training: StartTraining, train: CallMain, database: DatabaseManager, workplace: Path
) -> None:
    process = start_long_training()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [run.state for run in database.training_runs()] == ["running"]

    result = train("model_type=embedding")

    assert result.exit_code == 0, result.err
    assert [run.state for run in database.training_runs()] == ["interrupted", "succeeded"]
    runs = all_runs(workplace)
    assert sorted(run.info.status for run in runs) == ["FINISHED", "KILLED"]
    (killed,) = (run for run in runs if run.info.status == "KILLED")
    assert killed.data.tags["tunetrail.state"] == "interrupted"
    # One run has what was set next to what came of it.
    (finished,) = (run for run in runs if run.info.status == "FINISHED")
    assert {"embedding.training.batch_size", "base_model"} <= set(finished.data.params)
    assert {"train/loss", "comparison/after", "embedding/after"} <= set(finished.data.metrics)
    assert (workplace / "models" / "embedding" / "root" / "config.json").exists()


@pytest.mark.parametrize(
    ("signal_number", "exit_code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_train_ends_by_a_signal_with_its_code_and_marks_the_run(
    start_long_training: StartTraining,
    database: DatabaseManager,
    workplace: Path,
    signal_number: int,
    exit_code: int,
) -> None:
    process = start_long_training()

    process.send_signal(signal_number)

    assert process.wait(timeout=60) == exit_code, (workplace / "terminal.txt").read_text()
    (run,) = database.training_runs()
    assert run.state == "interrupted"
    assert [mlflow_run.info.status for mlflow_run in all_runs(workplace)] == ["KILLED"]
    assert list((workplace / "training_output").glob("*/fit/checkpoints/last.ckpt"))
    assert "Traceback" not in (workplace / "terminal.txt").read_text()


def test_train_sweeps_over_two_values_under_one_run(train: CallMain, workplace: Path) -> None:
    result = train("-m", "model_type=embedding", "embedding.training.learning_rate=1e-4,1e-3")

    assert result.exit_code == 0, result.err
    assert {run.info.status for run in all_runs(workplace)} == {"FINISHED"}
    sweep, jobs = sweep_and_jobs(workplace)
    assert sweep.info.run_name == "sweep embedding.training.learning_rate"
    learning_rates = [job.data.params["embedding.training.learning_rate"] for job in jobs]
    assert learning_rates == ["0.0001", "0.001"]
    # Only the best job was evaluated on the test rows.
    assert sum("embedding/after" in job.data.metrics for job in jobs) == 1
    assert "Sweep: job 1, the best of 2 jobs" in result.out


def test_train_ends_with_three_if_a_model_is_not_promoted_as_required(train: CallMain) -> None:
    result = train(
        "model_type=embedding",
        "gate.minimum_improvement=10",
        *("--require", "promoted", "--json", "--quiet"),
    )

    assert result.exit_code == 3
    assert result.err.splitlines()[-1] == "not promoted, as --require asks: embedding is refused"
    assert "INFO" not in result.err and "Epoch" not in result.err
    printed = json.loads(result.out)
    family = printed["families"]["embedding"]
    assert (family["decision"], family["version"], family["is_root"]) == ("refused", "1", False)
    assert family["run_id"] == printed["run_id"]
    assert printed["results"]["steps"]["deployment"]["embedding"]["decision"] == "refused"


def test_sweep_prints_one_object(train: CallMain) -> None:
    rates = "embedding.training.learning_rate=1e-3,2e-3"
    result = train("-m", "model_type=embedding", rates, "--json", "--require=promoted")

    printed = json.loads(result.out)
    assert (result.exit_code, len(printed["jobs"])) == (0, 2)
    steps = printed["results"]["results"]["steps"]
    assert steps["deployment"]["embedding"]["decision"] == "promoted"


def text_of_terminal(leader: int) -> str:
    """Return what a process writes to a pseudo-terminal, until it ends."""
    written = b""
    # The terminal is gone with the last process that has it.
    with contextlib.suppress(OSError):
        while piece := os.read(leader, 65_536):
            written += piece
    os.close(leader)
    return written.decode()


@pytest.mark.processes
@pytest.mark.parametrize(
    "arguments",
    [["resume"], ["runs"], ["compare", "1", "2"], ["report", "1"], ["clean", "--dry-run"]],
    ids=lambda arguments: arguments[0],
)
def test_a_command_that_loads_libraries_says_so_first(
    workplace: Path, arguments: list[str]
) -> None:
    leader, terminal = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "tunetrail", *arguments], stdout=terminal, stderr=terminal
    )
    os.close(terminal)

    printed = text_of_terminal(leader)

    assert process.wait() in (0, 2), printed
    assert printed.splitlines()[0] == f"{arguments[0]}: loading the libraries ..."


def test_a_training_in_an_ascii_terminal_shows_its_bars_and_succeeds(
    session: str, overrides: list[str]
) -> None:
    leader, terminal = os.openpty()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "tunetrail", "train"),
            *(f"session_id={session}", "model_type=embedding", *overrides),
        ],
        stdout=terminal,
        stderr=terminal,
        env=os.environ
        | {"PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C", "TERM": "xterm", "COLUMNS": "80"},
    )
    os.close(terminal)

    printed = text_of_terminal(leader)

    assert process.wait() == 0, printed
    assert printed.isascii() and "unexpected" not in printed
    assert "train: loading the libraries ..." in printed
    # The bar of the training, and the table at the end.
    assert "epoch" in printed.casefold() and "nDCG@10" in printed
