"""The hook: an address of the user's that is told when root has moved or a training has failed.

Requests follow Standard Webhooks (https://www.standardwebhooks.com), so its libraries verify them.
"""

import base64
import binascii
import contextlib
import hashlib
import hmac
import http.client
import json
import logging
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Self
from urllib.parse import urlsplit

from tunetrail.errors import ConfigError, TunetrailError
from tunetrail.stores.database.ledger import FORCED, MOVED, PROMOTED, REFUSED, ROLLED_BACK, WAITING
from tunetrail.stores.database.manager import DatabaseManager, PromotionRecord, TrainingRun
from tunetrail.stores.database.tables import now

URL_VARIABLE, SECRET_VARIABLE = "TUNETRAIL_HOOK_URL", "TUNETRAIL_HOOK_SECRET"
# The event of each decision of the ledger; the other decisions have none.
_EVENTS = {
    PROMOTED: "root.moved",
    FORCED: "root.moved",
    MOVED: "root.moved",
    ROLLED_BACK: "root.rolled_back",
    REFUSED: "candidate.refused",
    WAITING: "candidate.waiting",
}
_RUN_FAILED = "run.failed"
_FEWEST_CHARACTERS = 16
_PREFIX = "whsec_"
_REQUEST_SECONDS = 10.0
# A process that dies in the middle of a request leaves the event to the others after that.
_CLAIM_SECONDS = 60.0
_MOST_SECONDS_BETWEEN_ATTEMPTS = 3600.0
_MOST_AGE = timedelta(days=3)
_SECONDS_AT_END = 10.0
_SECONDS_BETWEEN_LOOKS = 2.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Hook:
    """An address and the secret that signs what it is told; neither is ever shown or logged."""

    url: str = field(repr=False)
    secret: bytes = field(repr=False)

    @classmethod
    def from_environment(cls) -> Self | None:
        """Return the hook of $TUNETRAIL_HOOK_URL and $TUNETRAIL_HOOK_SECRET; None without an URL.

        Raises:
            ConfigError: The URL or the secret can't be used. The message doesn't show them.
        """
        url, secret = os.environ.get(URL_VARIABLE), os.environ.get(SECRET_VARIABLE)
        if not url:
            return None
        return cls(url=_checked_url(url), secret=_checked_secret(secret or ""))

    @property
    def shown(self) -> str:
        """The server of the address: many services have a key in the rest of it."""
        parts = urlsplit(self.url)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname}{port}"

    def signature(self, event_id: str, timestamp: int, body: bytes) -> str:
        """Return the header `webhook-signature`: HMAC-SHA256 of id, time and body, in Base64."""
        signed = f"{event_id}.{timestamp}.".encode() + body
        digest = hmac.new(self.secret, signed, hashlib.sha256).digest()
        return f"v1,{base64.b64encode(digest).decode()}"


def _checked_url(url: str) -> str:
    rule = f"{URL_VARIABLE} must be an address such as https://HOST/PATH"
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port  # raises ValueError for anything but a number
    except ValueError:
        is_address = False

    if not is_address or not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigError(f"{rule}, got something else. Check its spelling.")
    if "@" in parts.netloc:
        raise ConfigError(
            f"{rule}, got one with a user or password. Requests are signed with "
            f"${SECRET_VARIABLE} instead; remove them."
        )

    return url


def _checked_secret(secret: str) -> bytes:
    if len(secret) < _FEWEST_CHARACTERS:
        raise ConfigError(
            f"{SECRET_VARIABLE} must have at least {_FEWEST_CHARACTERS} characters, "
            f"got {len(secret)}. "
            f"Write export {SECRET_VARIABLE}=$(openssl rand -hex 32), and give it to the receiver."
        )

    if not secret.startswith(_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error as error:
        raise ConfigError(
            f"{SECRET_VARIABLE} must be Base64 after {_PREFIX}, got other characters. "
            "Copy it again."
        ) from error


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that the hook is told.

    Attributes:
        event_id: Its id, the same in each attempt.
        name: What has happened, such as `root.moved`.
        moment: When.
        data: The line of the ledger, or the training run, as plain JSON values.
    """

    event_id: str
    name: str
    moment: datetime
    data: Mapping[str, Any]

    def body(self) -> bytes:
        """Return the body of the request."""
        content = {"type": self.name, "timestamp": self.moment.isoformat(), "data": self.data}
        return json.dumps(content, allow_nan=False).encode()


def events_since(database: DatabaseManager, since: datetime) -> list[Event]:
    """Return the events of a database since a moment, oldest first."""
    decisions = map(_event_of_decision, database.promotions(since=since))
    failures = map(_event_of_failure, database.failed_training_runs(since))
    events = [event for event in (*decisions, *failures) if event is not None]
    return sorted(events, key=lambda event: event.moment)


def _event_of_decision(record: PromotionRecord) -> Event | None:
    name = _EVENTS.get(record.decision)
    if name is None or record.created_at is None:
        return None
    # With the time: another database may have a line of the same number.
    event_id = f"decision-{record.record_id}-{int(record.created_at.timestamp())}"
    return Event(event_id=event_id, name=name, moment=record.created_at, data=record.to_dict())


def _event_of_failure(run: TrainingRun) -> Event:
    data = run.to_dict()
    shown = ("run_id", "session_id", "model_type", "reason", "mlflow_run_id", "started_by")
    # A run that is resumed may fail again.
    return Event(
        event_id=f"failure-{run.run_id}-{int(run.updated_at.timestamp())}",
        name=_RUN_FAILED,
        moment=run.updated_at,
        data={name: data[name] for name in shown},
    )


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: it could lead a signed request into another network."""

    def redirect_request(self, *arguments: Any, **options: Any) -> None:
        """Return no request: the answer then counts as a failure."""
        return


def send(hook: Hook, event: Event) -> str:
    """Send an event; return what went wrong, or an empty string if the receiver has taken it."""
    body, timestamp = event.body(), int(time.time())
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "tunetrail",
        "webhook-id": event.event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": hook.signature(event.event_id, timestamp, body),
    }

    # The address has been checked: it is http or https.
    request = urllib.request.Request(hook.url, data=body, headers=headers)  # noqa: S310
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=_REQUEST_SECONDS):
            return ""

    except urllib.error.HTTPError as error:
        error.close()
        is_redirect = 300 <= error.code < 400
        return f"HTTP {error.code}{', and redirects are not followed' if is_redirect else ''}"
    # Their messages say nothing of the address.
    except urllib.error.URLError as error:
        return str(error.reason)
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__


