"""The MLflow store: set up when it is first used, and asked for runs and versions.

Everything goes through MlflowClient with explicit run ids, so that no global "active run" can be
left open or mixed up.
"""

import contextlib
import dataclasses
import functools
import getpass
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

# Before the import of MLflow, which reads them then.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
# MLflow's default is seven, which take minutes for each of a run's last requests.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from tunetrail.config import TrackingConfig
from tunetrail.errors import UserError
from tunetrail.paths import is_missing_file, private_file, sqlite_file
from tunetrail.stores.processes import ProcessIdentity
from tunetrail.stores.spools import Report
from tunetrail.stores.tracking.experiments import ensure_experiment
from tunetrail.stores.tracking.metric_writer import MetricSender, MetricWriter, deliver_leftovers
from tunetrail.stores.tracking.mlflow_answers import says_absent
from tunetrail.stores.tracking.moved_stores import follow_moved_store
from tunetrail.stores.tracking.tracked_runs import LONGEST_VALUE, TrackedRun, safe_name
from tunetrail.stores.tracking.tracking_errors import shown_uri, tracking_errors
from tunetrail.stores.tracking.tracking_store import (
    absolute_uri,
    check_answers,
    store_lock,
    use_write_ahead_log,
    wait_until_answers,
    warn_of_unused_variables,
)

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
# MLflow's variables for the last requests of a run that has failed or was stopped.
_HURRIED = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
_FLUSH_SECONDS = 20.0
_activated_uris: set[str] = set()


class Tracker:
    """One MLflow store and experiment.

    Args:
        config: The store's URI, the folder for artifacts and the experiment's name.
        spool: Folder for metrics that MLflow doesn't have yet, see `MetricWriter`; without it, each
            report is one request.

    Raises:
        ConfigError: MLflow can't open such a path.
        TrackingError: The store can't be reached, created or written.
    """

    def __init__(self, config: TrackingConfig, spool: Path | None = None) -> None:
        # Absolute: a process that changes its folder has to stay with the same file.
        self.config = dataclasses.replace(config, uri=absolute_uri(config.uri))
        self._patience = float(self.config.patience_seconds)
        uri, file = self.config.uri, sqlite_file(self.config.uri)
        warn_of_unused_variables(self.config, _activated_uris)

        with tracking_errors(uri):
            check_answers(uri)
            # Of two processes that create the same store at once, one would fail.
            with store_lock(uri, "initialise"):
                if file:
                    private_file(file)
                    follow_moved_store(file)
                self.activate()
                self.client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            use_write_ahead_log(uri)

        self._sender = MetricSender(self.client)
        self._writer: MetricWriter | None = None
        if spool is not None:
            deliver_leftovers(self.client, uri, spool)
            self._writer = MetricWriter(self._sender, uri, spool)

    def activate(self) -> None:
        """Make this the store of MLflow's own `load_model`, which knows one store per process."""
        mlflow.set_tracking_uri(self.config.uri)
        mlflow.set_registry_uri(self.config.uri)
        # MLflow sets the variable itself, which is then not the user's.
        _activated_uris.add(self.config.uri)

    @functools.cached_property
    def experiment_id(self) -> str:
        """The id of the experiment, which is made at its first use: readers make none."""
        with tracking_errors(self.config.uri), store_lock(self.config.uri, "initialise"):
            return ensure_experiment(self.client, self.config)

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """Ask MLflow for something in the block, after delivering the metrics from before.

        A server that has stopped answering is waited for, as long as `tracking.patience_seconds`.

        Raises:
            TrackingError: MLflow can't do it, or the server is still away.
        """
        with tracking_errors(self.config.uri):
            wait_until_answers(self.config.uri, self._patience)
            if self._writer is not None:
                self._writer.flush(_FLUSH_SECONDS)
            yield

    def write_metrics(self, report: Report) -> None:
        """Write metrics, by a thread if the store was opened with a spool."""
        if self._writer is not None:
            self._writer.write(report)
            return
        with self.request():
            self._sender.send([report])

    @contextlib.contextmanager
    def in_a_hurry(self) -> Iterator[None]:
        """Wait for nothing in the block, and try only once: the process is ending."""
        patience, self._patience = self._patience, 0.0
        previous = {name: os.environ.get(name) for name in _HURRIED}
        os.environ.update(_HURRIED)
        try:
            yield
        finally:
            self._patience = patience
            for name, value in previous.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    def report_undelivered(self) -> None:
        """Say where metrics are that MLflow doesn't have at the end of a run."""
        if self._writer is not None:
            self._writer.report_undelivered()

    @contextlib.contextmanager
    def lock(self, purpose: str) -> Iterator[None]:
        """Hold the lock of this store for a purpose; see `store_lock`."""
        with store_lock(self.config.uri, purpose):
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
        run = self.find_run_or_trash(run_id)
        return run if run is not None and run.info.lifecycle_stage == "active" else None

    def find_run_or_trash(self, run_id: str) -> Run | None:
        """Return a run of MLflow, also one in its trash; None if it doesn't exist."""
        with tracking_errors(self.config.uri):
            try:
                return self.client.get_run(run_id)
            except MlflowException as error:
                if says_absent(error):
                    return None
                raise

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


def existing_store(tracking_uri: str) -> Tracker:
    """Return the MLflow store; raises `UserError` if it is a file that doesn't exist."""
    # It would be made, and then hold no runs.
    if is_missing_file(tracking_uri):
        raise UserError(
            f"tracking_uri must name a store with runs, got {shown_uri(tracking_uri)}: there is no "
            "such file. Train first, or call it in the folder in which you trained."
        )
    return Tracker(TrackingConfig(uri=tracking_uri))


def tracker_if_present(tracking_uri: str) -> Tracker | None:
    """Return the MLflow store; None if it is a file that doesn't exist, which isn't made."""
    if is_missing_file(tracking_uri):
        return None
    return Tracker(TrackingConfig(uri=tracking_uri))


def _is_dead(tags: Mapping[str, str]) -> bool:
    process = ProcessIdentity.from_tags(tags)
    return process is not None and process.is_dead()


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # some containers have no name for the user's id
        return "unknown"
