"""MLflow's store in trouble: copied, locked, refused, away, and asked by many at once."""

import json
import logging
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from sqlalchemy import make_url, text
from tests.commands import CallMain
from tests.postgres import POSTGRES, needs_postgres
from tests.servers import Server
from tests.tracking import client_of

from tunetrail.config import TrackingConfig, TrainingConfig
from tunetrail.errors import ConfigError, TrackingError, state_after
from tunetrail.learning.step_counts import report_interval
from tunetrail.locks import file_lock
from tunetrail.stores.database.connection import make_engine, parse_url
from tunetrail.stores.database.manager import DatabaseManager
from tunetrail.stores.spools import Report
from tunetrail.stores.tracking import system_metrics as system_metrics_module
from tunetrail.stores.tracking.metric_writer import deliver_spools
from tunetrail.stores.tracking.moved_stores import FOLDER_TAG
from tunetrail.stores.tracking.run_tags import TRAINING_RUN_TAG
from tunetrail.stores.tracking.system_metrics import system_metrics
from tunetrail.stores.tracking.tracker import TrackedRun, Tracker
from tunetrail.stores.tracking.tracking_store import store_lock

HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
"""


def open_store(folder: Path, **changes: Any) -> Tracker:
    """Open the store of a project folder, with a spool as a training has it."""
    changes.setdefault("artifacts", str(folder / "mlartifacts"))
    config = TrackingConfig(uri=f"sqlite:///{folder}/mlflow.db", **changes)
    return Tracker(config, spool=folder / "spool")


def history(tracker: Tracker, run: TrackedRun, name: str = "loss") -> list[tuple[int, float]]:
    points = tracker.client.get_metric_history(run.run_id, name)
    return [(point.step, point.value) for point in points]


@pytest.fixture
def held_lock(tmp_path: Path) -> Iterator[Callable[[Path], int]]:
    """Let another process hold the lock of a file, and return its id."""
    holders = []

    def hold(file: Path) -> int:
        command = [sys.executable, "-c", HOLDER, str(file)]
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        holders.append(holder)
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        return holder.pid

    yield hold
    for holder in holders:
        holder.communicate("end\n", timeout=60)


# Locks


def test_waiting_for_a_lock_names_the_file_and_its_holder_and_ends(
    tmp_path: Path, held_lock: Callable[[Path], int], caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "x.lock"
    pid = held_lock(file)

    message = f"x.lock, held by process {pid}. End that process"
    with pytest.raises(TimeoutError, match=message), file_lock(file, most_seconds=1.5):
        pass
    assert f"waiting for {file}, held by process {pid}" in caplog.text


@pytest.mark.parametrize("purpose", ["initialise", "embedding.root", "llm.root"])
def test_a_store_whose_lock_is_held_is_an_error_in_one_line(
    workplace: Path,
    held_lock: Callable[[Path], int],
    monkeypatch: pytest.MonkeyPatch,
    purpose: str,
) -> None:
    tracker = open_store(workplace)
    pid = held_lock(workplace / f".mlflow.db.{purpose}.lock")
    monkeypatch.setenv("TUNETRAIL_LOCK_SECONDS", "0.1")

    message = f"held by process {pid}"
    with (
        pytest.raises(TrackingError, match=message) as caught,
        tracker.request(),
        tracker.lock(purpose),
    ):
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("target", ["missing", "existing", "folder"])
def test_a_lock_file_is_opened_without_following_a_link(tmp_path: Path, target: str) -> None:
    (tmp_path / "existing").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "x.lock").symlink_to(tmp_path / target)

    with pytest.raises(OSError), file_lock(tmp_path / "x.lock"):
        pass
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("uri", ["http://h", "https://u:p@h:5000", "mysql://u:p@h/d"])
def test_the_lock_of_a_server_lies_in_a_folder_of_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("TUNETRAIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "shared"))
    (tmp_path / "shared").mkdir()
    # An older version, or the umask, may have left it open to others.
    (tmp_path / "cache/locks").mkdir(parents=True, mode=0o777)

    with store_lock(uri, "initialise"):
        (lock,) = (tmp_path / "cache/locks").iterdir()
    assert stat.S_IMODE((tmp_path / "cache/locks").stat().st_mode) == 0o700
    assert list((tmp_path / "shared").iterdir()) == [] and "u:p" not in lock.name


def test_a_lock_folder_that_is_a_link_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNETRAIL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/locks").symlink_to(tmp_path / "elsewhere")

    message = "a folder of this user's own"
    with pytest.raises(PermissionError, match=message), store_lock("http://h", "initialise"):
        pass
    assert list((tmp_path / "elsewhere").iterdir()) == []


# What waiting can't change


@pytest.fixture
def refusing_postgres() -> Iterator[Callable[[str, str], int]]:
    """A server that speaks PostgreSQL's protocol as far as to refuse every login; gives its port."""
    listening = socket.create_server(("127.0.0.1", 0))
    answer = b""

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                # Requests for encryption come first, and are denied by one letter.
                while len(request := connection.recv(1024)) == 8:
                    connection.sendall(b"N")
                if request:
                    connection.sendall(answer)

    def start(code: str, message: str) -> int:
        nonlocal answer
        fields = f"SFATAL\0VFATAL\0C{code}\0M{message}\0\0".encode()
        answer = b"E" + (len(fields) + 4).to_bytes(4, "big") + fields
        threading.Thread(target=serve, daemon=True).start()
        return int(listening.getsockname()[1])

    yield start
    listening.close()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("28P01", 'password authentication failed for user "u"'),
        ("3D000", 'database "d" does not exist'),
        ("28000", 'role "u" does not exist'),
    ],
)
def test_a_refused_login_is_said_at_once(
    refusing_postgres: Callable[[str, str], int],
    caplog: pytest.LogCaptureFixture,
    code: str,
    message: str,
) -> None:
    port = refusing_postgres(code, message)

    with pytest.raises(TrackingError, match=message) as caught:
        Tracker(TrackingConfig(uri=f"postgresql://u:wrong@127.0.0.1:{port}/d"))
    assert "wrong" not in str(caught.value) and "\n" not in str(caught.value)
    assert "will be retried" not in caplog.text


