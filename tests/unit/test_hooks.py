import base64
import hashlib
import hmac
import json
import logging
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.commands import CallMain

from tunetrail import DatabaseManager, hooks
from tunetrail.errors import ConfigError
from tunetrail.hooks import Event, Hook, HookDeliveries, send, telling_hook, telling_hook_meanwhile
from tunetrail.samples import SampleKind
from tunetrail.stores.database.manager import PromotionRecord

SECRET = "a-secret-of-more-than-16-characters"  # noqa: S105 - a test's own


@dataclass
class Receiver:
    """A real HTTP server that answers with the given codes, and afterwards with 204."""

    codes: list[int] = field(default_factory=list)
    location: str = ""
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""

    @property
    def names(self) -> list[str]:
        return [json.loads(body)["type"] for _, body in self.requests]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    state = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            state.requests.append((headers, body))
            self.send_response(state.codes.pop(0) if state.codes else 204)
            if state.location:
                self.send_header("Location", state.location)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/a-key-in-the-path"
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def manager(tmp_path: Path, migrated_database: Path) -> Iterator[DatabaseManager]:
    shutil.copy(migrated_database, tmp_path / "tunetrail.db")
    with DatabaseManager(f"sqlite:///{tmp_path}/tunetrail.db") as manager:
        manager.ingest("s1", [{"text": "a text"}], SampleKind.LLM)
        yield manager


