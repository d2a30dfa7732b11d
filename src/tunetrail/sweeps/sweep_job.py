"""A job of a sweep, as its study knows it."""

from dataclasses import dataclass
from enum import StrEnum


class JobState(StrEnum):
    """The state of a job."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    PRUNED = "pruned"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class SweepJob:
    """A job as the study knows it.

    Attributes:
        number: The number within the sweep, from 0.
        overrides: What distinguishes it from the other jobs, as on the command line.
        state: The state. A job whose process died is `running` until the sweep is resumed.
        values: The objectives' values if it finished, in the order of the objectives.
        interval: The 95 % interval of the first objective, if there is one.
        mlflow_run_id: The id of its run in MLflow, once it has one.
        reason: Why it was pruned or failed.
        seconds: How long it took, if it ended.
        steps: The optimizer steps that it trained, if it ended.
    """

    number: int
    overrides: tuple[str, ...]
    state: JobState
    values: tuple[float, ...] | None
    interval: tuple[float, float] | None
    mlflow_run_id: str | None
    reason: str | None
    seconds: float | None
    steps: int | None

    @property
    def has_ended(self) -> bool:
        """Whether nothing is left to do for the job."""
        return self.state not in (JobState.WAITING, JobState.RUNNING)
