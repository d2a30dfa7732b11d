"""Surveys MLflow's SQLite file without the seconds of importing MLflow."""

import functools
import sqlite3
from typing import TYPE_CHECKING

from tunetrail.config import TrackingConfig
from tunetrail.stores.processes import ProcessIdentity
from tunetrail.stores.runs.quick_runs import QuickRuns
from tunetrail.stores.runs.survey import LoggedModelFiles

if TYPE_CHECKING:
    from tunetrail.stores.tracking.tracker import Tracker

_VERSIONS = (
    "SELECT version, run_id FROM model_versions "
    "WHERE name = ? AND coalesce(current_stage, '') <> 'Deleted_Internal' ORDER BY version DESC"
)
_MODELS = (
    "SELECT model_id, name, source_run_id, artifact_location FROM logged_models "
    "WHERE lifecycle_stage = 'active' AND experiment_id IN "
    "(SELECT experiment_id FROM experiments WHERE name = ?)"
)


class QuickSurvey:
    """Reads a local store; see `StoreSurvey`.

    Args:
        runs: The runs of the store.
        config: Where the store is.
    """

    def __init__(self, runs: QuickRuns, config: TrackingConfig) -> None:
        self._runs, self._config = runs, config

    @classmethod
    def of_store(cls, config: TrackingConfig) -> "QuickSurvey | None":
        """Return the survey of a store, or None if only MLflow itself can read it."""
        runs = QuickRuns.open(config.uri)
        if runs is None:
            return None
        survey = cls(runs, config)
        try:
            survey.versions("")
            survey.logged_models()
        # A later MLflow may keep them in other tables.
        except sqlite3.Error:
            return None
        return survey

    @functools.cached_property
    def tracker(self) -> "Tracker":
        """The store, opened by MLflow at the first repair."""
        from tunetrail.stores.tracking.tracker import Tracker

        return Tracker(self._config)

    def running(self) -> dict[str, ProcessIdentity | None]:
        """Return the process of each running run, if it is known."""
        return {run.run_id: ProcessIdentity.from_tags(run.tags) for run in self._runs.running()}

    def root_version(self, name: str) -> str | None:
        """Return the version that is root, or None."""
        return self._runs.root_version(name)

    def versions(self, name: str) -> dict[str, str | None]:
        """Return the run of each version, the newest version first."""
        rows = self._runs.select(_VERSIONS, name)
        return {str(version): run_id or None for version, run_id in rows}

    def logged_models(self) -> list[LoggedModelFiles]:
        """Return the logged models of the experiment."""
        return [
            LoggedModelFiles(model_id=model_id, name=name, run_id=run_id, location=location)
            for model_id, name, run_id, location in self._runs.select(
                _MODELS, self._config.experiment
            )
        ]
