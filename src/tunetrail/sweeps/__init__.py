"""Sweeps: many trainings that are compared with one another, of which only the best goes on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunetrail.config import TrainRequest
from tunetrail.config.checks import check
from tunetrail.errors import TunetrailError

# Only to check types: help and mistakes in the arguments don't wait for SQLAlchemy.
if TYPE_CHECKING:
    from tunetrail.stores.database.manager import DatabaseManager

FinishSweep = Callable[[TrainRequest, "DatabaseManager", str], None]
"""Decides about a sweep whose jobs have ended, given what its jobs share and its run's id."""


@dataclass(frozen=True)
class SweepHooks:
    """What the command line does for a sweep.

    Attributes:
        check: Returns the request of a composed configuration, or raises `ConfigError`.
        finish: Decides about a sweep whose jobs have ended; None if the command can't sweep.
        arguments: What the command was called with.
    """

    check: Callable[[Any], TrainRequest]
    finish: FinishSweep | None
    arguments: Sequence[str]


class SweepNotStarted(BaseException):
    """Ends a sweep before its first job.

    No `Exception`, since Hydra makes a warning of each one that a callback raises, and starts jobs
    of which every one would fail for the same reason.

    Args:
        error: The reason.
    """

    def __init__(self, error: TunetrailError) -> None:
        super().__init__(str(error))
        self.error = error


def check_folder(changes_folder: bool | None) -> None:
    """Raise `ConfigError` if Hydra makes its own folder the working folder of a job."""
    check(
        not changes_folder,
        "hydra.job.chdir",
        "false",
        changes_folder,
        "Relative paths begin in the folder in which tunetrail is started.",
    )
