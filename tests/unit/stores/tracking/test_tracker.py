import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from tunetrail.config import TrackingConfig
from tunetrail.errors import TrackingError
from tunetrail.stores.tracking.tracker import (
    LONGEST_VALUE,
    Tracker,
    safe_name,
    shown_uri,
    sqlite_file,
    tracking_errors,
)


@pytest.fixture
def config(workplace: Path) -> TrackingConfig:
    """A store whose migrations have run."""
    return TrackingConfig(
        uri=f"sqlite:///{workplace}/mlflow.db", artifacts=str(workplace / "mlartifacts")
    )


@pytest.fixture
def tracker(config: TrackingConfig) -> Tracker:
    return Tracker(config)


def read(tracker: Tracker, run_id: str) -> Any:
    return tracker.client.get_run(run_id)


def start_in_another_process(config: TrackingConfig, code: str) -> "subprocess.Popen[str]":
    """Open the store in a process of its own, run `code` with `tracker`, say so, and wait to be ended."""
    program = (
        "import sys, time; from tunetrail.config import TrackingConfig; from tunetrail.stores.tracking.tracker import Tracker; "
        f"tracker = Tracker(TrackingConfig(uri={config.uri!r}, artifacts={config.artifacts!r})); {code}; "
        "print('up', flush=True); time.sleep(60)"
    )
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


@pytest.mark.processes
def test_tracker_prepares_a_fresh_store_for_four_processes_at_once(tmp_path: Path) -> None:
    program = (
        "from tunetrail.config import TrackingConfig; from tunetrail.stores.tracking.tracker import Tracker; "
        f"t = Tracker(TrackingConfig(uri='sqlite:///{tmp_path}/new.db', artifacts='{tmp_path}/artifacts')); "
        "t.start_run('r').finish('succeeded')"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) for _ in range(4)
    ]
    printed = [process.communicate(timeout=120)[1] for process in processes]

    assert [process.returncode for process in processes] == [0, 0, 0, 0], printed

    tracker = Tracker(TrackingConfig(uri=f"sqlite:///{tmp_path}/new.db"))
    assert len(tracker.client.search_runs([tracker.experiment_id])) == 4
    assert [experiment.name for experiment in tracker.client.search_experiments()].count(
        "tunetrail"
    ) == 1


