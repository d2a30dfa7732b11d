"""What MLflow's store holds of runs, roots and versions, for whoever looks for what a crash left.

Importing MLflow takes seconds. A local store is a SQLite file, which can be read without it; MLflow
is opened for any other store, and for repairs.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tunetrail.config import TrackingConfig
from tunetrail.paths import is_missing_file
from tunetrail.stores.processes import ProcessIdentity

if TYPE_CHECKING:
    from tunetrail.stores.tracking.tracker import Tracker


@dataclass(frozen=True, kw_only=True)
class LoggedModelFiles:
    """A model that a run has logged.

    Attributes:
        model_id: Its id in MLflow.
        name: The name of the registered model that it was meant for.
        run_id: The run that logged it; None if unknown.
        location: Where its files are: a path or a URI.
    """

    model_id: str
    name: str
    run_id: str | None
    location: str


class StoreSurvey(Protocol):
    """Reads what a crash may have left in a store."""

    @property
    @abstractmethod
    def tracker(self) -> "Tracker":
        """The store, opened by MLflow."""

    @abstractmethod
    def running(self) -> dict[str, ProcessIdentity | None]:
        """Return the process of each run of any experiment that is running, if it is known."""

    @abstractmethod
    def root_version(self, name: str) -> str | None:
        """Return the version of a registered model that is root, or None."""

    @abstractmethod
    def versions(self, name: str) -> Mapping[str, str | None]:
        """Return the run of each version of a registered model, the newest version first."""

    @abstractmethod
    def logged_models(self) -> list[LoggedModelFiles]:
        """Return the logged models of the experiment."""


def open_survey(config: TrackingConfig) -> StoreSurvey | None:
    """Return the quickest survey of a store; None if it is a file that doesn't exist."""
    if is_missing_file(config.uri):
        return None

    from tunetrail.stores.runs.quick_survey import QuickSurvey

    quick = QuickSurvey.of_store(config)
    if quick is not None:
        return quick

    from tunetrail.stores.runs.mlflow_survey import MlflowSurvey
    from tunetrail.stores.tracking.tracker import Tracker

    return MlflowSurvey(Tracker(config))