@pytest.fixture
def environment(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNETRAIL_HOOK_URL", receiver.url)
    monkeypatch.setenv("TUNETRAIL_HOOK_SECRET", SECRET)
    monkeypatch.setattr(hooks, "_MOST_SECONDS_BETWEEN_ATTEMPTS", 0.01)
    monkeypatch.setattr(hooks, "_SECONDS_BETWEEN_LOOKS", 0.01)


def record(decision: str, **changes: Any) -> PromotionRecord:
    values = {"model_name": "embedding", "version": "3", "decision": decision, "reason": "better"}
    return PromotionRecord(**values | changes)


def fail_a_run(manager: DatabaseManager) -> str:
    run_id = manager.create_training_run("s1", "llm", started_by="tunetrail watch")
    manager.update_training_run(run_id, state="failed", reason="the loss became infinite")
    return run_id


def is_signed(headers: dict[str, str], body: bytes, secret: bytes) -> bool:
    """Verify a request as Standard Webhooks tells receivers to do it."""
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
    return headers["webhook-signature"] == f"v1,{expected}"


@pytest.mark.usefixtures("environment")
def test_hook_is_told_after_two_failures_with_a_signature(
    manager: DatabaseManager, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.codes = [503, 500]
    caplog.set_level(logging.DEBUG)

    with telling_hook(manager):
        manager.record_promotion(record("promoted", session_id="s1", lower=0.1, upper=0.2))

    assert receiver.names == ["root.moved"] * 3
    assert len({headers["webhook-id"] for headers, _ in receiver.requests}) == 1
    assert all(is_signed(headers, body, SECRET.encode()) for headers, body in receiver.requests)
    headers, body = receiver.requests[-1]
    assert not is_signed(headers, body.replace(b"promoted", b"rejected"), SECRET.encode())
    assert abs(int(headers["webhook-timestamp"]) - datetime.now(UTC).timestamp()) < 60
    data = json.loads(body)["data"]
    assert (data["version"], data["session_id"], data["lower"]) == ("3", "s1", 0.1)
    # Told once, and nothing secret is said.
    with telling_hook(manager):
        pass
    assert len(receiver.requests) == 3
    assert "HTTP 503" in caplog.text and caplog.text.count("didn't take") == 1
    assert SECRET not in caplog.text and "a-key-in-the-path" not in caplog.text


@pytest.mark.usefixtures("environment")
def test_hook_is_told_of_moves_refusals_and_failures_only(
    manager: DatabaseManager, receiver: Receiver
) -> None:
    manager.record_promotion(record("promoted", reason="before the hook was used"))

    with telling_hook(manager):
        manager.record_promotion(record("promoted", event="intent", move_id="m1"))
        for decision in ("promoted", "forced", "rolled back", "refused", "waiting", "forbidden"):
            manager.record_promotion(record(decision))
        run_id = fail_a_run(manager)

    assert sorted(receiver.names) == [
        "candidate.refused",
        "candidate.waiting",
        "root.moved",
        "root.moved",
        "root.rolled_back",
        "run.failed",
    ]
    failure = next(body for _, body in receiver.requests if b"run.failed" in body)
    data = json.loads(failure)["data"]
    assert (data["run_id"], data["reason"]) == (run_id, "the loss became infinite")
    assert data["started_by"] == "tunetrail watch"


@pytest.mark.usefixtures("environment")
def test_hook_follows_no_redirect(manager: DatabaseManager, receiver: Receiver) -> None:
    receiver.codes, receiver.location = [302, 307, 308], receiver.url
    event = Event(event_id="e1", name="root.moved", moment=datetime.now(UTC), data={})
    hook = Hook(url=receiver.url, secret=SECRET.encode())

    problems = [send(hook, event) for _ in range(3)]

    expected = [f"HTTP {code}, and redirects are not followed" for code in (302, 307, 308)]
    assert problems == expected and len(receiver.requests) == 3


@pytest.mark.usefixtures("environment")
def test_event_that_waits_is_delivered_by_another_process(
    manager: DatabaseManager, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    receiver.codes = [500] * 100
    monkeypatch.setattr(hooks, "_SECONDS_AT_END", 0.0)
    with telling_hook(manager):
        fail_a_run(manager)
    receiver.codes.clear()
    monkeypatch.setattr(hooks, "_SECONDS_AT_END", 10.0)

    with DatabaseManager(f"sqlite:///{tmp_path}/tunetrail.db") as other, telling_hook(other):
        pass

    assert receiver.names == ["run.failed"] * 2


@pytest.mark.usefixtures("environment")
def test_an_event_is_claimed_by_one_of_many(manager: DatabaseManager, receiver: Receiver) -> None:
    hook = Hook.from_environment()
    assert hook is not None
    senders = [HookDeliveries(manager, hook) for _ in range(4)]
    senders[0].begin()
    fail_a_run(manager)

    threads = [threading.Thread(target=sender.deliver, args=(5.0,)) for sender in senders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert receiver.names == ["run.failed"]


@pytest.mark.usefixtures("environment")
def test_hook_is_told_of_what_others_do_meanwhile(
    manager: DatabaseManager, receiver: Receiver
) -> None:
    with telling_hook_meanwhile(manager):
        fail_a_run(manager)
        for _ in range(500):
            if receiver.requests:
                break
            threading.Event().wait(0.01)

    assert receiver.names == ["run.failed"]


@pytest.mark.usefixtures("environment")
def test_a_receiver_that_is_away_changes_nothing(
    manager: DatabaseManager, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TUNETRAIL_HOOK_URL", "http://127.0.0.1:9/path")
    monkeypatch.setattr(hooks, "_SECONDS_AT_END", 0.0)

    with pytest.raises(ZeroDivisionError), telling_hook(manager):
        fail_a_run(manager)
        raise ZeroDivisionError

    assert "the hook http://127.0.0.1:9 didn't take run.failed" in caplog.text
    assert "events wait for the hook" in caplog.text


@pytest.mark.usefixtures("environment")
def test_hook_makes_no_database(tmp_path: Path) -> None:
    with DatabaseManager(f"sqlite:///{tmp_path}/none.db") as missing, telling_hook(missing):
        pass

    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize(
    ("url", "secret", "message"),
    [
        ("ftp://host/x", SECRET, "TUNETRAIL_HOOK_URL must be an address such as https"),
        ("host/x", SECRET, "TUNETRAIL_HOOK_URL must be an address"),
        ("https://host:port/x", SECRET, "TUNETRAIL_HOOK_URL must be an address"),
        ("https://host/a b", SECRET, "TUNETRAIL_HOOK_URL must be an address"),
        ("https://ada:pw@host/x", SECRET, "got one with a user or password"),
        ("https://host/x", "short", "at least 16 characters, got 5"),
        ("https://host/x", "", "at least 16 characters, got 0"),
        ("https://host/x", "whsec_not*base64*not", "must be Base64 after whsec_"),
    ],
)
def test_hook_refuses_a_wrong_environment_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, url: str, secret: str, message: str
) -> None:
    monkeypatch.setenv("TUNETRAIL_HOOK_URL", url)
    monkeypatch.setenv("TUNETRAIL_HOOK_SECRET", secret)

    with pytest.raises(ConfigError, match=message) as refusal:
        Hook.from_environment()

    assert len(str(refusal.value).splitlines()) == 1
    for hidden in (secret, "pw@", "host/x"):
        assert not hidden or hidden not in str(refusal.value)


def test_command_with_a_wrong_hook_fails_in_one_line(
    call_main: CallMain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNETRAIL_HOOK_URL", "https://example.org/hook")
    monkeypatch.setenv("TUNETRAIL_HOOK_SECRET", "short")

    result = call_main("root")

    assert result.exit_code == 2 and "TUNETRAIL_HOOK_SECRET must have" in result.error_line


def test_hook_reads_a_secret_of_standard_webhooks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNETRAIL_HOOK_URL", "https://example.org/hook")
    monkeypatch.setenv("TUNETRAIL_HOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")

    hook = Hook.from_environment()

    # The example of the specification.
    assert hook is not None
    body = b'{"test": 2432232314}'
    signature = hook.signature("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert "example" not in repr(hook) and hook.shown == "https://example.org"
