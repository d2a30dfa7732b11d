"""Trainings whose registered version is loaded and scored again by a process of its own."""

import contextlib
import dataclasses
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from tests.tracking import client_of

from tunetrail import DatabaseManager, ModelTrainingNode, NodeConfig
from tunetrail.config import Settings
from tunetrail.data.rows import rows_frame
from tunetrail.deployment.gate import fresh_process_objection
from tunetrail.errors import DeploymentError
from tunetrail.pipeline.families import family_named
from tunetrail.pipeline.fresh_scores import ScoringRequest
from tunetrail.samples import SampleKind, parse_sample

pytestmark = pytest.mark.processes

Make = Callable[..., Settings]
WAIT_SECONDS = 400
"""How long a training may take on a busy machine until its version is registered."""


def checking(make_settings: Make, folder: Path, **gate: Any) -> Settings:
    settings = make_settings(folder)
    gate = {"fresh_process": True, **gate}
    return dataclasses.replace(settings, gate=dataclasses.replace(settings.gate, **gate))


def train(settings: Settings, database: DatabaseManager, model_type: str) -> dict[str, Any]:
    """Return the results of the deployment by family."""
    node = ModelTrainingNode(NodeConfig(settings=settings), database)
    results = node.execute({"session_id": "s1", "model_type": model_type})
    deployments: dict[str, Any] = results["results"]["steps"]["deployment"]
    return deployments


def test_a_fresh_process_gives_the_scores_of_both_families_again(
    session: str,
    database: DatabaseManager,
    make_settings: Make,
    workplace: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="tunetrail")

    deployments = train(checking(make_settings, workplace), database, "all")

    decisions = {family: step["decision"] for family, step in deployments.items()}
    assert decisions == {"embedding": "promoted", "llm": "promoted"}
    for family in deployments:
        assert f"{family}: a fresh process loads and scores models:/{family}/1" in caplog.text
    assert "left out" not in caplog.text


@pytest.mark.parametrize(
    ("model_type", "shape"),
    [
        ("embedding", "pair"),
        ("embedding", "pair with some negatives"),
        ("embedding", "score"),
        ("embedding", "label"),
        ("embedding", "vector"),
        ("embedding", "text"),
        ("llm", "mixed"),
        ("llm", "preference"),
        ("llm", "verdict"),
    ],
)
def test_a_few_rows_of_every_shape_give_values(
    make_settings: Make, make_rows: Any, workplace: Path, model_type: str, shape: str
) -> None:
    """Also if they have nothing in common: no label, no class of a pair."""
    settings, family = make_settings(workplace), family_named(model_type)
    kind = SampleKind(model_type)
    rows = rows_frame(enumerate(parse_sample(row, kind) for row in make_rows(shape)))
    learner = family.learner(settings, rows["shape"].iloc[0], None)
    model = learner.load(family.section(settings).model)

    for test in (rows.iloc[:8], rows.iloc[:1]):
        request = ScoringRequest(
            family=model_type,
            shape=rows["shape"].iloc[0],
            settings=settings,
            rows=test.reset_index(drop=True),
            corpus=family.corpus_rows(settings, rows.iloc[8:10].reset_index(drop=True)),
            threads=1,
        )
        values = request.values(family, learner, model)
        assert len(values["outputs"]) == len(test)
        again = request.values(family, learner, model)
        assert fresh_process_objection(values, again, "models:/x/1", len(test)) is None


@pytest.mark.parametrize("approval", [False, True])
def test_what_only_the_training_knows_refuses_its_version(
    session: str,
    database: DatabaseManager,
    make_settings: Make,
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    approval: bool,
) -> None:
    """A library that the training's process has changed: there, candidate and version are equal."""
    settings = checking(make_settings, workplace, approval=approval)

    with monkeypatch.context() as changed:
        layer_norm = torch.nn.functional.layer_norm
        changed.setattr(
            torch.nn.functional,
            "layer_norm",
            lambda *given, **named: 2 * layer_norm(*given, **named),
        )
        (deployment,) = train(settings, database, "embedding").values()

    assert deployment["decision"] == "refused"
    reason = deployment["reason"]
    assert reason.startswith(
        "models:/embedding/1, loaded in a fresh process, gives other values of"
    )
    assert "where gate.fresh_process allows" in reason
    assert deployment["exported_to"] is None

    (line,) = database.promotions("embedding")
    assert (line.decision, line.reason) == ("refused", reason)
    assert line.details is not None and "Refused, root stays" in line.details["card"]
    client = client_of(settings.tracking.uri)
    assert "root" not in client.get_registered_model("embedding").aliases
    version = client.get_model_version("embedding", "1")
    assert version.tags["tunetrail.decision"] == "refused"
    assert "Refused, root stays" in version.description
    assert "Promoted" not in version.description


def test_a_run_whose_fresh_process_fails_can_be_resumed(
    session: str,
    database: DatabaseManager,
    make_settings: Make,
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = checking(make_settings, workplace)
    node = ModelTrainingNode(NodeConfig(settings=settings), database)
    broken = workplace / "broken" / "sentence_transformers.py"
    broken.parent.mkdir()
    broken.write_text("raise OSError('the disk of the libraries is gone.')")

    # This process has imported the library already.
    with monkeypatch.context() as installed:
        installed.syspath_prepend(str(broken.parent))
        expected = (
            r"models:/embedding/1 must be scored in a fresh process before it becomes root "
            r"\(gate.fresh_process\), got no scores: OSError: the disk of the libraries is gone\. "
        )
        with pytest.raises(DeploymentError, match=expected):
            node.execute({"session_id": session, "model_type": "embedding"})
    assert database.promotions("embedding") == []

    (run,) = database.training_runs()
    results = node.resume(run.mlflow_run_id)

    assert results["results"]["steps"]["deployment"]["embedding"]["decision"] == "promoted"
    assert [line.version for line in database.promotions("embedding")] == ["1"]


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_a_training_that_ends_takes_its_fresh_process_with_it(
    session: str, workplace: Path, tiny_embedding_model: str, signal_number: int
) -> None:
    arguments = [
        "session_id=s1",
        "model_type=embedding",
        f"embedding.model={tiny_embedding_model}",
        "embedding.training.max_steps=3",
        "cross_validation=off",
        "gate=point",
        "gate.minimum_improvement=-10",
        "evaluation.bootstrap_samples=100",
    ]
    terminal = workplace / "terminal.txt"
    with terminal.open("w") as file:
        training = subprocess.Popen(
            [sys.executable, "-m", "tunetrail", "train", *arguments], stdout=file, stderr=file
        )
    try:
        fresh_process = wait_for_fresh_process(training, terminal)
        training.send_signal(signal_number)
        training.wait(120)
        # It looks once a second whether its parent is there.
        fresh_process.wait(60)
    finally:
        training.kill()
        training.wait()

    client = client_of(f"sqlite:///{workplace}/mlflow.db")
    assert "root" not in client.get_registered_model("embedding").aliases


def wait_for_fresh_process(training: "subprocess.Popen[bytes]", terminal: Path) -> psutil.Process:
    """Return the process that scores the training's registered version, once there is one."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        assert training.poll() is None, terminal.read_text()
        for process in psutil.Process(training.pid).children():
            with contextlib.suppress(psutil.Error):
                if "tunetrail.pipeline.fresh_scores" in process.cmdline():
                    return process
        time.sleep(0.05)
    raise AssertionError(terminal.read_text())
