"""A small project to injure, and the table of what it survived."""

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faults.processes import Command
from tests.flow.conftest import rows_of

from tunetrail.samples import SampleKind
from tunetrail.stores.database.manager import DatabaseManager

KINDS = {
    "test_kills": "kill -9 at a named point",
    "test_full_disks": "full disk",
    "test_locks": "lock held by another process",
    "test_stopped_postgres": "PostgreSQL stopped",
}

Overrides = Callable[..., list[str]]
"""Takes further overrides, and returns the arguments of a training of a few seconds."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many faults were injected, and how many of them were survived."""
    counts: Counter[tuple[str, str]] = Counter()
    lost = []
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.getreports(outcome):
            module = Path(report.nodeid.partition("::")[0]).stem
            if module not in KINDS or (outcome == "passed" and report.when != "call"):
                continue
            counts[KINDS[module], "survived" if outcome == "passed" else "lost"] += 1
            if outcome != "passed":
                lost.append(report.nodeid.partition("::")[2])
    if not counts:
        return

    terminalreporter.section("faults")
    terminalreporter.write_line(f"{'fault':30} {'injected':>9} {'survived':>9} {'lost':>5}")
    for kind in KINDS.values():
        survived, kind_lost = counts[kind, "survived"], counts[kind, "lost"]
        injected = survived + kind_lost
        terminalreporter.write_line(f"{kind:30} {injected:>9} {survived:>9} {kind_lost:>5}")
    for name in lost:
        terminalreporter.write_line(f"lost: {name}")


@pytest.fixture(scope="session")
def overrides(tiny_embedding_model: str) -> Overrides:
    """Return what makes the arguments of a training."""

    def arguments(*more: str) -> list[str]:
        return [
            "session_id=s1",
            "model_type=embedding",
            f"embedding.model={tiny_embedding_model}",
            "embedding.max_length=32",
            "embedding.training.max_steps=4",
            "embedding.training.batch_size=8",
            "embedding.training.warmup_steps=0",
            "embedding.training.checkpoints.every_steps=2",
            "cross_validation=off",
            "gate=point",
            "gate.fresh_process=false",
            "gate.minimum_improvement=-10",
            "gate.minimum_test_clusters=1",
            "evaluation.bootstrap_samples=100",
            *more,
        ]

    return arguments


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, overrides: Overrides) -> Path:
    """Return the folder of a project with a session, whose first training has become root."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    folder = tmp_path_factory.mktemp("template")
    with DatabaseManager(f"sqlite:///{folder}/tunetrail.db") as database:
        database.ingest("s1", rows_of("pair"), SampleKind.EMBEDDING)
    ended = Command(folder=folder, arguments=["train", *overrides()]).run()
    assert ended.exit_code == 0, ended.printed
    return folder


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    """Return the folder of a project of the test's own, with the root of the first training."""
    folder = tmp_path / "project"
    shutil.copytree(template, folder, symlinks=True)
    return folder
