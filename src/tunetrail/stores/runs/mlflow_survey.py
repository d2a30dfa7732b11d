"""Surveys a store through MLflow, whatever the store is."""

from dataclasses import dataclass

from tunetrail.stores.processes import ProcessIdentity
from tunetrail.stores.runs.model_references import find_version
from tunetrail.stores.runs.survey import LoggedModelFiles
from tunetrail.stores.tracking.tracker import BATCH, Tracker
from tunetrail.stores.tracking.tracking_errors import tracking_errors


@dataclass(frozen=True)
class MlflowSurvey:
    """Reads a store through MLflow; see `StoreSurvey`.

    Attributes:
        tracker: The store.
    """

    tracker: Tracker

    def running(self) -> dict[str, ProcessIdentity | None]:
        """Return the process of each running run, if it is known."""
        client = self.tracker.client
        with tracking_errors(self.tracker.config.uri):
            experiments = [experiment.experiment_id for experiment in client.search_experiments()]
            runs = client.search_runs(
                experiments, "attributes.status = 'RUNNING'", max_results=BATCH
            )
        return {run.info.run_id: ProcessIdentity.from_tags(run.data.tags) for run in runs}

    def root_version(self, name: str) -> str | None:
        """Return the version that is root, or None."""
        with tracking_errors(self.tracker.config.uri):
            version = find_version(self.tracker, f"{name}@root")
        return None if version is None else str(version.version)

    def versions(self, name: str) -> dict[str, str | None]:
        """Return the run of each version, the newest version first."""
        with tracking_errors(self.tracker.config.uri):
            versions = self.tracker.client.search_model_versions(f"name = '{name}'")
        return {str(version.version): version.run_id or None for version in versions}

    def logged_models(self) -> list[LoggedModelFiles]:
        """Return the logged models of the experiment."""
        tracker = self.tracker
        with tracking_errors(tracker.config.uri):
            models = tracker.client.search_logged_models([tracker.experiment_id])
        return [
            LoggedModelFiles(
                model_id=model.model_id,
                name=model.name,
                run_id=model.source_run_id,
                location=model.artifact_location,
            )
            for model in models
        ]