@pytest.mark.parametrize(
    "uri",
    ["mysql+nodriver://u:secret@127.0.0.1:1/d", "postgresql://u:secret@h:port/d", "http://h:99999"],
)
def test_an_address_that_can_t_work_is_one_line(uri: str) -> None:
    with pytest.raises(TrackingError) as caught:
        Tracker(TrackingConfig(uri=uri))
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


# Copied and moved projects


@pytest.fixture
def project(workplace: Path) -> Path:
    """A project folder with a run, its artifact and a version of a model."""
    folder = workplace / "project"
    folder.mkdir()
    shutil.copy(workplace / "mlflow.db", folder)
    tracker = open_store(folder)
    run = tracker.start_run("first")
    run.log_text("from the first folder", "note.txt")

    client = tracker.client
    model = client.create_logged_model(
        tracker.experiment_id, name="model", source_run_id=run.run_id
    )
    (workplace / "weights").mkdir()
    (workplace / "weights/weights.txt").write_text("weights")
    client.log_model_artifacts(model.model_id, str(workplace / "weights"))
    client.create_registered_model("model")
    client.create_model_version(
        "model", model.artifact_location, run.run_id, model_id=model.model_id
    )
    client.set_registered_model_alias("model", "root", "1")
    run.finish("succeeded")
    return folder


def only_run(tracker: Tracker, name: str) -> TrackedRun:
    (run,) = tracker.client.search_runs([tracker.experiment_id], f"attributes.run_name = '{name}'")
    return tracker.run(run.info.run_id)


@pytest.mark.parametrize("copy_name", ["copy", "deep/er/copy", "a b#c%d"])
def test_a_copied_project_writes_into_itself_only(
    project: Path, workplace: Path, copy_name: str
) -> None:
    before = sorted(project.rglob("*"))
    copy = workplace / copy_name
    shutil.copytree(project, copy)

    tracker = open_store(copy)
    run = tracker.start_run("second")
    run.log_text("from the copy", "note.txt")

    assert (copy / "mlartifacts" / run.run_id / "artifacts/note.txt").exists()
    assert sorted(project.rglob("*")) == before
    assert only_run(open_store(project), "first").artifacts() == ["note.txt"]


