"""The one writer to MLflow: runs, parameters, metrics in batches, artifacts; and a store that is ready when needed.

Everything goes through MlflowClient with explicit run ids, so no global "active run" can be left open or mixed up.
"""

import contextlib
import dataclasses
import getpass
import hashlib
import io
import logging
import math
import os
import re
import socket
import sqlite3
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from sqlalchemy.exc import SQLAlchemyError

from tunetrail.config import TrackingConfig
from tunetrail.errors import TrackingError, state_after
from tunetrail.locks import file_lock
from tunetrail.stores.processes import ProcessIdentity

BATCH = 1000
LONGEST_VALUE = 5000
_UNSAFE = re.compile(r"[^A-Za-z0-9_\-. :/]")
_FINISHED = {"succeeded": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


class Tracker:
    """One MLflow store and experiment.

    Args:
        config: The store's URI, the folder for artifacts and the experiment's name.

    Raises:
        TrackingError: The store can't be reached, created or written.
    """

    def __init__(self, config: TrackingConfig) -> None:
        file = sqlite_file(config.uri)
        # absolute, or a process that changes its folder would go on in another file
        self.config = dataclasses.replace(config, uri=f"sqlite:///{file}") if file else config
        with tracking_errors(self.config.uri):
            _check_reachable(self.config.uri)
            with self.lock("initialise"):
                self.activate()
                self.client = MlflowClient(tracking_uri=self.config.uri, registry_uri=self.config.uri)
                self.experiment_id = self._experiment()
            _write_ahead(self.config.uri)

    def activate(self) -> None:
        """Make this the store in which MLflow's own `load_model` looks; it knows one at a time in a process."""
        mlflow.set_tracking_uri(self.config.uri)
        mlflow.set_registry_uri(self.config.uri)

    @contextlib.contextmanager
    def lock(self, purpose: str) -> Iterator[None]:
        """Hold a lock that all processes on this machine share for this store and purpose.

        MLflow has neither a lock around a fresh database's migrations nor a compare-and-swap for aliases.
        """
        file = sqlite_file(self.config.uri)
        folder = file.parent if file else Path(tempfile.gettempdir())
        store = hashlib.sha256(self.config.uri.encode()).hexdigest()[:16]
        name = file.name if file else f"tunetrail-{os.getuid()}-{store}"
        with file_lock(folder / f".{name}.{purpose}.lock"):
            yield

    def start_run(
        self, name: str, *, parent_run_id: str | None = None, tags: Mapping[str, str] | None = None
    ) -> "TrackedRun":
        """Create a run that is marked with this process, so that a run whose process has died can be told."""
        process = ProcessIdentity.current()
        all_tags = {
            "tunetrail.pid": str(process.pid),
            "tunetrail.host": process.host,
            "tunetrail.process_started": repr(process.started),
            "mlflow.source.name": "tunetrail",
            "mlflow.user": _user(),
            **(tags or {}),
        }
        if parent_run_id:
            all_tags[MLFLOW_PARENT_RUN_ID] = parent_run_id
        with tracking_errors(self.config.uri):
            run = self.client.create_run(self.experiment_id, run_name=name, tags=all_tags)
        return TrackedRun(self, run.info.run_id)

    def run(self, run_id: str) -> "TrackedRun":
        """Return an existing run."""
        return TrackedRun(self, run_id)

    def mark_interrupted_runs(self) -> list[str]:
        """Mark every running run whose process has died on this machine as interrupted (KILLED); return their ids."""
        marked = []
        with tracking_errors(self.config.uri):
            token: str | None = None
            while True:
                page = self.client.search_runs(
                    [self.experiment_id], "attributes.status = 'RUNNING'", max_results=BATCH, page_token=token
                )
                for run in page:
                    if _is_dead(run.data.tags):
                        marked.append(run.info.run_id)
                token = page.token
                if not token:
                    break
            for run_id in marked:
                self.run(run_id).finish("interrupted", "the process died without a word (killed, or out of memory)")
        return marked

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.config.experiment)
        if found is not None:
            return str(found.experiment_id)
        local = sqlite_file(self.config.uri) is not None
        location = Path(self.config.artifacts).expanduser().resolve().as_uri() if local else None
        # the pages then show what belongs to training, not to chat applications
        tags = {"mlflow.experimentKind": "custom_model_development"}
        return str(self.client.create_experiment(self.config.experiment, artifact_location=location, tags=tags))


