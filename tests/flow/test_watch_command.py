"""`tunetrail watch` on what an application logs: it trains, decides, tells the hook, and ends cleanly."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.commands import CallMain

from tunetrail import DatabaseManager, Session

pytestmark = pytest.mark.processes


@pytest.fixture
def small(workplace: Path, tiny_embedding_model: str) -> list[str]:
    """Arguments of a training of a few seconds whose candidate is promoted."""
    return [
        f"tracking.uri=sqlite:///{workplace}/mlflow.db",
        "model_type=embedding",
        f"embedding.model={tiny_embedding_model}",
        "embedding.training.max_steps=4",
        "embedding.training.num_epochs=100",
        "embedding.training.warmup_steps=0",
        "cross_validation=off",
        "gate=point",
        "gate.fresh_process=false",
        "gate.minimum_improvement=-10",
        "callbacks=no_early_stopping",
        "watch.min_rows=40",
    ]


def log_pairs(count: int, first: int = 0, *, end: bool = False) -> None:
    words = ["river", "stone", "cloud", "paper", "engine", "garden", "silver", "window"]
    with Session("s1", "embedding") as session:
        for n in range(first, first + count):
            question = f"{words[n % 8]} number {n} asks {n * 7}"
            session.log(anchor=question, positive=f"{n * 7} answers {words[n % 8]} {n}")
        if end:
            assert session.end()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What a real server is told by the hook."""
    bodies: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("TUNETRAIL_HOOK_URL", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("TUNETRAIL_HOOK_SECRET", "x" * 32)
    yield bodies
    server.shutdown()
    thread.join()
    server.server_close()


def runs() -> list[tuple[str, str | None]]:
    with DatabaseManager("sqlite:///tunetrail.db") as database:
        return [(str(run.state), run.started_by) for run in database.training_runs()]


def test_watch_trains_on_what_was_logged_and_tells_the_hook(
    call_main: CallMain, small: list[str], told: list[dict[str, Any]]
) -> None:
    log_pairs(60)
    first = call_main("watch", "watch.once=true", *small)
    again = call_main("watch", "watch.once=true", *small)
    log_pairs(3, first=60, end=True)
    ended = call_main("watch", "watch.once=true", *small)

    assert (first.exit_code, again.exit_code, ended.exit_code) == (0, 0, 0)
    assert "promoted" in first.out and again.out == "" and "promoted" in ended.out
    assert runs() == [
        ("succeeded", "tunetrail watch: 60 new samples"),
        ("succeeded", "tunetrail watch: the session has ended"),
    ]
    assert [event["type"] for event in told] == ["root.moved", "root.moved"]
    assert [event["data"]["version"] for event in told] == ["1", "2"]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tunetrail", "watch", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_watch_ends_cleanly_by_a_signal_in_the_middle_of_a_training(
    call_main: CallMain, small: list[str]
) -> None:
    log_pairs(60)
    long = [argument for argument in small if "max_steps" not in argument]
    watch = start([*long, "embedding.training.max_steps=100000", "watch.interval_seconds=1"])
    try:
        while not Path("tunetrail.db").exists() or [state for state, _ in runs()] != ["running"]:
            assert watch.poll() is None, watch.communicate()
            time.sleep(0.2)
        # In the middle of the steps, of which there are enough.
        time.sleep(5.0)
        refused = call_main("watch", "watch.once=true", *small)
        watch.send_signal(signal.SIGINT)
        _, err = watch.communicate(timeout=240)
    finally:
        watch.kill()

    assert refused.exit_code == 2 and "must be the only one" in refused.error_line
    assert watch.returncode == 130 and "Traceback" not in err
    assert "the next `tunetrail watch` goes on from here" in err
    assert runs() == [("interrupted", "tunetrail watch: 60 new samples")]


def test_a_killed_watch_goes_on_with_its_training_when_it_is_started_again(
    call_main: CallMain, small: list[str], told: list[dict[str, Any]], workplace: Path
) -> None:
    log_pairs(60)
    steps = ["embedding.training.max_steps=400", "embedding.training.checkpoints.every_steps=5"]
    arguments = [argument for argument in small if "max_steps" not in argument] + steps
    watch = start([*arguments, "watch.interval_seconds=1"])
    try:
        # In the middle of the steps, with a checkpoint to go on from.
        checkpoint = "training_output/*/fit/checkpoints/last.ckpt"
        while not list(workplace.glob(checkpoint)):
            assert watch.poll() is None, watch.communicate()
            time.sleep(0.02)
        watch.kill()
        watch.communicate(timeout=60)
        (left,) = runs()
        # What comes meanwhile is for a training of its own, not for the one that goes on.
        log_pairs(50, first=60)

        again = call_main("watch", "watch.once=true", *arguments)
    finally:
        watch.kill()

    assert left == ("running", "tunetrail watch: 60 new samples")
    assert again.exit_code == 0, again.err
    assert "resumes" in again.err and "was left by a process that died" in again.err
    assert runs() == [
        ("succeeded", "tunetrail watch: 60 new samples"),
        ("succeeded", "tunetrail watch: 50 new samples"),
    ]
    # The checkpoint's steps weren't taken again, and each decision was made and told once.
    with DatabaseManager("sqlite:///tunetrail.db") as database:
        first, _ = database.training_runs()
        promotions = [(line.version, line.decision) for line in database.promotions()]
        learnt = len(database.learnt_rows("embedding", "1"))
    assert first.result is not None
    assert first.result["results"]["steps"]["training"]["embedding"]["steps"] == 400
    assert promotions == [("1", "promoted"), ("2", "promoted")] and learnt <= 60
    assert [(event["type"], event["data"]["version"]) for event in told] == [
        ("root.moved", "1"),
        ("root.moved", "2"),
    ]


def test_idle_watch_ends_at_once_by_sigterm(small: list[str]) -> None:
    log_pairs(1)
    watch = start([*small, "watch.interval_seconds=600"])
    try:
        assert watch.stderr is not None
        lines = iter(watch.stderr.readline, "")
        assert any("watching all sessions of sqlite" in line for line in lines)
        watch.send_signal(signal.SIGTERM)
        out, _ = watch.communicate(timeout=240)
    finally:
        watch.kill()

    assert (watch.returncode, out) == (143, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["watch.min_rows=0"], "watch.min_rows must be at least 1, got 0"),
        (["watch.min_row=5"], "watch.min_rows"),
        (["watch.interval_seconds=soon"], "watch.interval_seconds"),
        (["-m", "seed=1,2"], "watch takes one configuration, got -m"),
        (["session_id=nobody"], "session_id must name a session"),
        (["model_type=embeding"], "Did you mean 'embedding'"),
        (["trainer.num_nodes=2"], "trainer.num_nodes must be 1 for watch"),
    ],
)
def test_watch_refuses_mistakes_in_one_line(
    call_main: CallMain, small: list[str], arguments: list[str], message: str
) -> None:
    rest = [argument for argument in small if not argument.startswith("model_type=")]

    result = call_main("watch", "watch.once=true", *rest, *arguments)

    assert result.exit_code == 2 and message in result.error_line
