"""Reads runs through MLflow: from a server, a store that has moved, or artifacts elsewhere."""

from tunetrail.errors import TrackingError
from tunetrail.stores.runs.listed_run import ListedRun
from tunetrail.stores.runs.model_references import find_version
from tunetrail.stores.runs.run_list import listed_run
from tunetrail.stores.runs.shown_runs import is_training_or_sweep
from tunetrail.stores.tracking.tracker import BATCH, Tracker

_NEWEST_FIRST = ["attributes.start_time DESC"]
_MOST_NAMES = 200


class MlflowRuns:
    """The runs of any store."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def find(self, reference: str) -> list[ListedRun]:
        """Return the runs whose id begins with a text, whose name it is, or of that version."""
        with self._tracker.request():
            version = find_version(self._tracker, reference)
        run = self.run(version.run_id) if version is not None and version.run_id else None
        if run is not None:
            return [run]

        # MLflow's filters can't escape these; an underscore is any character for LIKE.
        if {"'", "%"} & set(reference):
            return []
        beginning = self._search(f"attributes.run_id LIKE '{reference}%'")
        of_id = [run for run in beginning if run.run_id.startswith(reference)]
        return of_id or self._search(f"attributes.run_name = '{reference}'")

    def run(self, run_id: str) -> ListedRun | None:
        """Return the run of an id, or None if there is none."""
        with self._tracker.request():
            run = self._tracker.find_run(run_id)
        return None if run is None else listed_run(run)

    def below(self, run_id: str) -> list[ListedRun]:
        """Return the runs directly below a run, the oldest first."""
        with self._tracker.request():
            runs = [listed_run(run) for run in self._tracker.children(run_id)]
        return sorted(runs, key=lambda run: run.started)

    def names(self) -> list[str]:
        """Return the ids and the names of the newest trainings and sweeps."""
        runs = list(filter(is_training_or_sweep, self._search("")))[:_MOST_NAMES]
        return [word for run in runs for word in (run.run_id, run.name)]

    def root_version(self, name: str) -> str | None:
        """Return the version of a registered model that is root now, or None."""
        with self._tracker.request():
            version = find_version(self._tracker, f"{name}@root")
        return None if version is None else str(version.version)

    def read_text(self, run: ListedRun, artifact: str) -> str | None:
        """Return a text artifact of a run, or None if the run has none of this path."""
        tracked = self._tracker.run(run.run_id)
        folder = artifact.rpartition("/")[0]
        try:
            return tracked.read_text(artifact) if artifact in tracked.artifacts(folder) else None
        # What the artifacts would add isn't worth the rest of the answer.
        except TrackingError:
            return None

    def location(self, run: ListedRun, artifact: str = "") -> str:
        """Return where a person finds an artifact, or the folder of all: a path or an address."""
        return self._tracker.run(run.run_id).artifact_location(artifact)

    def _search(self, condition: str) -> list[ListedRun]:
        client = self._tracker.client
        with self._tracker.request():
            experiments = [experiment.experiment_id for experiment in client.search_experiments()]
            runs = client.search_runs(
                experiments, condition, order_by=_NEWEST_FIRST, max_results=BATCH
            )
        return [listed_run(run) for run in runs]
