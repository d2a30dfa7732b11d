"""Where a run that a user names is found, with its results: in MLflow, or quicker in its file.

Importing MLflow takes seconds. A local store is a SQLite file with a folder of artifacts, which can
be read without it; whatever else a store is, MLflow is asked.
"""

from abc import abstractmethod
from typing import Protocol

from tunetrail.stores.runs.listed_run import ListedRun
from tunetrail.stores.tracking.run_tags import SWEEP_TAG, TRAINING_RUN_TAG


class RunReader(Protocol):
    """Reads runs and their artifacts from a store."""

    @abstractmethod
    def find(self, reference: str) -> list[ListedRun]:
        """Return the runs whose id begins with a text, whose name it is, or of that version.

        The newest run is the first.
        """

    @abstractmethod
    def run(self, run_id: str) -> ListedRun | None:
        """Return the run of an id, or None if there is none."""

    @abstractmethod
    def below(self, run_id: str) -> list[ListedRun]:
        """Return the runs directly below a run, the oldest first."""

    @abstractmethod
    def names(self) -> list[str]:
        """Return the ids and the names of the newest trainings and sweeps."""

    @abstractmethod
    def root_version(self, name: str) -> str | None:
        """Return the version of a registered model that is root now, or None."""

    @abstractmethod
    def read_text(self, run: ListedRun, artifact: str) -> str | None:
        """Return a text artifact of a run, or None if the run has none of this path."""

    @abstractmethod
    def location(self, run: ListedRun, artifact: str = "") -> str:
        """Return where a person finds an artifact, or the folder of all: a path or an address."""


def open_reader(uri: str) -> RunReader:
    """Return the quickest reader of a store.

    Raises:
        UserError: The store is a file that doesn't exist.
    """
    from tunetrail.stores.runs.quick_runs import QuickRuns

    quick = QuickRuns.open(uri)
    if quick is not None:
        return quick

    from tunetrail.stores.runs.mlflow_runs import MlflowRuns
    from tunetrail.stores.tracking.tracker import existing_store

    return MlflowRuns(existing_store(uri))


def is_training_or_sweep(run: ListedRun) -> bool:
    """Tell whether a run is a whole training or a sweep, not one below a training."""
    return TRAINING_RUN_TAG in run.tags or SWEEP_TAG in run.tags