class HookDeliveries:
    """Tells the hook of a database what has happened, again and again until it takes it.

    Args:
        database: The database.
        hook: The hook.
    """

    def __init__(self, database: DatabaseManager, hook: Hook) -> None:
        self._database, self._hook = database, hook
        # If the hook was never used before, what has happened until now isn't told.
        self._began_at = now()
        self._has_begun = False
        self._failed: set[str] = set()

    def begin(self) -> None:
        """Take note of the first use of the hook, unless that would make a database."""
        if not self._has_begun and not self._database.is_missing():
            self._began_at = self._database.hook_deliveries.begin(self._began_at)
            self._has_begun = True

    def deliver_due(self) -> list[datetime]:
        """Send the events that are due; return when each of the others is to be tried next.

        Raises:
            DatabaseError: The database can't be read or written.
        """
        self.begin()
        events = events_since(self._database, max(self._began_at, now() - _MOST_AGE))
        waiting = self._database.hook_deliveries.undelivered([event.event_id for event in events])

        later = []
        for event in events:
            if event.event_id not in waiting:
                continue
            due = waiting[event.event_id]
            if due is None or due <= now():
                due = self._attempt(event)
            if due is not None:
                later.append(due)
        return later

    def _attempt(self, event: Event) -> datetime | None:
        """Send an event if no other process does; return when it is tried next, if it has to be."""
        attempt = self._database.hook_deliveries.claim(event.event_id, _CLAIM_SECONDS)
        if attempt is None:
            return None  # another process sees to it

        problem = send(self._hook, event)
        if not problem:
            self._database.hook_deliveries.note_delivered(event.event_id)
            logger.info("the hook %s took %s", self._hook.shown, event.name)
            return None

        # Not the same time for all events: they would meet again.
        pause = min(2.0 ** (attempt - 1), _MOST_SECONDS_BETWEEN_ATTEMPTS)
        pause *= random.uniform(1.0, 1.2)
        self._database.hook_deliveries.postpone(event.event_id, pause)
        if event.event_id not in self._failed:
            self._failed.add(event.event_id)
            logger.warning(
                "the hook %s didn't take %s: %s; it is tried again for three days",
                self._hook.shown,
                event.name,
                problem,
            )
        return now() + timedelta(seconds=pause)

    def deliver(self, seconds: float) -> bool:
        """Send what has happened, and again within some seconds; return whether nothing waits."""
        until = now() + timedelta(seconds=seconds)
        while later := self.deliver_due():
            due = min(later)
            if due > until:
                logger.warning(
                    "%d events wait for the hook %s: the next tunetrail train, root or watch with "
                    "this database tries again",
                    len(later),
                    self._hook.shown,
                )
                return False
            time.sleep(max(0.0, (due - now()).total_seconds()))
        return True


@contextlib.contextmanager
def telling_hook(database: DatabaseManager) -> Iterator[None]:
    """Tell the hook, if there is one, what happens in the block; it never fails because of it.

    Raises:
        ConfigError: The hook's variables can't be used; raised before the block.
    """
    hook = Hook.from_environment()
    if hook is None:
        yield
        return

    deliveries = HookDeliveries(database, hook)
    deliveries.begin()
    try:
        yield
    # Not after a signal, when somebody waits for the end: the next process tells it.
    except Exception:
        _try_to_deliver(deliveries, hook)
        raise
    _try_to_deliver(deliveries, hook)


def _try_to_deliver(deliveries: HookDeliveries, hook: Hook) -> None:
    try:
        deliveries.deliver(_SECONDS_AT_END)
    except TunetrailError as error:
        logger.warning("the hook %s wasn't told: %s", hook.shown, error)


@contextlib.contextmanager
def telling_hook_meanwhile(database: DatabaseManager) -> Iterator[None]:
    """Tell the hook, if there is one, what any process does while the block runs."""
    hook = Hook.from_environment()
    if hook is None:
        yield
        return

    deliveries = HookDeliveries(database, hook)
    deliveries.begin()
    has_ended = threading.Event()

    def look() -> None:
        while not has_ended.wait(_SECONDS_BETWEEN_LOOKS):
            # A database that is away for a while doesn't end it.
            with contextlib.suppress(TunetrailError):
                deliveries.deliver_due()

    thread = threading.Thread(target=look, name="tunetrail-hook", daemon=True)
    thread.start()
    try:
        yield
    finally:
        has_ended.set()
        thread.join(_REQUEST_SECONDS)