class TrackedRun:
    """One run of an MLflow store, written to by id."""

    def __init__(self, tracker: Tracker, run_id: str) -> None:
        self.tracker = tracker
        self.run_id = run_id

    def child(self, name: str, tags: Mapping[str, str] | None = None) -> "TrackedRun":
        """Start a run below this one."""
        return self.tracker.start_run(name, parent_run_id=self.run_id, tags=tags)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters; a value too long for MLflow is shortened with a mark."""
        entries = [Param(safe_name(name), _shortened(str(value))) for name, value in params.items()]
        self._log_batch(params=entries)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags."""
        self._log_batch(tags=[RunTag(safe_name(name), _shortened(str(value))) for name, value in tags.items()])

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log metrics of one step; values that aren't finite are left out, as MLflow would store them as numbers."""
        now = int(time.time() * 1000)
        entries = [
            Metric(safe_name(name), float(value), now, step) for name, value in metrics.items() if math.isfinite(value)
        ]
        self._log_batch(metrics=entries)

    def log_dict(self, content: Mapping[str, Any], file: str) -> None:
        """Store a dict as a JSON or YAML artifact."""
        with tracking_errors(self.tracker.config.uri):
            self.tracker.client.log_dict(self.run_id, dict(content), file)

    def log_text(self, text: str, file: str) -> None:
        """Store a text artifact."""
        with tracking_errors(self.tracker.config.uri):
            self.tracker.client.log_text(self.run_id, text, file)

    def log_figure(self, figure: Any, file: str) -> None:
        """Store a matplotlib figure as an artifact."""
        with tracking_errors(self.tracker.config.uri):
            self.tracker.client.log_figure(self.run_id, figure, file)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Store a file as an artifact."""
        with tracking_errors(self.tracker.config.uri):
            self.tracker.client.log_artifact(self.run_id, str(path), folder)

    def log_input(self, name: str, digest: str, context: str, rows: int) -> None:
        """Name the rows that this run read: their digest, their number, and what for (training, validation, test)."""
        dataset = Dataset(
            name=name,
            digest=digest[:36],
            source_type="tunetrail",
            source=f'{{"session": "{name}"}}',
            profile=f'{{"num_rows": {rows}}}',
        )
        with tracking_errors(self.tracker.config.uri):
            self.tracker.client.log_inputs(
                self.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])]
            )

    def finish(self, state: str, reason: str | None = None) -> None:
        """End the run as `succeeded`, `failed` or `interrupted`, with the reason as a tag."""
        self.set_tags({"tunetrail.state": state, **({"tunetrail.reason": reason} if reason else {})})
        with tracking_errors(self.tracker.config.uri):
            self.tracker.client.set_terminated(self.run_id, _FINISHED[state])

    @contextlib.contextmanager
    def ending(self) -> Iterator["TrackedRun"]:
        """End the run when the block ends: succeeded, failed by an exception, or interrupted by a signal.

        What tunetrail logged meanwhile becomes the artifact log.txt, an error's traceback included.
        """
        with _captured_log() as log:
            try:
                yield self
            except BaseException as error:
                self._finish_after(error, log)
                raise
            self._keep_log(log)
            self.finish("succeeded")

    def _finish_after(self, error: BaseException, log: io.StringIO) -> None:
        """End the run without hiding the error that ended it, even where MLflow is what failed."""
        state, reason = state_after(error)
        try:
            self.finish(state, reason)
            log.writelines(traceback.format_exception(error))
            self._keep_log(log)
        except TrackingError as second:
            error.add_note(f"The run {self.run_id} could not be marked as {state}: {second}")

    def _keep_log(self, log: io.StringIO) -> None:
        if log.getvalue():
            self.log_text(log.getvalue(), "log.txt")

    def _log_batch(
        self, params: Sequence[Param] = (), metrics: Sequence[Metric] = (), tags: Sequence[RunTag] = ()
    ) -> None:
        with tracking_errors(self.tracker.config.uri):
            for start in range(0, max(len(params), len(metrics), len(tags)), 100):
                part = slice(start, start + 100)
                self.tracker.client.log_batch(self.run_id, params=params[part], metrics=metrics[part], tags=tags[part])


@contextlib.contextmanager
def _captured_log() -> Iterator[io.StringIO]:
    """Collect what tunetrail's loggers say."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setLevel(logging.INFO)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("tunetrail")
    logger.addHandler(handler)
    try:
        yield text
    finally:
        logger.removeHandler(handler)


@contextlib.contextmanager
def tracking_errors(uri: str) -> Iterator[None]:
    """Turn MLflow's, SQLAlchemy's and the system's errors into a TrackingError of one line without a password."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        lines = str(getattr(error, "orig", None) or error).strip().splitlines()
        reason = shown_uri(lines[0] if lines else type(error).__name__)
        raise TrackingError(f"MLflow store {shown_uri(uri)} failed: {reason}") from error


def shown_uri(text: str) -> str:
    """Return a URI, or a text with URIs in it, without their passwords."""

    def hidden(found: re.Match[str]) -> str:
        user, colon, _ = found[1].partition(":")
        return f"://{user}:***@" if colon else "://***@"

    without = re.sub(r"://([^\s'\"]*)@", hidden, text)
    return re.sub(r"([?&][^=&\s]*(?:password|token|secret)[^=&\s]*=)[^&\s]*", r"\1***", without, flags=re.IGNORECASE)


def _check_reachable(uri: str) -> None:
    """Raise `OSError` at once where nothing listens; MLflow itself would try again for minutes."""
    parts = urlsplit(uri)
    try:
        port = parts.port
    except ValueError as error:
        raise OSError("its port must be a number from 0 to 65535") from error
    default = {"http": 80, "https": 443, "postgresql": 5432, "postgres": 5432}.get(parts.scheme.partition("+")[0])
    if default is not None and parts.hostname:
        with socket.create_connection((parts.hostname, port or default), timeout=10):
            pass


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a SQLite store, None for a server."""
    return Path(uri.removeprefix("sqlite:///")).resolve() if uri.startswith("sqlite:///") else None


def safe_name(name: str) -> str:
    """Return `name` with the characters that MLflow refuses replaced by `_`."""
    return _UNSAFE.sub("_", name)


def _write_ahead(uri: str) -> None:
    file = sqlite_file(uri)
    if file is not None:
        with contextlib.closing(sqlite3.connect(file, timeout=20)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 20]}… ({len(text)} characters)"


def _is_dead(tags: Mapping[str, str]) -> bool:
    try:
        process = ProcessIdentity(
            pid=int(tags["tunetrail.pid"]),
            host=tags["tunetrail.host"],
            started=float(tags["tunetrail.process_started"]),
        )
    except (KeyError, ValueError):
        return False
    return process.is_dead()


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no name for this user id, as in some containers
        return "unknown"
