"""`hydra/launcher=submitit_slurm` and `submitit_local`: the jobs of a sweep through submitit.

The settings are the ones of hydra-submitit-launcher: partition, time, memory and so on.
"""

import contextlib
import logging
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from tunetrail.errors import ConfigError, one_line
from tunetrail.paths import private_folder
from tunetrail.sweeps.launchers.base import JobLauncher
from tunetrail.sweeps.launchers.jobs import Job, JobEnd, run_in_process

logger = logging.getLogger(__name__)

_FOLDER = "submitit_folder"
_TIMEOUTS = "max_num_timeout"


class SubmititLauncher(JobLauncher):
    """Hands all jobs to submitit, and waits for them.

    Args:
        settings: The settings of hydra-submitit-launcher.
    """

    cluster = ""

    def __init__(self, **settings: Any) -> None:
        self._settings: dict[str, Any] = {}
        for name, value in settings.items():
            is_nested = OmegaConf.is_config(value)
            self._settings[name] = OmegaConf.to_container(value) if is_nested else value

    def check(self) -> None:
        """Raise `ConfigError` if one job would be several processes that all train the same."""
        for name in ("tasks_per_node", "nodes"):
            if self._settings.get(name, 1) != 1:
                raise ConfigError(
                    f"hydra.launcher.{name} must be 1, got {self._settings[name]}: a job of a "
                    "sweep is one task on one node, which starts its ranks itself. Leave it out."
                )

    @property
    def slots(self) -> int:
        """How many jobs run at the same time, if the cluster has room for them."""
        return int(self._settings.get("array_parallelism", sys.maxsize))

    def run_jobs(self, jobs: Sequence[Job]) -> list[JobEnd]:
        """Do all jobs; the failure or death of one doesn't stop the others.

        If this process is asked to stop, the jobs are cancelled: they save and end.
        """
        submitted = self._executor().map_array(run_in_process, jobs)
        logger.info("%d jobs are submitted (submitit, %s)", len(jobs), self.cluster)

        try:
            ends = []
            for job, handle in zip(jobs, submitted, strict=True):
                ends.append(_end_of(handle))
                self.end_job(job, ends[-1])
            return ends
        except BaseException:
            for handle in submitted:
                handle.cancel(check=False)
            raise
        finally:
            # It holds the configuration with the passwords of the stores.
            for handle in submitted:
                handle.paths.submitted_pickle.unlink(missing_ok=True)

    def _executor(self) -> Any:
        """Return submitit's executor; its files are in a folder that only this user can read."""
        import submitit
        from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

        # `%j` is the job's id: submitit makes that folder, below a private one.
        folder = Path(str(self._settings[_FOLDER]))
        private_folder(Path(str(folder).partition("%")[0]))
        options: dict[str, Any] = {"folder": str(folder)}
        if _TIMEOUTS in self._settings:
            options[f"{self.cluster}_{_TIMEOUTS}"] = self._settings[_TIMEOUTS]
        executor = submitit.AutoExecutor(cluster=self.cluster, **options)

        # submitit takes the settings that only one kind of cluster knows by its name.
        common = {field.name for field in fields(BaseQueueConf)}
        parameters = {}
        for name, value in self._settings.items():
            if name not in (_FOLDER, _TIMEOUTS):
                parameters[name if name in common else f"{self.cluster}_{name}"] = value
        executor.update_parameters(**parameters)
        return executor


class SubmititLocalLauncher(SubmititLauncher):
    """Runs all jobs at once on this machine, to try out what SLURM would do."""

    cluster = "local"


class SubmititSlurmLauncher(SubmititLauncher):
    """Runs the jobs on a SLURM cluster, as an array."""

    cluster = "slurm"
    # They are on other machines: if this process is killed, they go on and tell the study.
    ends_jobs = False


def _end_of(handle: Any) -> JobEnd:
    """Return how a submitted job has ended, after waiting for it."""
    try:
        end: JobEnd = handle.result()
    except Exception as error:
        # The cluster has killed it, for its time or its memory, or lost its machine.
        return JobEnd(reason=f"lost by the cluster: {one_line(error)}")
    finally:
        with contextlib.suppress(OSError):
            handle.paths.result_pickle.unlink()
    return end