@pytest.mark.parametrize("has_tag", [True, False])
def test_a_moved_project_finds_its_artifacts_and_models(
    project: Path, workplace: Path, tmp_path: Path, has_tag: bool
) -> None:
    if not has_tag:  # as an older version of tunetrail made it
        tracker = open_store(project)
        tracker.client.delete_experiment_tag(tracker.experiment_id, FOLDER_TAG)
    moved = workplace / "moved"
    project.rename(moved)

    tracker = open_store(moved)
    run = only_run(tracker, "first")
    assert run.download("note.txt", tmp_path).read_text() == "from the first folder"
    tracker.activate()
    model = mlflow.artifacts.download_artifacts("models:/model@root", dst_path=str(tmp_path / "m"))
    assert (Path(model) / "weights.txt").read_text() == "weights"


@pytest.mark.parametrize("has_tag", [True, False])
def test_artifacts_outside_of_a_moved_project_stay(workplace: Path, has_tag: bool) -> None:
    folder, outside = workplace / "project", workplace / "disk/artifacts"
    folder.mkdir()
    shutil.copy(workplace / "mlflow.db", folder)
    tracker = open_store(folder, artifacts=str(outside))
    tracker.start_run("first").log_text("outside", "note.txt")
    if not has_tag:
        tracker.client.delete_experiment_tag(tracker.experiment_id, FOLDER_TAG)
    # A folder of the same name isn't the artifacts' unless the runs are in it.
    (folder / "artifacts").mkdir()
    folder.rename(workplace / "deeper")

    tracker = open_store(workplace / "deeper", artifacts=str(outside))
    location = tracker.client.get_experiment(tracker.experiment_id).artifact_location
    assert location == outside.as_uri()


# Settings that were ignored


def test_a_uri_of_artifacts_is_handed_on_as_it_is(workplace: Path) -> None:
    uri = f"file://{workplace}/a%20b"
    run = open_store(workplace, artifacts=uri).start_run("r")
    run.log_text("x", "note.txt")
    assert (workplace / "a b" / run.run_id / "artifacts/note.txt").exists()


@pytest.mark.parametrize("artifacts", ["s3://bucket/x", "gs://bucket/x", "wasbs://c@a.b/x"])
def test_a_uri_of_artifacts_makes_no_folder(workplace: Path, artifacts: str) -> None:
    tracker = open_store(workplace, artifacts=artifacts)
    # The packages of these clouds may be missing, which is said before any work.
    try:
        location = tracker.client.get_experiment(tracker.experiment_id).artifact_location
    except ConfigError as error:
        assert "tracking.artifacts must be a folder, or a URI" in str(error)
    else:
        assert location == artifacts
    assert not list(workplace.glob("*:*"))


@pytest.mark.parametrize("artifacts", ["s3n+x://bucket/x", "nonsense://u:secret@bucket/x"])
def test_a_uri_of_artifacts_that_mlflow_does_not_know_is_refused(
    workplace: Path, artifacts: str
) -> None:
    tracker = open_store(workplace, artifacts=artifacts)
    with pytest.raises(ConfigError, match="a URI that MLflow can write to") as caught:
        tracker.start_run("r")
    assert "secret" not in str(caught.value)
    assert not (workplace / artifacts.partition(":")[0]).exists()


@pytest.mark.parametrize("artifacts", ["other", "/elsewhere", "s3://bucket/x"])
def test_other_artifacts_than_the_experiments_are_refused(workplace: Path, artifacts: str) -> None:
    open_store(workplace).start_run("first")
    with pytest.raises(ConfigError, match=r"keeps its artifacts, '.*/mlartifacts', got"):
        open_store(workplace, artifacts=artifacts).start_run("second")


@pytest.mark.parametrize("artifacts", ["mlartifacts", "./mlartifacts/", "x/../mlartifacts"])
def test_the_same_artifacts_in_other_words_are_taken(workplace: Path, artifacts: str) -> None:
    open_store(workplace).start_run("first")
    open_store(workplace, artifacts=artifacts).start_run("second")


@pytest.mark.parametrize("name", ["a?b", "a%20b", "a%3Fb", "both ' and \""])
def test_a_folder_that_mlflow_would_misread_is_refused(workplace: Path, name: str) -> None:
    folder = workplace / name
    folder.mkdir()
    before = sorted(workplace.iterdir())

    with pytest.raises(ConfigError, match="must be a file whose path has"):
        open_store(folder)
    assert sorted(workplace.iterdir()) == before and not list(folder.iterdir())


