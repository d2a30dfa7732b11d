"""What `tunetrail clean` lists, and that it removes exactly that."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.commands import CallMain
from tests.postgres import EVERY_DATABASE, empty_database
from tests.roots import PROMOTE, REFUSE, Workplace
from tests.servers import Server

from tunetrail.samples import SampleKind
from tunetrail.stores.tracking.run_tags import TRAINING_RUN_TAG

LONG_AGO = time.time() - 40 * 24 * 60 * 60


@pytest.fixture
def place(workplace: Path, tiny_embedding_model: str, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    (workplace / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(workplace / "tmp"))
    monkeypatch.setenv("COLUMNS", "200")
    return Workplace(folder=workplace, base=tiny_embedding_model)


def files_of(folder: Path) -> dict[str, int]:
    """Return the sizes of all files except for those of the stores and their locks."""
    sizes = {}
    for path in folder.rglob("*"):
        is_of_store = ".db" in path.name or path.suffix == ".lock"
        if path.is_file() and not is_of_store:
            sizes[str(path)] = path.stat().st_size
    return sizes


def make_old(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (LONG_AGO, LONG_AGO))


def run_folder(place: Workplace, state: str) -> Path:
    """Return the folder with the checkpoints of a run that ended in a state."""
    run = place.registry.tracker.start_run("training")
    training = place.database.create_training_run("s1", "embedding")
    run.set_tags({TRAINING_RUN_TAG: training})
    place.database.update_training_run(training, state="running", mlflow_run_id=run.run_id)
    if state != "running":
        place.database.update_training_run(training, state=state)
    folder = place.folder / "training_output" / run.run_id
    (folder / "fit").mkdir(parents=True)
    (folder / "fit/last.ckpt").write_bytes(b"weights" * 100)
    return folder


@pytest.mark.parametrize("kind", EVERY_DATABASE)
def test_a_dry_run_lists_exactly_what_a_real_run_frees(
    place: Workplace, call_main: CallMain, kind: str
) -> None:
    url = empty_database(kind, place.folder)
    place = Workplace(folder=place.folder, base=place.base, database_url=url)
    clean = ("clean", "--database", url)
    place.train(1)
    place.train(2, REFUSE)
    place.train(3, REFUSE)
    place.database.ingest("s1", [{"anchor": "a", "positive": "b"}], SampleKind.EMBEDDING)
    succeeded, pruned = run_folder(place, "succeeded"), run_folder(place, "pruned")
    failed, running = run_folder(place, "failed"), run_folder(place, "running")
    stranger = place.folder / "training_output" / ("0" * 32)
    stranger.mkdir()
    logs = place.folder / "training_output/hydra"
    for name in ("old", "new"):
        (logs / name).mkdir(parents=True)
        (logs / name / "train.log").write_text("a line")
    make_old(logs / "old")
    cached = place.folder / ".cache/results/ab"
    for name in ("unused", ".unfinished-x", "used"):
        (cached / name).mkdir(parents=True)
        (cached / name / "rows.parquet").write_bytes(b"rows")
    make_old(cached / "unused")
    make_old(cached / ".unfinished-x")
    converted = place.folder / ".cache/models"
    for name in ("unused-0123456789abcdef", "used-0123456789abcdef"):
        (converted / name).mkdir(parents=True)
        (converted / name / "model.safetensors").write_bytes(b"weights")
    make_old(converted / "unused-0123456789abcdef")
    before = files_of(place.folder)
    refused_run = place.moves.alias.find("2").run_id

    dry = call_main(*clean, "--dry-run", "--keep-versions", "2", "--json")
    assert dry.exit_code == 0
    listed = json.loads(dry.out)
    assert files_of(place.folder) == before
    real = call_main(*clean, "--keep-versions", "2", "--json")

    assert json.loads(real.out) == {**listed, "dry_run": False}
    after = files_of(place.folder)
    gone = before.keys() - after.keys()
    assert gone == {file for item in listed["items"] for file in item["files"]}
    assert sum(before[file] for file in gone) == listed["bytes"]
    assert [(item["kind"], Path(item["name"]).name) for item in listed["items"]] == [
        ("version", "2"),
        *[("checkpoints", name) for name in sorted((succeeded.name, pruned.name))],
        ("log", "old"),
        ("cache", ".unfinished-x"),
        ("cache", "unused"),
        ("cache", "unused-0123456789abcdef"),
    ]
    assert listed["kept"] == {"embedding/3": "the newest", "embedding/1": "root"}
    assert failed.is_dir()
    assert running.is_dir()
    assert stranger.is_dir()
    place.check()
    assert json.loads(call_main(*clean, "--keep-versions", "2", "--json").out)["items"] == []
    removed = call_main("report", refused_run).err
    assert "artifacts were removed (embedding/2 was deleted: tunetrail clean, keep_ver" in removed
    # Nobody has resumed it for a while.
    assert "failed on" in call_main(*clean, "--keep-days", "0").out
    assert not failed.exists()


@pytest.mark.processes
def test_the_files_of_a_version_that_was_deleted_in_mlflow_are_freed(
    place: Workplace, call_main: CallMain
) -> None:
    place.train(1)
    place.train(2, REFUSE)
    place.train(3, REFUSE)
    client = place.registry.tracker.client
    version = client.get_model_version("embedding", "2")
    client.delete_model_version("embedding", "2")
    client.delete_run(version.run_id)
    folder = Path(version.source.removeprefix("file://"))
    gc = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", place.uri]
    gc += ["--tracking-uri", place.uri]
    subprocess.run(gc, check=True, capture_output=True)
    # MLflow frees the files of the run only: the model isn't part of it.
    assert list(folder.rglob("*.safetensors"))

    result = call_main("clean")

    assert "belongs to no version" in result.out
    assert "0.19 MB freed" in result.out
    assert not folder.exists()
    place.check()


def test_a_model_of_another_program_stays(place: Workplace, call_main: CallMain) -> None:
    place.train(1)
    tracker = place.registry.tracker
    run = tracker.start_run("by another program")
    logged = tracker.client.create_logged_model(
        tracker.experiment_id, name="embedding", source_run_id=run.run_id
    )
    assert call_main("clean").out.splitlines()[-1] == "nothing to remove"
    assert tracker.client.get_logged_model(logged.model_id)


def test_temporary_folders_of_dead_processes_go(place: Workplace, call_main: CallMain) -> None:
    host = os.uname().nodename
    left = place.folder / "tmp" / f"tunetrail-{host}-999999-1-x"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")

    result = call_main("clean")

    assert "left by a dead process" in result.out
    assert not left.exists()


def test_a_folder_that_cannot_be_removed_is_reported(
    place: Workplace, call_main: CallMain, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = place.folder / "training_output/hydra/old"
    log.mkdir(parents=True)
    make_old(log)

    def fails(path: Path) -> None:
        raise PermissionError(f"{path} isn't yours")

    monkeypatch.setattr(shutil, "rmtree", fails)
    result = call_main("clean")

    assert result.exit_code == 1
    assert "not removed" in result.err
    assert "isn't yours" in result.err


def test_an_empty_folder_has_nothing_to_clean_and_gets_no_stores(
    workplace: Path, call_main: CallMain
) -> None:
    (workplace / "mlflow.db").unlink()

    result = call_main("clean", "--dry-run")

    assert result.out.strip() == "nothing to remove"
    assert result.exit_code == 0
    assert list(workplace.glob("*.db")) == []


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--keep-versions", "1", "--keep-versions must be at least 2, as root and"),
        ("--keep-days", "-1", "--keep-days must be at least 0, got -1."),
        ("--keep-days", "many", "--keep-days must be a whole number, got 'many'."),
        ("--database", "mysql://host/name", "database.url must be sqlite:///FILE or"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    call_main: CallMain, option: str, value: str, message: str
) -> None:
    result = call_main("clean", option, value)

    assert result.exit_code == 2
    assert message in result.err
    assert result.err.count("\n") == 1


@pytest.mark.processes
def test_versions_on_a_server_are_cleaned_up_over_http(
    workplace: Path,
    tiny_embedding_model: str,
    call_main: CallMain,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (workplace / "server").mkdir()
    shutil.copy(workplace / "mlflow.db", workplace / "server/server.db")
    server = Server(workplace / "server")
    server.start()
    try:
        place = Workplace(folder=workplace, base=tiny_embedding_model, server=server.uri)
        for seed, decision in enumerate((PROMOTE, REFUSE, REFUSE), 1):
            place.train(seed, decision)
        before = files_of(workplace / "server/artifacts")

        options = ("--uri", server.uri, "--keep-versions", "2", "--json")
        listed = json.loads(call_main("clean", "--dry-run", *options).out)
        real = call_main("clean", *options)

        assert real.exit_code == 0, real.err
        after = files_of(workplace / "server/artifacts")
        assert [item["name"] for item in listed["items"]] == ["embedding/2"]
        assert sum(before.values()) - sum(after.values()) == listed["bytes"]
        assert len(before) - len(after) == len(listed["items"][0]["files"])
        assert place.lines()[-1] == ("2", "deleted", None)
        place.check()
    finally:
        server.kill()
