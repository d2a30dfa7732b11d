"""A pipeline run that has been started or reopened, and how it was chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tunetrail.config import Settings, name_of_sessions
from tunetrail.errors import UserError
from tunetrail.pipeline.general_file import GeneralFile
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.stores.database.manager import RunState
from tunetrail.stores.resumable_runs import ModelRun, ResumableRun
from tunetrail.stores.tracking.provenance import git_tags, version_tags
from tunetrail.stores.tracking.tracker import TrackedRun


@dataclass(frozen=True, kw_only=True)
class StartedRun:
    """A pipeline run that has been started or reopened.

    Attributes:
        run: The run in MLflow.
        training_run_id: The id of the training run in the database.
        session_ids: The sessions that it trains on.
        model_type: The model type of the request.
        model_runs: The families' runs by family, if it is resumed.
        general_files: The general file as each family reads it, by the family's name; nothing if
            it is resumed.
        selection: How the run was chosen among several, for the decision's sentence.
    """

    run: TrackedRun
    training_run_id: str
    session_ids: Sequence[str]
    model_type: str
    model_runs: Mapping[str, ModelRun] = field(default_factory=dict)
    general_files: Mapping[str, GeneralFile | None] = field(default_factory=dict)
    selection: str | None = None

    def is_finished(self, family: ModelFamily) -> bool:
        """Tell whether an earlier attempt has finished the family's run."""
        return family.name in self.model_runs and self.model_runs[family.name].finished

    def shares_run(self, family: ModelFamily) -> bool:
        """Tell whether the family's metrics belong to this run, next to the parameters.

        They do if no other family is asked for. Older versions started a run below it.
        """
        model_run = self.model_runs.get(family.name)
        has_child = model_run is not None and model_run.run_id != self.run.run_id
        return self.model_type == family.name and not has_child


def session_tags(session_ids: Sequence[str]) -> dict[str, str]:
    """Return the tags of a run: its sessions, and the versions and the commit that trained it."""
    sessions = {"tunetrail.session_id": name_of_sessions(session_ids)}
    return {**sessions, **version_tags(), **git_tags()}


def selection_by_hand(settings: Settings, resumable_run: ResumableRun) -> str | None:
    """Return how a sweep's job was chosen that the user resumes; None for any other run.

    Raises:
        UserError: The job has not ended yet, so that its sweep has to go on first.
    """
    sweep = settings.sweep
    if sweep.run_id is None:
        return None
    if resumable_run.training.state != RunState.FITTED:
        raise UserError(
            f"RUN_ID must be the id of a sweep for its jobs that have not ended, got job "
            f"{sweep.job} of the sweep {sweep.run_id}. Continue with tunetrail resume "
            f"{sweep.run_id}."
        )
    return f"job {sweep.job} of the sweep {sweep.run_id}, chosen by hand"