@pytest.mark.parametrize("name", ["a#b", "a%b", "ä b", "a&b=c;d"])
def test_everything_stays_in_a_folder_with_an_odd_name(workplace: Path, name: str) -> None:
    folder = workplace / name
    folder.mkdir()
    shutil.copy(workplace / "mlflow.db", folder)
    before = sorted(workplace.iterdir())

    run = open_store(folder).start_run("r")
    run.log_text("x", "note.txt")

    assert run.artifacts() == ["note.txt"]
    assert (folder / "mlartifacts" / run.run_id / "artifacts/note.txt").exists()
    assert sorted(workplace.iterdir()) == before


def test_an_experiment_in_the_trash_says_what_to_do(workplace: Path, call_main: CallMain) -> None:
    tracker = open_store(workplace)
    tracker.client.delete_experiment(tracker.experiment_id)

    with pytest.raises(ConfigError, match=r"is in MLflow's trash\. Restore it"):
        open_store(workplace).start_run("r")


@pytest.mark.parametrize(
    ("variable", "value", "key"),
    [
        ("MLFLOW_TRACKING_URI", "http://u:secret@server", "tracking.uri"),
        ("MLFLOW_REGISTRY_URI", "http://registry", "tracking.uri"),
        ("MLFLOW_EXPERIMENT_NAME", "mine", "tracking.experiment"),
    ],
)
def test_a_variable_of_mlflow_that_is_not_used_is_named(
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    variable: str,
    value: str,
    key: str,
) -> None:
    monkeypatch.setenv(variable, value)
    open_store(workplace)
    assert f"{variable}=" in caplog.text and f"not used: {key} is" in caplog.text
    assert "secret" not in caplog.text


def test_mlflows_own_variables_are_not_complained_about(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    open_store(workplace)
    open_store(workplace)
    assert "not used" not in caplog.text


def test_resume_makes_no_experiment(workplace: Path, call_main: CallMain) -> None:
    result = call_main("resume", "0" * 32, f"tracking.uri=sqlite:///{workplace}/mlflow.db")
    names = [
        experiment.name
        for experiment in client_of(f"sqlite:///{workplace}/mlflow.db").search_experiments()
    ]
    assert result.exit_code == 2 and "tunetrail" not in names


# How runs end, and how they are found again


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (SystemExit(143), "stopped by SIGTERM"),
        (SystemExit(130), "stopped by Ctrl-C"),
        (SystemExit(129), "stopped by SIGHUP"),
        (type("SIGTERMException", (SystemExit,), {})(), "stopped by SIGTERM"),
        (SystemExit(3), "SystemExit: 3"),
        (SystemExit("text"), "SystemExit: text"),
    ],
)
def test_a_run_that_a_signal_stopped_says_which(error: BaseException, reason: str) -> None:
    assert state_after(error) == ("interrupted", reason)


@pytest.fixture
def stopped_runs(workplace: Path) -> list[str]:
    """Two runs that can be resumed, the older one first."""
    run_ids = []
    tracker = open_store(workplace)
    with DatabaseManager("sqlite:///tunetrail.db") as database:
        database.ingest("s1", [{"anchor": "a", "positive": "b"}], "embedding")  # type: ignore[arg-type]
        for reason in ("stopped by Ctrl-C", "stopped by SIGTERM"):
            training = database.create_training_run("s1", "embedding")
            run = tracker.start_run("r", tags={TRAINING_RUN_TAG: training})
            run.log_dict({"output_dir": "training_output"}, "config.json")
            database.update_training_run(training, state="running", mlflow_run_id=run.run_id)
            database.update_training_run(training, state="interrupted", reason=reason)
            run.finish("interrupted", reason)
            run_ids.append(run.run_id)
    return run_ids


def test_resume_without_an_id_lists_what_can_be_resumed(
    stopped_runs: list[str], workplace: Path, call_main: CallMain
) -> None:
    store = f"tracking.uri=sqlite:///{workplace}/mlflow.db"
    # Its folder is gone, so it can't be resumed.
    tracker = open_store(workplace)
    tracker.run(stopped_runs[0]).child("embedding", {"tunetrail.model_type": "embedding"})
    result = call_main("resume", store)

    assert result.exit_code == 0
    assert stopped_runs[1][:8] in result.out and "stopped by SIGTERM" in result.out
    assert stopped_runs[0][:8] not in result.out


