"""`hydra/launcher=joblib`: the jobs of a sweep from joblib's pool of processes."""

from collections.abc import Sequence
from typing import Any

from tunetrail.errors import ConfigError
from tunetrail.sweeps.launchers.base import JobLauncher
from tunetrail.sweeps.launchers.jobs import Job, JobEnd, run_in_process

# Settings that hydra-joblib-launcher declares as texts and joblib takes as whole numbers, too.
_INTEGERS = ("pre_dispatch", "batch_size", "max_nbytes")


class JoblibLauncher(JobLauncher):
    """Starts each job from a process of joblib's pool, which divides the CPU threads.

    Args:
        settings: The settings of hydra-joblib-launcher, which are `joblib.Parallel`'s.
    """

    def __init__(self, **settings: Any) -> None:
        # Jobs can't be started from threads: Ctrl-C comes to the main thread only.
        self._settings = settings | {"backend": "loky"}

    def check(self) -> None:
        """Raise `ConfigError` if there would be no process."""
        if self._settings.get("n_jobs") == 0:
            raise ConfigError(
                "hydra.launcher.n_jobs must be at least 1, or -1 for one per core, got 0. "
                "Leave it out for one per core."
            )
        for name in _INTEGERS:
            if str(self._settings.get(name)).isdecimal():
                self._settings[name] = int(self._settings[name])

    @property
    def slots(self) -> int:
        """How many jobs run at the same time."""
        from joblib import effective_n_jobs

        return int(effective_n_jobs(self._settings.get("n_jobs")))

    def run_jobs(self, jobs: Sequence[Job]) -> list[JobEnd]:
        """Do all jobs; the failure or death of one doesn't stop the others."""
        from joblib import Parallel, delayed

        # Jobs are told of in their order, as soon as their predecessors have ended.
        pool = Parallel(**self._settings, return_as="generator")
        ends = []
        for job, end in zip(jobs, pool(map(delayed(run_in_process), jobs)), strict=True):
            self.end_job(job, end)
            ends.append(end)
        return ends