def test_tracker_writes_ahead_and_keeps_artifacts_where_it_was_told(
    tracker: Tracker, workplace: Path
) -> None:
    with sqlite3.connect(workplace / "mlflow.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    experiment = tracker.client.get_experiment(tracker.experiment_id)
    assert experiment.artifact_location == (workplace / "mlartifacts").as_uri()


def test_tracker_turns_telemetry_off(tracker: Tracker) -> None:
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_tracker_takes_an_existing_experiment(tracker: Tracker, config: TrackingConfig) -> None:
    assert Tracker(config).experiment_id == tracker.experiment_id


def test_log_metrics_keeps_steps_and_leaves_out_what_is_not_finite(tracker: Tracker) -> None:
    run = tracker.start_run("r")
    for step in range(3):
        run.log_metrics(
            {"train/loss": 1.0 / (step + 1), "nan": float("nan"), "infinite": float("-inf")}, step
        )
    history = tracker.client.get_metric_history(run.run_id, "train/loss")

    assert [(point.step, point.value) for point in history] == [
        (0, 1.0),
        (1, 0.5),
        (2, pytest.approx(1 / 3)),
    ]
    assert set(read(tracker, run.run_id).data.metrics) == {"train/loss"}


def test_log_batches_hold_more_than_mlflow_takes_at_once(tracker: Tracker) -> None:
    run = tracker.start_run("r")
    run.log_metrics({f"metric_{index}": float(index) for index in range(1234)})
    run.log_params({f"param_{index}": index for index in range(234)})
    run.set_tags({f"tag_{index}": index for index in range(234)})
    data = read(tracker, run.run_id).data

    assert len(data.metrics) == 1234 and data.metrics["metric_1233"] == 1233.0
    assert (
        len(data.params) == 234
        and data.params["param_233"] == "233"
        and data.tags["tag_233"] == "233"
    )


def test_log_makes_unsafe_names_safe(tracker: Tracker) -> None:
    run = tracker.start_run("r")
    run.log_metrics({"recall@10 (é)": 1.0})
    run.log_params({"a=b": 1})
    run.set_tags({"x\ny": "z"})
    data = read(tracker, run.run_id).data

    assert (
        data.metrics == {"recall_10 ___": 1.0}
        and data.params == {"a_b": "1"}
        and data.tags["x_y"] == "z"
    )


def test_log_params_shortens_what_is_too_long_with_a_mark(tracker: Tracker) -> None:
    run = tracker.start_run("r")
    run.log_params({"short": "x" * LONGEST_VALUE, "long": "x" * 7000})
    params = read(tracker, run.run_id).data.params
    assert params["short"] == "x" * LONGEST_VALUE
    assert params["long"].endswith("… (7000 characters)") and len(params["long"]) <= LONGEST_VALUE


def test_log_params_refuses_to_change_one(tracker: Tracker) -> None:
    run = tracker.start_run("r")
    run.log_params({"a": 1})
    with pytest.raises(TrackingError, match="Changing param values is not allowed"):
        run.log_params({"a": 2})


def test_log_artifacts_can_be_read_back(tracker: Tracker, tmp_path: Path) -> None:
    run = tracker.start_run("r")
    run.log_dict({"a": [1, 2]}, "steps/a.json")
    run.log_text("é", "notes.txt")
    run.log_picture(b"\x89PNG...", "pictures/rows.png")
    (tmp_path / "rows.csv").write_text("a\n")
    run.log_artifact(tmp_path / "rows.csv", "tables")
    folder = Path(tracker.client.download_artifacts(run.run_id, "", str(tmp_path)))
    assert json.loads((folder / "steps/a.json").read_text()) == {"a": [1, 2]}
    assert (folder / "notes.txt").read_text() == "é"
    assert (folder / "pictures/rows.png").read_bytes() == b"\x89PNG..."
    assert (folder / "tables/rows.csv").read_text() == "a\n"


def test_log_table_replaces_a_table_and_mlflow_reads_it(tracker: Tracker) -> None:
    run = tracker.start_run("r")
    table = pd.DataFrame({"prompt": ["<b>é</b>\u2028", "\U0001f600"], "after": [None, "x"]})

    run.log_table(pd.DataFrame({"old": [1]}), "answers.json")
    run.log_table(table, "answers.json")

    loaded = tracker.client.load_table(tracker.experiment_id, "answers.json", [run.run_id])
    pd.testing.assert_frame_equal(loaded, table, check_dtype=False)


def test_log_table_writes_into_a_folder_what_only_the_owner_reads(
    tracker: Tracker, tmp_path: Path
) -> None:
    run = tracker.start_run("r")
    run.log_table(pd.DataFrame({"token": ["a"]}), "evaluation/tokens.json")

    path = Path(tracker.client.download_artifacts(run.run_id, "evaluation", str(tmp_path)))
    assert (path / "tokens.json").stat().st_mode & 0o077 == 0


def test_log_input_names_the_rows_and_what_they_were_for(tracker: Tracker) -> None:
    run = tracker.start_run("r")
    run.log_input("s1", "d" * 64, "test", 12)
    (dataset_input,) = read(tracker, run.run_id).inputs.dataset_inputs

    assert (
        dataset_input.dataset.name,
        dataset_input.dataset.digest,
        json.loads(dataset_input.dataset.profile),
    ) == (
        "s1",
        "d" * 36,
        {"num_rows": 12},
    )
    assert [(tag.key, tag.value) for tag in dataset_input.tags] == [("mlflow.data.context", "test")]


def test_start_run_puts_a_child_below_its_parent_with_its_tags(tracker: Tracker) -> None:
    parent = tracker.start_run("parent", tags={"tunetrail.session_id": "s1"})
    child = parent.child("fold-1", {"tunetrail.fold": "1"})
    tags = read(tracker, child.run_id).data.tags

    assert (tags["mlflow.parentRunId"], tags["tunetrail.fold"], tags["mlflow.runName"]) == (
        parent.run_id,
        "1",
        "fold-1",
    )
    assert tags["tunetrail.pid"] == str(os.getpid())
    assert read(tracker, parent.run_id).data.tags["tunetrail.session_id"] == "s1"


@pytest.mark.parametrize(
    ("error", "status", "state", "reason"),
    [
        (None, "FINISHED", "succeeded", None),
        (ValueError("too few"), "FAILED", "failed", "ValueError: too few"),
        (ValueError(), "FAILED", "failed", "ValueError"),
        (SystemExit(143), "KILLED", "interrupted", "stopped by SIGTERM"),
        (KeyboardInterrupt(), "KILLED", "interrupted", "stopped by Ctrl-C"),
    ],
)
def test_ending_marks_the_run_and_lets_the_error_through(
    tracker: Tracker, error: BaseException | None, status: str, state: str, reason: str | None
) -> None:
    run = tracker.start_run("r")

    def work() -> None:
        with run.finish_on_exit():
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(type(error)):
            work()
    ended = read(tracker, run.run_id)
    assert (ended.info.status, ended.data.tags["tunetrail.state"]) == (status, state)
    assert ended.data.tags.get("tunetrail.reason") == reason and ended.info.end_time is not None


def test_ending_keeps_the_first_error_where_the_run_cannot_be_marked(tracker: Tracker) -> None:
    with (
        pytest.raises(ValueError, match="the first") as caught,
        tracker.run("no-such-run").finish_on_exit(),
    ):
        raise ValueError("the first")
    assert "could not be marked as failed" in caught.value.__notes__[0]


@pytest.mark.processes
def test_mark_interrupted_runs_finds_those_of_a_killed_process(
    config: TrackingConfig, tracker: Tracker
) -> None:
    mine = tracker.start_run("mine")
    process = start_in_another_process(
        config, "run = tracker.start_run('theirs'); run.child('child')"
    )

    assert process.stdout is not None and process.stdout.readline() == "up\n"
    assert tracker.mark_interrupted_runs() == []

    process.send_signal(signal.SIGKILL)
    process.communicate()
    marked = tracker.mark_interrupted_runs()
    runs = {run_id: read(tracker, run_id) for run_id in marked}
    assert {run.info.run_name for run in runs.values()} == {"theirs", "child"}
    assert {run.info.status for run in runs.values()} == {"KILLED"}
    assert all(
        "the process ended unexpectedly" in run.data.tags["tunetrail.reason"]
        for run in runs.values()
    )
    assert read(tracker, mine.run_id).info.status == "RUNNING"
    assert tracker.mark_interrupted_runs() == []


def test_mark_interrupted_runs_leaves_other_hosts_and_strangers_alone(tracker: Tracker) -> None:
    tracker.start_run(
        "elsewhere",
        tags={
            "tunetrail.pid": "1",
            "tunetrail.host": "another",
            "tunetrail.process_started": "0.0",
        },
    )
    tracker.client.create_run(tracker.experiment_id, run_name="not ours")
    tracker.start_run("odd", tags={"tunetrail.pid": "one"})

    assert tracker.mark_interrupted_runs() == []


@pytest.mark.processes
def test_lock_keeps_a_second_process_out(
    config: TrackingConfig, tracker: Tracker, workplace: Path
) -> None:
    with tracker.lock("purpose"):
        process = start_in_another_process(
            config, "print('opened', flush=True); lock = tracker.lock('purpose'); lock.__enter__()"
        )
        assert process.stdout is not None and process.stdout.readline() == "opened\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)

    assert process.stdout.readline() == "up\n"

    process.kill()
    process.communicate()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("http://127.0.0.1:9", "MLflow store http://127.0.0.1:9 failed: "),
        pytest.param(
            "postgresql+psycopg://user:secret@127.0.0.1:9/mlflow",
            r"MLflow store postgresql\+psycopg://user:\*\*\*@127.0.0.1:9/mlflow failed: ",
            marks=pytest.mark.slow,  # MLflow itself tries again for more than a minute
        ),
        ("http://user:secret@127.0.0.1:9", r"MLflow store http://user:\*\*\*@127.0.0.1:9 failed: "),
        ("sqlite:////proc/none/mlflow.db", "MLflow store sqlite:////proc/none/mlflow.db failed: "),
        ("nonsense://x", "MLflow store nonsense://x failed: "),
    ],
)  # fmt: skip
def test_tracker_says_in_one_line_why_a_store_failed(
    uri: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with pytest.raises(TrackingError, match=message) as caught:
        Tracker(TrackingConfig(uri=uri))
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("one\ntwo"),
        sqlite3.OperationalError("one"),
        OSError(28, "No space left on device"),
        MlflowException(""),
    ],
)
def test_tracking_errors_are_one_line(error: Exception) -> None:
    with pytest.raises(TrackingError, match=r"^MLflow store u failed: .+$"), tracking_errors("u"):
        raise error


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("mlruns", "mlruns"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("postgresql://user:secret@host/db", "postgresql://user:***@host/db"),
        ("http://user:secret@host:5000", "http://user:***@host:5000"),
        ("http://host:notaport", "http://host:notaport"),
        ("http://token@host", "http://***@host"),
        ("models:/embedding@root", "models:/embedding@root"),
        ("starts from models:/team-llm@root", "starts from models:/team-llm@root"),
        ("ourmodels:/user:secret@host", "ourmodels:/user:***@host"),
        ("postgresql://user:a/b@c@host/db", "postgresql://user:***@host/db"),
        (
            "postgresql://host/db?user=u&password=secret&x=1",
            "postgresql://host/db?user=u&password=***&x=1",
        ),
    ],
)
def test_shown_uri_hides_the_password(uri: str, shown: str) -> None:
    assert shown_uri(uri) == shown


def test_sqlite_file_is_absolute_and_none_for_a_server(workplace: Path) -> None:
    assert sqlite_file("sqlite:///mlflow.db") == workplace / "mlflow.db"
    assert sqlite_file("sqlite:////tmp/x.db") == Path("/tmp/x.db")  # noqa: S108
    assert sqlite_file("http://host") is None


def test_safe_name_keeps_what_mlflow_takes() -> None:
    assert safe_name("a-b_c.d/e:f g") == "a-b_c.d/e:f g"