def test_resume_says_that_nothing_can_be_resumed(workplace: Path, call_main: CallMain) -> None:
    store = f"tracking.uri=sqlite:///{workplace}/mlflow.db"
    assert "no run can be resumed" in call_main("resume", store).out
    last = call_main("resume", "--last", store)
    assert last.exit_code == 2 and "no run can be resumed" in last.error_line


@pytest.mark.parametrize("argument", ["beginning", "whole", "--last"])
def test_resume_takes_the_beginning_of_an_id(
    stopped_runs: list[str], workplace: Path, call_main: CallMain, argument: str
) -> None:
    store = f"tracking.uri=sqlite:///{workplace}/mlflow.db"
    words = {"beginning": stopped_runs[1][:8], "whole": stopped_runs[1]}
    result = call_main("resume", words.get(argument, argument), store)

    # It was found: its settings lack everything but the folder, so it can't go on.
    assert "RUN_ID must be" not in result.err
    tags = client_of(f"sqlite:///{workplace}/mlflow.db").get_run(stopped_runs[1]).data.tags
    assert tags["tunetrail.resumed"] == "1"


def test_resume_refuses_a_beginning_that_several_ids_share(
    workplace: Path, call_main: CallMain
) -> None:
    tracker = open_store(workplace)
    first_characters: set[str] = set()
    while True:
        character = tracker.start_run("r").run_id[0]
        if character in first_characters:
            break
        first_characters.add(character)

    result = call_main("resume", character, f"tracking.uri=sqlite:///{workplace}/mlflow.db")
    assert result.exit_code == 2
    assert "the beginning of one run's id, got" in result.error_line


@pytest.mark.parametrize(
    ("epochs", "batches", "max_steps", "logging_steps", "points"),
    [
        (1, 5, -1, 0, 5),
        (2, 10, -1, 0, 20),
        (3, 100, -1, 0, 30),
        (1, 10, 47, 0, 23),
        (1, 5, -1, 10, 0),
    ],
)
def test_a_curve_has_enough_points_whatever_the_length(
    epochs: int, batches: int, max_steps: int, logging_steps: int, points: int
) -> None:
    training = TrainingConfig(num_epochs=epochs, max_steps=max_steps, logging_steps=logging_steps)
    steps = max_steps if max_steps > 0 else epochs * batches
    assert steps // report_interval(training, steps) == points


# Metrics on their way


def test_metrics_are_in_the_store_before_what_depends_on_them(workplace: Path) -> None:
    tracker = open_store(workplace)
    run = tracker.start_run("r")
    for step in range(1500):
        run.log_metrics({"loss": 1.0 / (step + 1), "rate": step}, step)
    run.log_text("page", "page.html")

    assert history(tracker, run) == [(step, 1.0 / (step + 1)) for step in range(1500)]
    run.finish("succeeded")
    assert not (workplace / "spool").exists()


def test_a_report_is_on_disk_for_its_owner_when_it_was_taken(workplace: Path) -> None:
    tracker = open_store(workplace)
    run = tracker.start_run("r")
    run.log_metrics({"loss": 0.5}, 1)

    (spool,) = (workplace / "spool").iterdir()
    assert stat.S_IMODE(spool.stat().st_mode) == 0o600
    assert stat.S_IMODE((workplace / "spool").stat().st_mode) == 0o700
    assert Report.from_line(spool.read_text()).metrics[0][:2] == ("loss", 0.5)
    run.finish("succeeded")


