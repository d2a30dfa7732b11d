"""The example package of docs/extending is installed by pip, and a training uses all of it."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.tracking import client_of

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "docs" / "extending" / "tunetrail_example"
TOPICS = ("invoice", "password", "garden", "violin", "harbour", "compiler", "bakery", "glacier")
QUEUES = {"billing": "invoice payment refund", "access": "password login account"}
FILLER = [
    "please",
    "could",
    "somebody",
    "look",
    "into",
    "this",
    "soon",
    "urgent",
    "today",
    "thanks",
]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that pip has installed the package into."""
    folder = tmp_path_factory.mktemp("example")
    # A build writes next to the sources.
    shutil.copytree(EXAMPLE, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    subprocess.run(
        [*command, "--target", str(folder / "installed"), str(folder / "source")], check=True
    )
    return folder / "installed"


def tunetrail(installed: Path, workplace: Path, *arguments: str) -> dict[str, Any]:
    """Run a command in a process that finds the package, and return its JSON."""
    paths = os.pathsep.join([str(installed), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-m", "tunetrail", *arguments, "--json"],
        cwd=workplace,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_doctor_finds_all_of_the_package(installed: Path, workplace: Path) -> None:
    report = tunetrail(installed, workplace, "doctor")

    names = {extension["name"] for extension in report["extensions"]}
    problems = [extension["problem"] for extension in report["extensions"]]
    assert names == {
        *("near_answers", "length_likeness", "cosine_hinge", "politeness"),
        *("faq", "stop_below", "ticket"),
    }
    assert problems == [None] * 7


def test_a_training_uses_format_loss_metric_augmentation_and_callback(
    installed: Path, workplace: Path, tiny_embedding_model: str
) -> None:
    drawn = random.Random(0)
    lines = []
    for number in range(160):
        topic = drawn.choice(TOPICS)
        question, answer = (" ".join(drawn.choices(FILLER, k=5)) for _ in range(2))
        lines += [f"Q: {question} {topic} {number}", f"A: {answer} {topic} {number}", ""]
    (workplace / "questions.faq").write_text("\n".join([*lines, "neither question nor answer"]))

    ingested = tunetrail(
        installed, workplace, "ingest", "questions.faq", "--session", "s1", "--kind", "embedding"
    )
    trained = tunetrail(
        *(installed, workplace, "train", "session_id=s1", "model_type=embedding"),
        *(
            f"embedding.model={tiny_embedding_model}",
            f"tracking.uri=sqlite:///{workplace}/mlflow.db",
        ),
        *("embedding.training.num_epochs=2", "embedding.training.batch_size=16"),
        *("embedding.training.warmup_steps=0", "embedding.training.logging_steps=1"),
        *("cross_validation=off", "gate=point", "gate.minimum_improvement=-10"),
        *("cleaning.near_duplicate_similarity=0", "split.near_duplicate_similarity=0"),
        *("evaluation.bootstrap_samples=100", "evaluation.metrics=[near_answers]"),
        *("evaluation.extensions.near_answers.cosine=0.9", "gate.metric=near_answers"),
        "embedding.loss=cosine_hinge",
        *("embedding.extensions.cosine_hinge.margin=0.3", "augmentation.methods=[politeness]"),
        *("augmentation.extensions.politeness.phrases=[kindly]", "callbacks=stop_below"),
        "trainer.callbacks.stop_below.loss=1000",
    )

    steps = {step: result["embedding"] for step, result in trained["results"]["steps"].items()}
    assert ingested["added"] == 160
    assert steps["augmentation"]["methods"]["politeness"]["added"] > 0
    assert 0 <= steps["evaluation"]["candidate"]["metrics"]["near_answers"] <= 1
    assert steps["comparison"]["metric"] == "near_answers"
    assert steps["deployment"]["reason"].startswith("near_answers: improvement")
    # The callback's threshold is far above every loss: it ends the training after its first step.
    assert steps["training"]["steps"] == 1
    client = client_of(f"sqlite:///{workplace}/mlflow.db")
    run = client.get_run(trained["run_id"])
    assert "test/near_answers" in run.data.metrics
    assert run.data.params["embedding.loss"] == "cosine_hinge"


def test_a_family_of_the_package_becomes_root(installed: Path, workplace: Path) -> None:
    drawn = random.Random(0)
    with (workplace / "tickets.jsonl").open("w") as file:
        for number in range(120):
            queue, queue_words = drawn.choice(list(QUEUES.items()))
            subject = " ".join([*drawn.choices(FILLER, k=6), drawn.choice(queue_words.split())])
            file.write(json.dumps({"subject": f"{subject} {number}", "queue": queue}) + "\n")

    tunetrail(
        installed, workplace, "ingest", "tickets.jsonl", "--session", "s1", "--kind", "ticket"
    )
    trained = tunetrail(
        *(installed, workplace, "train", "session_id=s1", "model_type=ticket"),
        *(f"tracking.uri=sqlite:///{workplace}/mlflow.db", "cross_validation=off"),
        "families.ticket.training.num_epochs=40",
    )

    steps = {step: result["ticket"] for step, result in trained["results"]["steps"].items()}
    assert steps["training"]["steps"] == 40
    assert steps["comparison"]["before"] < 0.8 < 0.95 < steps["comparison"]["after"]
    root = client_of(f"sqlite:///{workplace}/mlflow.db").get_model_version_by_alias(
        "ticket", "root"
    )
    assert str(root.version) == steps["deployment"]["version"]
