"""`tunetrail train` ended by a real signal in the middle of its training, then `tunetrail resume`."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.commands import CallMain
from tests.flow.training_runs import hash_of_root, losses, run_of, wait_for_step

from tunetrail import DatabaseManager
from tunetrail.samples import SampleKind

pytestmark = pytest.mark.processes

STEPS = 60
TRAINING = (
    f"max_steps={STEPS}",
    "num_epochs=100",
    "batch_size=16",
    "warmup_steps=0",
    "logging_steps=1",
    "early_stopping_patience=0",
    "checkpoints.every_steps=5",
)
MODEL_TYPES = ("embedding", "llm")
HARD_NEGATIVES = "feature_engineering.hard_negatives"
REMINING = (
    f"{HARD_NEGATIVES}.enabled=true",
    f"{HARD_NEGATIVES}.margin=0",
    f"{HARD_NEGATIVES}.remine_every_epochs=2",
)
FURTHER_SHAPE = ("embedding.also_train.label=batch_all_triplet",)


@pytest.fixture
def session(database: DatabaseManager, make_rows: Callable[[str], list[dict[str, Any]]]) -> str:
    """A session with completions, pairs of which a negative can be mined, and labels."""
    completions = make_rows("completion")
    pairs = [{"anchor": row["input"], "positive": row["output"]} for row in completions]
    for kind, rows in (
        (SampleKind.EMBEDDING, pairs),
        (SampleKind.EMBEDDING, make_rows("label")),
        (SampleKind.LLM, completions),
    ):
        assert database.ingest("s1", rows, kind).added == len(rows)
    return "s1"


@pytest.fixture
def tracking(workplace: Path) -> str:
    """The override that names the workplace's MLflow store."""
    return f"tracking.uri=sqlite:///{workplace}/mlflow.db"


@pytest.fixture
def overrides(
    session: str, tracking: str, tiny_embedding_model: str, tiny_language_model: str
) -> list[str]:
    """Arguments of a training of some seconds."""
    training = [
        f"{model_type}.training.{override}" for model_type in MODEL_TYPES for override in TRAINING
    ]
    return [
        f"session_id={session}",
        tracking,
        f"embedding.model={tiny_embedding_model}",
        "embedding.shape=pair",
        f"llm.model={tiny_language_model}",
        "llm.max_length=192",
        "cross_validation=off",
        "gate=point",
        "gate.fresh_process=false",
        "gate.minimum_improvement=-10",
        "evaluation.bootstrap_samples=100",
        *training,
    ]


def end_in_the_middle(
    workplace: Path, arguments: list[str], signal_number: int, step: int
) -> tuple[int, str]:
    """Train in a process of its own and send it a signal once a step is logged.

    Returns the process's exit code and what it printed.
    """
    command = [sys.executable, "-m", "tunetrail", "train", *arguments]
    terminal = workplace / "terminal.txt"
    with open(terminal, "w") as file:
        process = subprocess.Popen(command, cwd=workplace, stdout=file, stderr=file)
    try:
        wait_for_step(workplace, step, lambda: process.poll() is None, terminal.read_text)
        process.send_signal(signal_number)
        exit_code = process.wait(timeout=120)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return exit_code, terminal.read_text()


def comparable_results(result: dict[str, Any], model_type: str) -> dict[str, Any]:
    """Return what an interruption must not change in a run's result."""
    training = result["results"]["steps"]["training"][model_type]
    fields = ("best_validation_loss", "steps", "epochs", "stopped_early")
    candidate = result["results"]["steps"]["evaluation"][model_type]["candidate"]
    return {field: training[field] for field in fields} | {"candidate": candidate}


SIGNAL_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


@pytest.mark.parametrize(
    ("model_type", "signal_number", "step", "more"),
    [
        ("embedding", signal.SIGTERM, 12, ()),
        pytest.param("embedding", signal.SIGINT, 31, (), marks=pytest.mark.slow),
        pytest.param("embedding", signal.SIGKILL, 13, (), marks=pytest.mark.slow),
        pytest.param("embedding", signal.SIGKILL, 29, REMINING, marks=pytest.mark.slow),
        pytest.param("embedding", signal.SIGTERM, 33, REMINING, marks=pytest.mark.slow),
        pytest.param("llm", signal.SIGTERM, 14, (), marks=pytest.mark.slow),
        pytest.param("llm", signal.SIGKILL, 26, (), marks=pytest.mark.slow),
        ("embedding", signal.SIGKILL, 34, FURTHER_SHAPE),
        pytest.param("embedding", signal.SIGTERM, 11, FURTHER_SHAPE, marks=pytest.mark.slow),
    ],
)
def test_resume_makes_exactly_the_model_of_a_training_that_was_not_interrupted(
    call_main: CallMain,
    overrides: list[str],
    tracking: str,
    database: DatabaseManager,
    workplace: Path,
    model_type: str,
    signal_number: int,
    step: int,
    more: tuple[str, ...],
) -> None:
    """The exported weights' hash, every training loss and the scores are equal."""
    arguments = [*overrides, f"model_type={model_type}", *more]

    exit_code, printed = end_in_the_middle(workplace, arguments, signal_number, step)

    (run,) = database.training_runs()
    if signal_number == signal.SIGKILL:
        assert (exit_code, run.state) == (-signal.SIGKILL, "running")
    else:
        assert exit_code == 128 + signal_number, printed
        assert (run.state, run.reason) == (
            "interrupted",
            f"stopped by {SIGNAL_NAMES[signal_number]}",
        )
        assert run_of(workplace, model_type).info.status == "KILLED"
        assert f"`tunetrail resume {run.mlflow_run_id}` continues this run" in printed
    assert "Traceback" not in printed
    (folder,) = (path.parent for path in (workplace / "training_output").glob("*/state.json"))
    assert (folder / "fit" / "checkpoints" / "last.ckpt").exists()
    assert bool(list(folder.glob("fit/mined-*.parquet"))) == (more == REMINING)
    assert (folder / "additional.parquet").exists() == (more == FURTHER_SHAPE)
    assert run.mlflow_run_id is not None

    resumed = call_main("resume", run.mlflow_run_id, tracking)

    assert resumed.exit_code == 0, resumed.err
    assert model_type in resumed.out and "= root" in resumed.out
    (run,) = database.training_runs()
    assert run.state == "succeeded" and not folder.exists()
    assert [promotion.version for promotion in database.promotions()] == ["1"]

    again = call_main("resume", run.run_id, tracking)

    assert again.exit_code == 2
    assert again.err == f"error: the run {run.run_id} has succeeded: nothing is left to do.\n"

    undisturbed = workplace / "undisturbed"
    result = call_main(
        "train",
        *arguments,
        f"model_dir={undisturbed}/models",
        f"output_dir={undisturbed}/out",
        "tracking.experiment=undisturbed",
        "embedding.start_from=base",
        "llm.start_from=base",
    )

    assert result.exit_code == 0
    resumed_losses = losses(workplace, model_type)
    assert [step for step, _ in resumed_losses] == list(range(1, STEPS + 1))
    assert resumed_losses == losses(workplace, model_type, "undisturbed")
    assert hash_of_root(workplace, model_type) == hash_of_root(undisturbed, model_type)
    resumed_result, undisturbed_result = (run.result for run in database.training_runs())
    assert resumed_result is not None and undisturbed_result is not None
    assert comparable_results(resumed_result, model_type) == comparable_results(
        undisturbed_result, model_type
    )
    if more == REMINING:
        features = resumed_result["results"]["steps"]["feature_engineering"][model_type]
        assert features["hard_negatives"]["mined"] > 0
