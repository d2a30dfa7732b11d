"""The one writer to MLflow: runs, parameters, metrics in batches, artifacts; and a store that is ready when needed.

Everything goes through MlflowClient with explicit run ids, so no global "active run" can be left open or mixed up.
"""

import contextlib
import dataclasses
import getpass
import hashlib
import os
import socket
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from tunetrail.config import TrackingConfig
from tunetrail.locks import file_lock
from tunetrail.stores.processes import ProcessIdentity
from tunetrail.stores.tracked_runs import LONGEST_VALUE, TrackedRun, safe_name
from tunetrail.stores.tracking_errors import shown_uri, tracking_errors

__all__ = [
    "LONGEST_VALUE",
    "TrackedRun",
    "Tracker",
    "safe_name",
    "shown_uri",
    "sqlite_file",
    "tracking_errors",
]

BATCH = 1000


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
                self.client = MlflowClient(
                    tracking_uri=self.config.uri, registry_uri=self.config.uri
                )
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
        all_tags = {
            **ProcessIdentity.current().to_tags(),
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

    def find_run(self, run_id: str) -> Run | None:
        """Return what MLflow holds of a run, None where it has none of that id or has it in its trash."""
        with tracking_errors(self.config.uri):
            try:
                found = self.client.get_run(run_id)
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise
        return found if found.info.lifecycle_stage == "active" else None

    def children(self, run_id: str) -> list[Run]:
        """Return the runs below a run, the oldest first, deleted ones left out."""
        with tracking_errors(self.config.uri):
            experiment = self.client.get_run(run_id).info.experiment_id
            below = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run_id}'"
            return list(
                self.client.search_runs(
                    [experiment], below, order_by=["start_time ASC"], max_results=BATCH
                )
            )

    def delete_run(self, run_id: str) -> None:
        """Put a run into MLflow's trash, from which it can be brought back."""
        with tracking_errors(self.config.uri):
            self.client.delete_run(run_id)

    def version_of_run(self, name: str, run_id: str) -> str | None:
        """Return the newest version that a run registered under a model's name, None where it registered none."""
        with tracking_errors(self.config.uri):
            found = self.client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
        return max((str(each.version) for each in found), key=int, default=None)

    def mark_interrupted_runs(self) -> list[str]:
        """Mark every running run whose process has died on this machine as interrupted (KILLED); return their ids."""
        marked = []
        with tracking_errors(self.config.uri):
            token: str | None = None
            while True:
                page = self.client.search_runs(
                    [self.experiment_id],
                    "attributes.status = 'RUNNING'",
                    max_results=BATCH,
                    page_token=token,
                )
                for run in page:
                    if _is_dead(run.data.tags):
                        marked.append(run.info.run_id)
                token = page.token
                if not token:
                    break
            for run_id in marked:
                self.run(run_id).finish(
                    "interrupted", "the process died without a word (killed, or out of memory)"
                )
        return marked

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.config.experiment)
        if found is not None:
            return str(found.experiment_id)
        local = sqlite_file(self.config.uri) is not None
        location = Path(self.config.artifacts).expanduser().resolve().as_uri() if local else None
        # the pages then show what belongs to training, not to chat applications
        tags = {"mlflow.experimentKind": "custom_model_development"}
        return str(
            self.client.create_experiment(
                self.config.experiment, artifact_location=location, tags=tags
            )
        )


def _check_reachable(uri: str) -> None:
    """Raise `OSError` at once where nothing listens; MLflow itself would try again for minutes."""
    parts = urlsplit(uri)
    try:
        port = parts.port
    except ValueError as error:
        raise OSError("its port must be a number from 0 to 65535") from error
    default = {"http": 80, "https": 443, "postgresql": 5432, "postgres": 5432}.get(
        parts.scheme.partition("+")[0]
    )
    if default is not None and parts.hostname:
        with socket.create_connection((parts.hostname, port or default), timeout=10):
            pass


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a SQLite store, None for a server."""
    return Path(uri.removeprefix("sqlite:///")).resolve() if uri.startswith("sqlite:///") else None


def _write_ahead(uri: str) -> None:
    file = sqlite_file(uri)
    if file is not None:
        with contextlib.closing(sqlite3.connect(file, timeout=20)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")


def _is_dead(tags: Mapping[str, str]) -> bool:
    process = ProcessIdentity.from_tags(tags)
    return process is not None and process.is_dead()


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no name for this user id, as in some containers
        return "unknown"
