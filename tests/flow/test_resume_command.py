"""`tunetrail train` ended by a real signal in the middle of its training, then `tunetrail resume`."""

import contextlib
import hashlib
import os
import signal
import sqlite3
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
from tunetrail.samples import SampleKind

pytestmark = pytest.mark.processes

STEPS = 60
LONG = (
    f"max_steps={STEPS}",
    "num_epochs=100",
    "batch_size=16",
    "warmup_steps=0",
    "logging_steps=1",
)
OTHERS = ("early_stopping_patience=0", "checkpoints.every_steps=5")


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def tunetrail(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Ended]]:
    """`tunetrail ARGUMENT ...` in this process; what it sets in the environment and in logging is undone."""
    monkeypatch.setenv("TUNETRAIL_HOME", str(workplace))
    for name in (
        "TUNETRAIL_SHIPPED",
        "HYDRA_FULL_ERROR",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR",
        "HF_HUB_DISABLE_PROGRESS_BARS",
    ):
        monkeypatch.setenv(name, "1")

    def run(*arguments: str) -> Ended:
        code = main([*arguments, f"tracking.uri=sqlite:///{workplace}/mlflow.db"])
        printed = capsys.readouterr()
        return Ended(code, printed.out, printed.err)

    yield run


@pytest.fixture
def session(database: DatabaseManager, make_rows: Callable[[str], list[dict[str, Any]]]) -> str:
    """A session with completions, pairs of which a negative can be mined, and labels."""
    completions = make_rows("completion")
    pairs = [{"anchor": each["input"], "positive": each["output"]} for each in completions]
    labels = make_rows("label")
    for kind, rows in (
        (SampleKind.EMBEDDING, pairs),
        (SampleKind.EMBEDDING, labels),
        (SampleKind.LLM, completions),
    ):
        assert database.ingest("s1", rows, kind).added == len(rows)
    return "s1"


@pytest.fixture
def overrides(session: str, tiny_embedding_model: str, tiny_language_model: str) -> list[str]:
    """Arguments of a training of some seconds."""
    return [
        f"session_id={session}",
        f"embedding.model={tiny_embedding_model}",
        "embedding.shape=pair",
        f"llm.model={tiny_language_model}",
        "llm.max_length=192",
        "cross_validation=off",
        "gate=point",
        "gate.minimum_improvement=-10",
        "evaluation.bootstrap_samples=100",
        *(
            f"{each}.training.{value}"
            for each in ("embedding", "llm")
            for value in (*LONG, *OTHERS)
        ),
    ]


def last_step(workplace: Path) -> int:
    """Of the training, as far as it was logged."""
    with contextlib.closing(sqlite3.connect(workplace / "mlflow.db", timeout=20)) as connection:
        return int(
            connection.execute("SELECT max(step) FROM metrics WHERE key = 'train/loss'").fetchone()[
                0
            ]
            or 0
        )


def end_in_the_middle(
    workplace: Path, arguments: list[str], number: int, step: int
) -> tuple[int, str]:
    """Train in a process of its own, send it a signal once a step is logged, and return its code and what it said."""
    command = [
        sys.executable,
        "-m",
        "tunetrail",
        "train",
        *arguments,
        f"tracking.uri=sqlite:///{workplace}/mlflow.db",
    ]
    with open(workplace / "terminal.txt", "w") as terminal:
        process = subprocess.Popen(
            command, cwd=workplace, stdout=terminal, stderr=terminal, env={**os.environ}
        )
    try:
        end = time.monotonic() + 240
        while last_step(workplace) < step:
            assert process.poll() is None, (workplace / "terminal.txt").read_text()
            assert time.monotonic() < end, "it took too long"
            time.sleep(0.01)
        process.send_signal(number)
        code = process.wait(timeout=120)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return code, (workplace / "terminal.txt").read_text()


def run_named(workplace: Path, name: str, experiment: str = "tunetrail") -> Any:
    client = MlflowClient(f"sqlite:///{workplace}/mlflow.db")
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    (run,) = [
        each for each in client.search_runs([found.experiment_id]) if each.info.run_name == name
    ]
    return run


def weights(workplace: Path, model_type: str) -> str:
    (file,) = (workplace / "models" / model_type / "root").rglob("*.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def losses(
    workplace: Path, model_type: str, experiment: str = "tunetrail"
) -> list[tuple[int, float]]:
    client = MlflowClient(f"sqlite:///{workplace}/mlflow.db")
    history = client.get_metric_history(
        run_named(workplace, model_type, experiment).info.run_id, "train/loss"
    )
    return sorted((each.step, each.value) for each in history)