KILLED = """
import os, sys
from pathlib import Path
from tunetrail.config import TrackingConfig
from tunetrail.stores.tracking.tracker import Tracker
folder = Path(sys.argv[1])
config = TrackingConfig(uri=f"sqlite:///{folder}/mlflow.db", artifacts=str(folder / "mlartifacts"))
run = Tracker(config, spool=folder / "spool").start_run("killed")
for step in range(40):
    run.log_metrics({"loss": step / 8}, step)
print(run.run_id, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.mark.processes
@pytest.mark.parametrize("by", ["sync", "next training"])
def test_a_killed_process_loses_no_point_and_doubles_none(
    workplace: Path, call_main: CallMain, by: str
) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(workplace)], stdout=subprocess.PIPE, text=True
    )
    run_id = killed.stdout.strip()
    # As if it had died after MLflow took some of it.
    (spool,) = (workplace / "spool").iterdir()
    reports = [Report.from_line(line) for line in spool.read_text().splitlines()]
    client = client_of(f"sqlite:///{workplace}/mlflow.db")
    for report in reports[:17]:
        name, value, milliseconds, step = report.metrics[0]
        client.log_metric(run_id, name, value, milliseconds, step)

    if by == "sync":
        store = f"tracking.uri=sqlite:///{workplace}/mlflow.db"
        result = call_main("sync", store, f"output_dir={workplace}")
        assert result.exit_code == 0 and "40 metric values delivered" in result.out
        assert "nothing to deliver" in call_main("sync", store, f"output_dir={workplace}").out
    tracker = open_store(workplace)

    assert history(tracker, tracker.run(run_id)) == [(step, step / 8) for step in range(40)]
    assert not (workplace / "spool").exists()


def test_a_resumed_run_repeats_no_point_that_was_still_on_disk(workplace: Path) -> None:
    first = open_store(workplace)
    run = first.start_run("r")
    run.log_metrics({"loss": 0.5}, 1)
    run.log_metrics({"loss": 0.25}, 2)
    run.finish("interrupted")

    resumed = open_store(workplace).run(run.run_id)
    resumed.reopen()
    for step in (2, 3):
        resumed.log_metrics({"loss": 0.5**step}, step)
    resumed.finish("succeeded")
    assert history(first, run) == [(1, 0.5), (2, 0.25), (3, 0.125)]


def test_a_spool_that_was_cut_off_is_delivered_up_to_there(workplace: Path) -> None:
    tracker = open_store(workplace)
    run = tracker.start_run("r")
    lines = [
        Report(run.run_id, [("loss", step / 2, 1000 + step, step)]).to_line() for step in range(3)
    ]
    (workplace / "spool").mkdir(exist_ok=True)
    (workplace / "spool/1.jsonl").write_text("".join(lines)[:-9])

    deliver_spools(tracker.client, tracker.config.uri, workplace / "spool")
    assert history(tracker, run) == [(0, 0.0), (1, 0.5)]


def test_what_mlflow_refuses_stays_and_is_said(workplace: Path, call_main: CallMain) -> None:
    tracker = open_store(workplace)
    run, other = tracker.start_run("deleted"), tracker.start_run("other")
    tracker.delete_run(run.run_id)
    lines = [Report(one.run_id, [("loss", 0.5, 1000, 1)]).to_line() for one in (run, other)]
    (workplace / "spool").mkdir(exist_ok=True)
    (workplace / "spool/1.jsonl").write_text("".join(lines))

    store = f"tracking.uri=sqlite:///{workplace}/mlflow.db"
    result = call_main("sync", store, f"output_dir={workplace}")
    assert result.exit_code == 1 and "active" in result.error_line
    assert (workplace / "spool/1.jsonl").exists()
    assert history(tracker, other) == [(1, 0.5)]


def test_a_running_process_delivers_its_spool_itself(workplace: Path, call_main: CallMain) -> None:
    tracker = open_store(workplace)
    run = tracker.start_run("r")
    run.log_metrics({"loss": 0.5}, 1)

    store = f"tracking.uri=sqlite:///{workplace}/mlflow.db"
    result = call_main("sync", store, f"output_dir={workplace}")
    assert result.exit_code == 0 and "metric values delivered" not in result.out
    run.finish("succeeded")
    assert history(tracker, run) == [(1, 0.5)]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("session_id=s1", "sync takes output_dir and the keys of tracking, got session_id=s1"),
        ("--all", "sync takes output_dir and the keys of tracking, got --all"),
        ("tracking.urri=x", "urri"),
    ],
)
def test_sync_refuses_wrong_arguments(call_main: CallMain, argument: str, message: str) -> None:
    result = call_main("sync", argument)
    assert result.exit_code == 2 and message in result.error_line


# The use of the machine


@pytest.mark.parametrize("is_on", [True, False])
def test_the_use_of_the_machine_is_logged_unless_it_is_off(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, is_on: bool
) -> None:
    monkeypatch.setattr(system_metrics_module, "_SECONDS_BETWEEN_SAMPLES", 0.01)
    tracker = open_store(workplace, system_metrics=is_on)
    run = tracker.start_run("r")
    with system_metrics(run, tracker.config):
        spools = workplace / "spool"
        for _ in range(3000 if is_on else 20):
            if any(spools.glob("*")):
                break
            time.sleep(0.01)
    run.finish("succeeded")

    names = set(tracker.client.get_run(run.run_id).data.metrics)
    expected = {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"}
    assert expected <= names if is_on else not names


# Many at once


COLD_STARTS = """
import os, sys, traceback
from pathlib import Path
from tunetrail.config import TrackingConfig
from tunetrail.stores.tracking.tracker import Tracker

