"""The MLflow store: set up when it is first used, and asked for runs and versions.

Everything goes through MlflowClient with explicit run ids, so that no global "active run" can be
left open or mixed up.
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

# Before the import of MLflow, which reads them then.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from tunetrail.config import TrackingConfig
from tunetrail.errors import UserError
from tunetrail.locks import file_lock
from tunetrail.paths import private_file, private_folder
from tunetrail.stores.processes import ProcessIdentity
from tunetrail.stores.tracked_runs import LONGEST_VALUE, TrackedRun, safe_name
from tunetrail.stores.tracking_errors import shown_uri, tracking_errors

__all__ = [
    "LONGEST_VALUE",
    "TrackedRun",
    "Tracker",
    "existing_store",
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
        # Absolute: a process that changes its folder has to stay with the same file.
        self.config = dataclasses.replace(config, uri=f"sqlite:///{file}") if file else config
        with tracking_errors(self.config.uri):
            _check_reachable(self.config.uri)
            # Of two processes that create the same store or experiment at once, one would fail.
            with self.lock("initialise"):
                if file:
                    private_file(file)
                self.activate()
                self.client = MlflowClient(
                    tracking_uri=self.config.uri, registry_uri=self.config.uri
                )
                self.experiment_id = self._ensure_experiment()
            _use_write_ahead_log(self.config.uri)

    def activate(self) -> None:
        """Make this the store of MLflow's own `load_model`, which knows one store per process."""
        mlflow.set_tracking_uri(self.config.uri)
        mlflow.set_registry_uri(self.config.uri)

    @contextlib.contextmanager
    def lock(self, purpose: str) -> Iterator[None]:
        """Hold the lock of this store for a purpose, shared by all processes of this machine.

        MLflow itself locks neither the migrations of a fresh database nor the aliases of models.
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
        """Create a run, tagged with this process so that it can be recognised after its death."""
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
        """Return a run of MLflow, or None if it doesn't exist or is in MLflow's trash."""
        with tracking_errors(self.config.uri):
            try:
                run = self.client.get_run(run_id)
            except MlflowException as error:
                # An id that can't be one of MLflow's is no run either.
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise
        return run if run.info.lifecycle_stage == "active" else None

    def children(self, run_id: str) -> list[Run]:
        """Return the runs below a run, oldest first, without deleted ones."""
        with tracking_errors(self.config.uri):
            experiment = self.client.get_run(run_id).info.experiment_id
            is_child = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run_id}'"
            runs = self.client.search_runs(
                [experiment], is_child, order_by=["start_time ASC"], max_results=BATCH
            )
        return list(runs)

    def newest_tag(self, name: str, conditions: Mapping[str, str]) -> str | None:
        """Return a tag of the newest run that has it and the given tags; None if no run has."""
        are_equal = [f"tags.`{tag}` = '{value}'" for tag, value in conditions.items()]
        query = " AND ".join([f"tags.`{name}` != ''", *are_equal])
        newest_first = ["attributes.start_time DESC"]
        with tracking_errors(self.config.uri):
            runs = self.client.search_runs(
                [self.experiment_id], query, order_by=newest_first, max_results=1
            )
        return runs[0].data.tags[name] if runs else None

    def delete_run(self, run_id: str) -> None:
        """Move a run to MLflow's trash, from which it can be restored."""
        with tracking_errors(self.config.uri):
            self.client.delete_run(run_id)

    def version_of_run(self, name: str, run_id: str) -> str | None:
        """Return the newest version of a model that a run registered, or None if there is none."""
        is_of_run = f"name = '{name}' and run_id = '{run_id}'"
        with tracking_errors(self.config.uri):
            versions = self.client.search_model_versions(is_of_run)
        # As numbers: in the order of texts, version 9 would come after version 10.
        return max((str(version.version) for version in versions), key=int, default=None)

    def mark_interrupted_runs(self) -> list[str]:
        """Mark the running runs of dead processes of this machine as interrupted (KILLED).

        Returns:
            The ids of the runs that were marked.
        """
        marked = []
        reason = "the process ended unexpectedly (killed, or out of memory)"
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

            # Only now, as marking a run changes the pages that are being read.
            for run_id in marked:
                self.run(run_id).finish("interrupted", reason)
        return marked

    def _ensure_experiment(self) -> str:
        """Return the id of the experiment, which is created if it doesn't exist."""
        name = self.config.experiment
        experiment = self.client.get_experiment_by_name(name)
        if experiment is not None:
            return str(experiment.experiment_id)

        location = None
        if sqlite_file(self.config.uri):  # a server has its own place for artifacts
            # Artifacts quote samples; everything of a run lies below this folder.
            location = private_folder(Path(self.config.artifacts).expanduser().resolve()).as_uri()
        # MLflow's pages then show what belongs to training, not to chat applications.
        tags = {"mlflow.experimentKind": "custom_model_development"}
        return str(self.client.create_experiment(name, artifact_location=location, tags=tags))


def _check_reachable(uri: str) -> None:
    """Raise `OSError` at once if the server doesn't listen; MLflow would retry for minutes."""
    url = urlsplit(uri)
    try:
        port = url.port
    except ValueError as error:
        raise OSError("its port must be a number from 0 to 65535") from error

    default_ports = {"http": 80, "https": 443, "postgresql": 5432, "postgres": 5432}
    default_port = default_ports.get(url.scheme.partition("+")[0])
    if default_port is not None and url.hostname:
        socket.create_connection((url.hostname, port or default_port), timeout=10).close()


def existing_store(tracking_uri: str) -> Tracker:
    """Return the MLflow store; raises `UserError` if it is a file that doesn't exist."""
    file = sqlite_file(tracking_uri)
    # It would be made, and then hold no runs.
    if file is not None and not file.exists():
        raise UserError(
            f"tracking_uri must name a store with runs, got {shown_uri(tracking_uri)}: there is no "
            "such file. Train first, or call it in the folder in which you trained."
        )
    return Tracker(TrackingConfig(uri=tracking_uri))


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a SQLite store, or None if the store is a server."""
    return Path(uri.removeprefix("sqlite:///")).resolve() if uri.startswith("sqlite:///") else None


def _use_write_ahead_log(uri: str) -> None:
    """Let other processes read a SQLite store while one writes; servers stay as they are."""
    file = sqlite_file(uri)
    if file is not None:
        # MLflow's pages can then read while a training writes.
        with contextlib.closing(sqlite3.connect(file, timeout=20)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")


def _is_dead(tags: Mapping[str, str]) -> bool:
    process = ProcessIdentity.from_tags(tags)
    return process is not None and process.is_dead()


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # some containers have no name for the user's id
        return "unknown"