REMINING = tuple(
    f"feature_engineering.hard_negatives.{each}"
    for each in ("enabled=true", "margin=0", "remine_every_epochs=2")
)

FURTHER = ("embedding.also_train.label=batch_all_triplet",)


@pytest.mark.parametrize(
    ("model_type", "number", "step", "more"),
    [
        ("embedding", signal.SIGTERM, 12, ()),
        pytest.param("embedding", signal.SIGINT, 31, (), marks=pytest.mark.slow),
        pytest.param("embedding", signal.SIGKILL, 13, (), marks=pytest.mark.slow),
        pytest.param("embedding", signal.SIGKILL, 29, REMINING, marks=pytest.mark.slow),
        pytest.param("embedding", signal.SIGTERM, 33, REMINING, marks=pytest.mark.slow),
        pytest.param("llm", signal.SIGTERM, 14, (), marks=pytest.mark.slow),
        pytest.param("llm", signal.SIGKILL, 26, (), marks=pytest.mark.slow),
        ("embedding", signal.SIGKILL, 34, FURTHER),
        pytest.param("embedding", signal.SIGTERM, 11, FURTHER, marks=pytest.mark.slow),
    ],
)
def test_resume_makes_exactly_the_model_of_a_training_that_was_not_interrupted(
    tunetrail: Callable[..., Ended], overrides: list[str], database: DatabaseManager, workplace: Path,
    model_type: str, number: int, step: int, more: tuple[str, ...],
) -> None:  # fmt: skip
    """EXACT RESUME, from outside: the exported weights' hash, every training loss and the scores are equal."""
    arguments = [*overrides, f"model_type={model_type}", *more]
    code, said = end_in_the_middle(workplace, arguments, number, step)
    (run,) = database.training_runs()
    if number == signal.SIGKILL:
        assert (code, run.state) == (-signal.SIGKILL, "running")
    else:
        assert code == 128 + number, said
        assert (run.state, run.reason) == ("interrupted", f"SystemExit: {code}")
        assert run_named(workplace, model_type).info.status == "KILLED"
        assert f"`tunetrail resume {run.mlflow_run_id}` continues this run" in said
    assert "Traceback" not in said
    (folder,) = (path.parent for path in (workplace / "training_output").glob("*/state.json"))
    assert (folder / "fit" / "checkpoints" / "last.ckpt").exists()
    assert bool(list(folder.glob("fit/mined-*.parquet"))) == (more == REMINING)
    assert (folder / "additional.parquet").exists() == (more == FURTHER)

    assert run.mlflow_run_id is not None
    resumed = tunetrail("resume", run.mlflow_run_id)
    assert resumed.code == 0, resumed.err
    assert model_type in resumed.out and "= root" in resumed.out
    (run,) = database.training_runs()
    assert run.state == "succeeded" and not folder.exists()
    assert [each.version for each in database.promotions()] == ["1"]
    again = tunetrail("resume", run.run_id)
    assert (
        again.code == 2
        and again.err == f"error: the run {run.run_id} has succeeded: nothing is left to do.\n"
    )

    undisturbed = workplace / "undisturbed"
    places = [
        f"model_dir={undisturbed}/models",
        f"output_dir={undisturbed}/out",
        "tracking.experiment=undisturbed",
    ]
    from_base = [f"{each}.start_from=base" for each in ("embedding", "llm")]
    assert tunetrail("train", *arguments, *places, *from_base).code == 0
    assert [each for each, _ in losses(workplace, model_type)] == list(range(1, STEPS + 1))
    assert losses(workplace, model_type) == losses(workplace, model_type, "undisturbed")
    assert weights(workplace, model_type) == weights(undisturbed, model_type)
    results = [each.result for each in database.training_runs()]
    if more == REMINING:
        assert results[0] is not None
        assert (
            results[0]["results"]["steps"]["feature_engineering"][model_type]["hard_negatives"][
                "mined"
            ]
            > 0
        )
    for name, fields in {
        "training": ("best_validation_loss", "steps", "epochs", "stopped_early"),
        "evaluation": ("candidate",),
    }.items():
        one, other = (
            each["results"]["steps"][name][model_type] for each in results if each is not None
        )
        assert {field: one[field] for field in fields} == {field: other[field] for field in fields}