def start():
    config = TrackingConfig(uri=sys.argv[1], artifacts=sys.argv[2])
    run = Tracker(config, spool=Path(sys.argv[2]) / "spool").start_run("r")
    run.log_metrics({"loss": 0.5}, 1)
    run.finish("succeeded")

# Forked after the imports, which take longer than the race that is looked for.
reading, writing = os.pipe()
children = []
for _ in range(int(sys.argv[3])):
    pid = os.fork()
    if pid == 0:
        os.close(writing)
        os.read(reading, 1)
        try:
            start()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    children.append(pid)
os.close(writing)
codes = [os.waitpid(pid, 0)[1] for pid in children]
sys.exit(int(any(codes)))
"""


def start_cold(uri: str, artifacts: Path, count: int) -> None:
    """Let processes open a store at the same moment; fails with what they print if one fails."""
    command = [sys.executable, "-c", COLD_STARTS, uri, str(artifacts), str(count)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert ended.returncode == 0, ended.stderr


def check_cold_runs(uri: str, count: int) -> None:
    client = client_of(uri)
    names = [experiment.name for experiment in client.search_experiments()]
    experiment = client.get_experiment_by_name("tunetrail")
    assert experiment is not None and names.count("tunetrail") == 1
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == count
    assert all(run.data.metrics == {"loss": 0.5} for run in runs)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_32_processes_start_at_once_on_a_fresh_file(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    start_cold(uri, tmp_path / "mlartifacts", 32)
    check_cold_runs(uri, 32)


@pytest.fixture
def fresh_postgres() -> Iterator[str]:
    """The URL of an empty PostgreSQL database of this test's own."""
    url = parse_url(POSTGRES)
    name = f"tracking_{os.getpid()}"
    with make_engine(url).connect() as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield make_url(url).set(database=name).render_as_string(hide_password=False)
    with make_engine(url).connect() as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@needs_postgres
def test_32_processes_start_at_once_on_a_fresh_postgres(
    fresh_postgres: str, tmp_path: Path
) -> None:
    start_cold(fresh_postgres, tmp_path / "mlartifacts", 32)
    check_cold_runs(fresh_postgres, 32)


# A server that goes away


STOPPED = """
import logging, sys
from pathlib import Path
from tunetrail.config import TrackingConfig
from tunetrail.stores.tracking.tracker import Tracker
logging.basicConfig(level=logging.WARNING)
tracker = Tracker(TrackingConfig(uri=sys.argv[1]), spool=Path(sys.argv[2]) / "spool")
run = tracker.start_run("stopped")
print(run.run_id, flush=True)
sys.stdin.readline()
try:
    with run.finish_on_exit():
        for step in range(30):
            run.log_metrics({"loss": step / 4}, step)
        raise SystemExit(143)
except SystemExit as stop:
    print(stop.__notes__, file=sys.stderr)
    raise
"""


