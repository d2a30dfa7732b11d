"""Which versions stay, and that a deletion which is killed is finished by whoever comes next."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from mlflow import MlflowClient
from tests.roots import PROMOTE, REFUSE, WAIT, Workplace

from tunetrail.deployment import deletion
from tunetrail.deployment.doctor import Doctor, repair_all
from tunetrail.deployment.retention import Retention, apply_retention, is_resumable
from tunetrail.deployment.root_decisions import promote, roll_back
from tunetrail.deployment.stored_files import StoredFiles
from tunetrail.errors import DeploymentError
from tunetrail.samples import SampleKind
from tunetrail.stores.database.manager import DatabaseManager, RunState
from tunetrail.stores.runs.mlflow_survey import MlflowSurvey
from tunetrail.stores.tracking.run_tags import TRAINING_RUN_TAG

DECISIONS = {"p": PROMOTE, "r": REFUSE, "w": WAIT}


@pytest.fixture
def place(workplace: Path, tiny_embedding_model: str) -> Workplace:
    return Workplace(folder=workplace, base=tiny_embedding_model)


def train(place: Workplace, decisions: str) -> None:
    for seed, letter in enumerate(decisions, 1):
        place.train(seed, DECISIONS[letter])


def retention(place: Workplace, keep_versions: int = 2) -> Retention:
    return Retention(moves=place.moves, keep_versions=keep_versions, keep_days=30)


def numbers(versions: Iterator[object] | list[object]) -> list[int]:
    return [int(version.version) for version in versions]  # type: ignore[attr-defined]


def all_files(place: Workplace) -> set[str]:
    return {str(path) for path in (place.folder / "mlartifacts").rglob("*") if path.is_file()}


def client(place: Workplace) -> MlflowClient:
    return place.registry.tracker.client


def test_root_the_one_before_the_newest_and_what_waits_stay(place: Workplace) -> None:
    train(place, "prpwrr")

    assert retention(place).kept == {
        "6": "the newest",
        "4": "waits for an approval",
        "3": "root",
        "1": "the root that a rollback goes back to",
    }
    assert numbers(retention(place).deletable()) == [2, 5]
    # More stay if there is room for them, the newest first.
    assert numbers(retention(place, 5).deletable()) == [2]

    client(place).set_registered_model_alias("embedding", "champion", "5")
    assert retention(place).kept["5"] == "has the alias champion"


def test_both_roots_of_a_rollback_stay(place: Workplace) -> None:
    train(place, "ppp")
    roll_back(place.moves, None, "wrong answers")
    place.train(4, REFUSE)

    assert retention(place).kept == {
        "4": "the newest",
        "3": "part of the last move of root",
        "2": "root",
        "1": "the root that a rollback goes back to",
    }


def test_a_deletion_removes_the_listed_files_and_says_so_in_the_ledger(place: Workplace) -> None:
    train(place, "prr")
    before, (version,) = all_files(place), retention(place).deletable()
    listed = deletion.version_parts(place.registry.tracker, version)
    sizes = listed.sizes()

    retention(place).delete(version, "no longer needed")

    assert before - all_files(place) == set(sizes)
    assert sum(sizes.values()) > 100_000
    assert place.moves.alias.find("2") is None
    assert listed.model_id not in [model.model_id for model in models(place)]
    assert place.lines()[-1] == ("2", "deleted", None)
    run = client(place).get_run(version.run_id)
    assert run.data.tags["tunetrail.cleaned"] == "embedding/2 was deleted: no longer needed"
    place.check()
    # The number isn't given to another version.
    assert place.train(4).version == "4"


def models(place: Workplace) -> list[object]:
    tracker = place.registry.tracker
    return list(tracker.client.search_logged_models([tracker.experiment_id]))


@pytest.mark.processes
@pytest.mark.parametrize(
    ("owner", "name", "call", "after"),
    [
        (DatabaseManager, "record_promotion", 1, False),
        (DatabaseManager, "record_promotion", 1, True),
        (StoredFiles, "remove", 1, True),
        (StoredFiles, "remove", 2, True),
        (MlflowClient, "delete_logged_model", 1, True),
        (MlflowClient, "delete_model_version", 1, False),
        (MlflowClient, "delete_model_version", 1, True),
        (DatabaseManager, "record_promotion", 2, False),
        (DatabaseManager, "record_promotion", 2, True),
    ],
)
def test_a_killed_deletion_is_finished_by_the_doctor(
    place: Workplace,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    name: str,
    call: int,
    after: bool,
) -> None:
    train(place, "prr")
    (version,) = retention(place).deletable()
    files = set(deletion.version_parts(place.registry.tracker, version).sizes())
    function, calls = getattr(owner, name), iter(range(1, 100))

    def killed(*arguments: object, **keywords: object) -> object:
        is_last = next(calls) == call
        if is_last and not after:
            raise KeyboardInterrupt
        result = function(*arguments, **keywords)
        if is_last:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(owner, name, killed)
        retention(place).delete(version, "no longer needed")

    patient = Doctor(
        database=place.database,
        store=MlflowSurvey(place.registry.tracker),
        model_dir=place.models,
        output_dir=place.folder / "training_output",
    )
    begun = any(line.decision == "deleted" for line in place.database.ledger_lines())
    assert repair_all(patient.findings()) == []
    assert patient.findings() == []
    place.check()
    if begun:
        assert place.lines()[-1] == ("2", "deleted", None)
        assert place.moves.alias.find("2") is None
        assert not files & all_files(place)
    else:
        assert files <= all_files(place)
    # Nothing is left to do, or all of it.
    assert numbers(retention(place).deletable()) == ([] if begun else [2])


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.roots import Workplace
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from tunetrail.deployment.retention import Retention

delete, calls = LocalArtifactRepository.delete_artifacts, []
def killed(*arguments):
    calls.append(arguments)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    delete(*arguments)

LocalArtifactRepository.delete_artifacts = killed
place = Workplace(folder=Path(sys.argv[1]), base="")
retention = Retention(moves=place.moves, keep_versions=2, keep_days=30)
retention.delete(retention.deletable()[0], "no longer needed")
"""


