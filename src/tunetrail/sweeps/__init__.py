"""Hydra plugins: what a multirun adds to a single run."""

from tunetrail.errors import TunetrailError


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