@pytest.fixture
def server(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (workplace / "server").mkdir()
    shutil.copy(workplace / "mlflow.db", workplace / "server/server.db")
    server = Server(workplace / "server")
    server.start()
    yield server
    server.kill()


@pytest.mark.processes
def test_metrics_wait_for_a_server_that_was_killed(
    server: Server, workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    tracker = Tracker(
        TrackingConfig(uri=server.uri, patience_seconds=120), spool=workplace / "spool"
    )
    run = tracker.start_run("r")
    for step in range(10):
        run.log_metrics({"loss": step / 4}, step)
    run.set_tags({"before": "yes"})

    server.kill()
    for step in range(10, 30):
        run.log_metrics({"loss": step / 4}, step)
    # What can't wait on the disk says so in one line, at once if it may not wait.
    with pytest.raises(TrackingError, match="failed: ") as caught, tracker.in_a_hurry():
        tracker.start_run("another")
    assert "\n" not in str(caught.value)
    (spool,) = (workplace / "spool").iterdir()
    assert len(spool.read_text().splitlines()) >= 20

    threading.Timer(2.0, server.start).start()
    run.finish("succeeded")
    assert history(tracker, run) == [(step, step / 4) for step in range(30)]
    assert tracker.client.get_run(run.run_id).info.status == "FINISHED"
    assert "waiting up to 120 s for MLflow" in caplog.text
    assert not (workplace / "spool").exists()


@pytest.mark.processes
def test_metrics_of_a_run_whose_server_stays_away_are_delivered_by_sync(
    server: Server, workplace: Path, call_main: CallMain
) -> None:
    command = [sys.executable, "-c", STOPPED, server.uri, str(workplace)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        run_id = process.stdout.readline().strip()
        server.kill()
        _, printed = process.communicate("go on\n", timeout=300)
    assert process.returncode == 143
    assert "could not be marked as interrupted" in printed
    assert "`tunetrail sync` delivers them" in printed

    away = call_main("sync", f"tracking.uri={server.uri}", f"output_dir={workplace}")
    assert away.exit_code == 1 and "MLflow store" in away.error_line
    server.start()
    result = call_main("sync", f"tracking.uri={server.uri}", f"output_dir={workplace}")
    assert result.exit_code == 0 and "30 metric values delivered" in result.out
    points = client_of(server.uri).get_metric_history(run_id, "loss")
    assert [(point.step, point.value) for point in points] == [
        (step, step / 4) for step in range(30)
    ]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_training_goes_on_while_its_server_is_away_for_a_minute(
    server: Server, workplace: Path, tiny_embedding_model: str, tmp_path: Path
) -> None:
    words = ["apple", "river", "engine", "window", "doctor", "garden", "planet", "violin", "island"]
    rows = [
        {"anchor": f"{one} {other}", "positive": f"{other} of the {one}"}
        for one in words
        for other in words
    ]
    with DatabaseManager("sqlite:///tunetrail.db") as database:
        database.ingest("s1", rows, "embedding")  # type: ignore[arg-type]
    settings = ["max_steps=2500", "num_epochs=1000", "batch_size=16", "logging_steps=1"]
    settings += ["early_stopping_patience=0"]
    arguments = [f"embedding.training.{setting}" for setting in settings]
    arguments += ["session_id=s1", "model_type=embedding", f"tracking.uri={server.uri}"]
    arguments += [f"embedding.model={tiny_embedding_model}", "cross_validation=off", "gate=point"]
    arguments += ["evaluation.bootstrap_samples=100"]

    with (workplace / "train.log").open("wb") as log:
        command = [sys.executable, "-m", "tunetrail", "train", *arguments]
        training = subprocess.Popen(command, stdout=log, stderr=log)
    client = client_of(server.uri)
    run_id = _training_run_id(client, training)
    server.kill()
    time.sleep(60)
    server.start()
    exit_code = training.wait(timeout=1800)
    printed = (workplace / "train.log").read_text()

    assert exit_code == 0, printed
    assert "metrics are kept in" in printed
    path = client.download_artifacts(run_id, "steps/training.json", str(tmp_path))
    curve = json.loads(Path(path).read_text())["history"]["train/loss"]
    points = client.get_metric_history(run_id, "train/loss")
    assert len(curve) == 2500
    assert [[point.step, point.value] for point in points] == curve


def _training_run_id(client: Any, training: "subprocess.Popen[bytes]") -> str:
    """Wait until a run has reported losses, and return its id."""
    while training.poll() is None:
        for experiment in client.search_experiments():
            for run in client.search_runs([experiment.experiment_id]):
                if "train/loss" in run.data.metrics:
                    return str(run.info.run_id)
        time.sleep(1)
    raise AssertionError("the training ended before its first report")
