"""Reads runs from MLflow's SQLite file and folder without the seconds of importing MLflow."""

import datetime
import re
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from tunetrail.paths import sqlite_file
from tunetrail.quick_sqlite import open_read_only
from tunetrail.stores.runs.listed_run import ListedRun
from tunetrail.stores.runs.quick_alias import root_version_in
from tunetrail.stores.tracking.moved_stores import FOLDER_TAG
from tunetrail.stores.tracking.run_tags import SWEEP_TAG, TRAINING_RUN_TAG

NAMED_VERSION = re.compile(r"(?:models:/)?(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>[^/@]+))")
"""`embedding/3`, `models:/embedding/3` or `embedding@root`."""

# How long a lock is waited for.
_SECONDS = 20
_MOST_NAMES = 200
_PARENT = "mlflow.parentRunId"
_COLUMNS = "run_uuid, name, status, start_time, end_time, experiment_id, artifact_uri"
_ACTIVE = "lifecycle_stage = 'active'"
_OF_VERSION = "SELECT run_id FROM model_versions WHERE name = ? AND version = ?"
_OF_ALIAS = (
    "SELECT v.run_id FROM model_versions v JOIN registered_model_aliases a "
    "ON a.name = v.name AND a.version = v.version WHERE a.name = ? AND a.alias = ?"
)


class QuickRuns:
    """The runs of a local store, read-only."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    def open(cls, uri: str) -> "QuickRuns | None":
        """Return the runs of a store, or None if only MLflow itself can read it.

        Args:
            uri: The MLflow store.
        """
        file = sqlite_file(uri)
        if file is None or not file.is_file():
            return None
        try:
            runs = cls(open_read_only(file, _SECONDS))
            return runs if runs._is_readable(file.parent) else None
        # A later MLflow may keep runs in other tables.
        except sqlite3.Error:
            return None

    def _is_readable(self, folder: Path) -> bool:
        """Tell whether the artifacts are on this disk, and haven't moved with the store."""
        self._connection.execute(f"SELECT {_COLUMNS} FROM runs LIMIT 1")  # noqa: S608
        locations = self._connection.execute("SELECT artifact_location FROM experiments").fetchall()
        is_local = all(_local_path(location or "") is not None for (location,) in locations)

        statement = "SELECT value FROM experiment_tags WHERE key = ?"
        folders = self._connection.execute(statement, (FOLDER_TAG,)).fetchall()
        # MLflow's URIs follow the store when it is opened for the first time in its new folder.
        return is_local and all(stored == str(folder) for (stored,) in folders)

    def find(self, reference: str) -> list[ListedRun]:
        """Return the runs whose id begins with a text, whose name it is, or of that version."""
        match = NAMED_VERSION.fullmatch(reference)
        if match is not None:
            statement = _OF_VERSION if match["version"] else _OF_ALIAS
            names = (match["name"], match["version"] or match["alias"])
            row = self._connection.execute(statement, names).fetchone()
            run = self.run(row[0]) if row and row[0] else None
            if run is not None:
                return [run]

        condition = "(substr(run_uuid, 1, ?) = ? OR name = ?)"
        return self._runs(condition, (len(reference), reference, reference), newest_first=True)

    def run(self, run_id: str) -> ListedRun | None:
        """Return the run of an id, or None if there is none."""
        return next(iter(self._runs("run_uuid = ?", (run_id,))), None)

    def below(self, run_id: str) -> list[ListedRun]:
        """Return the runs directly below a run, the oldest first."""
        condition = "run_uuid IN (SELECT run_uuid FROM tags WHERE key = ? AND value = ?)"
        return self._runs(condition, (_PARENT, run_id))

    def running(self) -> list[ListedRun]:
        """Return the runs of all experiments that are running, the oldest first."""
        condition = (
            "status = 'RUNNING' AND experiment_id IN "
            "(SELECT experiment_id FROM experiments WHERE lifecycle_stage = 'active')"
        )
        return self._runs(condition, ())

    def names(self) -> list[str]:
        """Return the ids and the names of the newest trainings and sweeps."""
        statement = (
            f"SELECT run_uuid, name FROM runs WHERE {_ACTIVE} AND run_uuid IN "  # noqa: S608
            "(SELECT run_uuid FROM tags WHERE key IN (?, ?)) ORDER BY start_time DESC LIMIT ?"
        )
        parameters = (TRAINING_RUN_TAG, SWEEP_TAG, _MOST_NAMES)
        rows = self._connection.execute(statement, parameters).fetchall()
        return [word for row in rows for word in row]

    def root_version(self, name: str) -> str | None:
        """Return the version of a registered model that is root now, or None."""
        return root_version_in(self._connection, name)

    def select(self, statement: str, *parameters: str) -> list[tuple[Any, ...]]:
        """Return the lines that a statement selects."""
        return self._connection.execute(statement, parameters).fetchall()

    def read_text(self, run: ListedRun, artifact: str) -> str | None:
        """Return a text artifact of a run, or None if the run has none of this path."""
        path = Path(self.location(run, artifact))
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None

    def location(self, run: ListedRun, artifact: str = "") -> str:
        """Return the path of an artifact, or of the folder of all."""
        folder = _local_path(run.artifact_uri)
        assert folder is not None, run.artifact_uri
        return str(folder / artifact)

    def _runs(
        self, condition: str, parameters: Sequence[str | int], *, newest_first: bool = False
    ) -> list[ListedRun]:
        order = "DESC" if newest_first else "ASC"
        statement = (
            f"SELECT {_COLUMNS} FROM runs WHERE {_ACTIVE} AND {condition} "  # noqa: S608
            f"ORDER BY start_time {order}"
        )
        return [self._listed(row) for row in self._connection.execute(statement, parameters)]

    def _listed(self, row: tuple[str, str, str, int, int | None, int, str]) -> ListedRun:
        run_id, name, status, started, ended, experiment_id, artifact_uri = row
        tags = self._pairs("tags", run_id)
        own_tags = {key: value for key, value in tags.items() if not key.startswith("mlflow.")}
        # MLflow stores zero for NaN, a metric that was announced only.
        metrics = self._pairs("latest_metrics", run_id, "NOT is_nan")

        return ListedRun(
            run_id=run_id,
            name=name,
            started=datetime.datetime.fromtimestamp(started / 1000, datetime.UTC),
            seconds=(ended - started) / 1000 if ended else None,
            state=tags.get("tunetrail.state", status.lower()),
            parent_run_id=tags.get(_PARENT),
            experiment_id=str(experiment_id),
            artifact_uri=artifact_uri,
            params=self._pairs("params", run_id),
            metrics={metric: float(value) for metric, value in metrics.items()},
            tags=own_tags,
        )

    def _pairs(self, table: str, run_id: str, condition: str = "TRUE") -> dict[str, str]:
        statement = f"SELECT key, value FROM {table} WHERE run_uuid = ? AND {condition}"  # noqa: S608
        return dict(self._connection.execute(statement, (run_id,)).fetchall())


def _local_path(uri: str) -> Path | None:
    """Return the path that a URI of artifacts is, or None if they are on a server."""
    url = urlsplit(uri)
    return Path(url2pathname(url.path)) if url.scheme in ("", "file") else None
