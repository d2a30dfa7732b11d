"""What the launchers have in common: they compose the jobs and tell Hydra how the jobs ended.

Hydra hands a launcher the overrides of a batch of jobs. Every job becomes a process of its own with
its resolved configuration; launchers differ in where and when they start the processes.
"""

import copy
import logging
import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from tunetrail.errors import TunetrailError
from tunetrail.paths import made_folder
from tunetrail.sweeps.launchers.jobs import Job, JobEnd, JobFailedError

logger = logging.getLogger(__name__)

_HIDDEN = ("hydra.", "hydra/", "sweep.")


class JobLauncher(Launcher):
    """A launcher whose jobs are processes of their own.

    Attributes:
        slots: How many jobs run at the same time.
        on_failure: Called with the number of a job and the reason as soon as it has failed or died.
    """

    ends_jobs = True
    """Whether jobs are on this machine and end when the process that runs the sweep does."""

    config: DictConfig
    hydra_context: HydraContext
    task_function: TaskFunction

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Remember what Hydra gives to every launcher, and check the settings.

        Raises:
            ConfigError: A setting of the launcher is out of range.
        """
        self.config, self.hydra_context = config, hydra_context
        # Jobs call the same function, but in their own processes: `tunetrail job` names it.
        self.task_function = task_function
        self.on_failure: Callable[[int, str], object] = _forget
        self.check()

    @property
    @abstractmethod
    def slots(self) -> int:
        """How many jobs run at the same time."""

    @abstractmethod
    def check(self) -> None:
        """Raise `ConfigError` if a setting of the launcher is out of range."""

    @abstractmethod
    def run_jobs(self, jobs: Sequence[Job]) -> list[JobEnd]:
        """Do all jobs, and return how each of them ended, in their order."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Do a batch of jobs.

        Args:
            job_overrides: The overrides of each job.
            initial_job_idx: The number of the first one.

        Returns:
            How each job ended. The value of a failed job is a `JobFailedError`; the objective of
            a finished one is in the sweep's study, and not here.
        """
        setup_globals()
        # Lines as a job writes them; Hydra's own would name Hydra in place of the level.
        configure_log(OmegaConf.create(_terminal_logging(self.config)), self.config.hydra.verbose)
        made_folder(Path(str(self.config.hydra.sweep.dir)))

        composed: list[tuple[Job, JobReturn]] = []
        common = set.intersection(*map(set, job_overrides))
        for number, overrides in enumerate(job_overrides, start=initial_job_idx):
            composed.append(self._compose(number, list(overrides), common))

        ends = self.run_jobs([job for job, _ in composed])
        for (_, job_return), end in zip(composed, ends, strict=True):
            self._tell_end(job_return, end)
        return [job_return for _, job_return in composed]

    def end_job(self, job: Job, end: JobEnd) -> None:
        """Say in one line how a job has ended, and note its failure at once.

        The batch may still take hours. If this process is killed until then, the failure must not
        be forgotten.
        """
        if end.reason is None:
            logger.info("%s finished after %.0f s", job, end.seconds)
            return

        logger.error("%s failed after %.0f s: %s; log: %s", job, end.seconds, end.reason, job.log)
        try:
            self.on_failure(job.number, end.reason)
        except TunetrailError as error:
            # The end of the batch brings a second chance.
            logger.warning("the failure of %s isn't in the study yet: %s", job, error)

    def _job_config(self, number: int, overrides: list[str]) -> DictConfig:
        """Return the configuration of a job, as Hydra composes it for its own launcher."""
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        # A resumed sweep hands over the jobs that are left: they keep their numbers.
        number = number if config.sweep.job is None else int(config.sweep.job)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number

        # Hydra resolves `${hydra:...}`, which folders may hold, by the configuration set here.
        HydraConfig.instance().set_config(config)
        sweep = config.hydra.sweep
        with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
            config.hydra.runtime.output_dir = str(Path(sweep.dir, sweep.subdir).absolute())
        HydraConfig.instance().set_config(config)
        return config

    def _compose(
        self, number: int, overrides: list[str], common: set[str]
    ) -> tuple[Job, JobReturn]:
        """Return a job, and what Hydra is told of it before it has ended."""
        config = self._job_config(number, overrides)
        self.hydra_context.callbacks.on_job_start(config=config, task_function=self.task_function)
        hydra, hydra_config = config.hydra, OmegaConf.masked_copy(config, "hydra")
        name, folder = hydra.job.name, hydra.runtime.output_dir
        # Before Hydra's part is taken out: the rest may be referred to.
        job_logging = {
            "job_logging": _terminal_logging(config),
            "verbose": _plain_values(hydra.verbose),
        }
        environment = _plain_values(hydra.job.env_set)
        with open_dict(config):
            del config["hydra"]

        choices = filter(_distinguishes, (word for word in overrides if word not in common))
        job = Job(
            number=hydra.job.num,
            name=", ".join(choices),
            overrides=tuple(hydra.overrides.task),
            settings=_plain_values(config),
            logging=job_logging,
            folder=folder,
            log=os.path.join(folder, f"{name}.log"),
            working_folder=folder if hydra.job.chdir else os.getcwd(),
            environment=environment,
            driver=os.getpid() if self.ends_jobs else None,
        )
        job_return = JobReturn(
            overrides=list(job.overrides),
            cfg=config,
            hydra_cfg=hydra_config,
            working_dir=job.working_folder,
            task_name=name,
        )
        return job, job_return

    def _tell_end(self, job_return: JobReturn, end: JobEnd) -> None:
        """Tell Hydra how a job has ended."""
        if end.reason is None:
            job_return.status = JobStatus.COMPLETED
        else:
            job_return.status = JobStatus.FAILED
            job_return.return_value = JobFailedError(end.reason)
        config = OmegaConf.merge(job_return.hydra_cfg, job_return.cfg)
        assert isinstance(config, DictConfig)
        self.hydra_context.callbacks.on_job_end(config=config, job_return=job_return)


def _forget(number: int, reason: str) -> None:
    """Note the failure of a job nowhere: whoever launches it sees it at the end of the batch."""


def _distinguishes(override: str) -> bool:
    return not override.lstrip("+~").startswith(_HIDDEN)


def _terminal_logging(config: DictConfig) -> Any:
    """Return Hydra's configuration of a job's log, without the file: the terminal is the log."""
    job_logging = copy.deepcopy(config.hydra.job_logging)
    if job_logging is not None and "handlers" in job_logging:
        with read_write(job_logging), open_dict(job_logging):
            job_logging.handlers.pop("file", None)
            job_logging.root.handlers = [
                name for name in job_logging.root.handlers if name != "file"
            ]
    return _plain_values(job_logging)


def _plain_values(node: Any) -> Any:
    """Return a configuration as plain values, with its interpolations resolved."""
    if not OmegaConf.is_config(node):
        return node
    return OmegaConf.to_container(node, resolve=True, enum_to_str=True)