@pytest.mark.processes
def test_the_next_move_of_root_finishes_a_deletion_that_was_killed(
    place: Workplace, caplog: pytest.LogCaptureFixture
) -> None:
    train(place, "prr")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", KILLED, str(place.folder)]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    # Some of its files are gone, and so nobody can make it root any more.
    with pytest.raises(DeploymentError, match="must not be needed"):
        retention(place).delete(place.moves.alias.find("1"), "root")

    assert "a process died while it deleted the version; now it is deleted" in caplog.text
    assert place.moves.alias.find("2") is None
    place.check()


def test_a_version_that_became_root_in_the_meantime_stays(place: Workplace) -> None:
    train(place, "prr")
    (version,) = retention(place).deletable()
    listed = retention(place)
    assert numbers(listed.deletable()) == [2]
    promote(place.moves, "2", "better after all", force=True)

    with pytest.raises(DeploymentError, match=r"embedding/2 must not be needed .* \(root\)"):
        listed.delete(version, "no longer needed")
    place.check()


def test_versions_of_runs_that_go_on_or_can_be_resumed_stay(place: Workplace) -> None:
    place.database.ingest("s1", [{"anchor": "a", "positive": "b"}], SampleKind.EMBEDDING)
    place.train(1)
    place.train(2)
    # It starts from root, which is version 2 now.
    running = place.database.create_training_run("s1", "embedding")
    for seed in (3, 4, 5):
        place.train(seed)
    assert retention(place).kept["2"] == f"the run {running} started from it"
    assert numbers(retention(place).deletable()) == [1, 3]

    # A run whose candidate lost a race is resumed to be compared with the new root.
    run_id = place.moves.alias.find("3").run_id
    client(place).set_tag(run_id, TRAINING_RUN_TAG, running)
    place.database.update_training_run(running, state="running")
    place.database.update_training_run(running, state="failed", reason="root moved")
    assert retention(place).kept["3"] == "its run is failed and can be resumed"
    assert numbers(replace(retention(place), keep_days=0).deletable()) == [1, 2, 3]


def test_a_run_can_be_resumed_for_some_days(place: Workplace) -> None:
    place.database.ingest("s1", [{"anchor": "a", "positive": "b"}], SampleKind.EMBEDDING)
    run_id = place.database.create_training_run("s1", "embedding")
    run = place.database.training_run(run_id)
    assert run is not None
    old = replace(run, state=RunState.FAILED, updated_at=datetime.now(UTC) - timedelta(days=8))

    assert is_resumable(old, keep_days=9)
    assert not is_resumable(old, keep_days=7)
    assert not is_resumable(replace(old, state=RunState.SUCCEEDED), keep_days=9)


def test_what_the_retention_deletes_after_a_training_is_said(
    place: Workplace, caplog: pytest.LogCaptureFixture
) -> None:
    train(place, "prr")

    apply_retention(place.moves, 2, 30)

    assert "embedding/2 deleted, 0.2 MB freed (retention.keep_versions=2)" in caplog.text
    assert place.database.promotions("embedding")[-1].reason == "retention.keep_versions=2"


def test_a_retention_that_fails_says_so_and_fails_nothing(
    place: Workplace, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(place, "prr")

    def fails(self: StoredFiles) -> None:
        raise DeploymentError("the disk is read-only")

    monkeypatch.setattr(StoredFiles, "remove", fails)
    apply_retention(place.moves, 2, 30)

    assert "retention deleted not all that it may: the disk is read-only" in caplog.text


@pytest.mark.parametrize(
    "location", ["/home/anna", "file:///home/anna/artifacts", "file:///x/../../etc"]
)
def test_only_folders_that_mlflow_made_are_removed(location: str) -> None:
    with pytest.raises(DeploymentError, match=r"artifacts to remove must be in a folder that"):
        StoredFiles(location=location, tracking_uri="sqlite:///x.db")
