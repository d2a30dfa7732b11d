"""The driver of a sweep: hands jobs to a launcher until none is left, whatever becomes of them."""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Self

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher

from tunetrail.config import SearchConfig, TrainRequest, checked_session_ids
from tunetrail.errors import SweepError, TunetrailError, UserError, one_line
from tunetrail.pipeline.run_settings import leaves, plain_settings
from tunetrail.stores.database.manager import DatabaseManager
from tunetrail.stores.tracking.run_tags import SWEEP_TAG
from tunetrail.stores.tracking.tracker import TrackedRun, Tracker, shown_uri
from tunetrail.sweeps.launchers import slots_of
from tunetrail.sweeps.launchers.base import JobLauncher
from tunetrail.sweeps.pinning import pins_of_now, warn_of_changes
from tunetrail.sweeps.space import SearchSpace
from tunetrail.sweeps.study import SweepStudy
from tunetrail.sweeps.sweep_job import JobState, SweepJob
from tunetrail.sweeps.sweep_plan import Objective

logger = logging.getLogger(__name__)

_SECRET_KEYS = ("database.url", "tracking.uri")
_MOST_FAILURES = 3
_SAVING_SECONDS = 600
_POLL_SECONDS = 0.5


class SweepDriver:
    """A sweep that is under way, with its run in MLflow and its study in the database.

    Args:
        manager: The database.
        request: What the first job trains.
        run: The run of the sweep.
        study: The study of the sweep.
    """

    def __init__(
        self, manager: DatabaseManager, request: TrainRequest, run: TrackedRun, study: SweepStudy
    ) -> None:
        self.manager = manager
        self.request = request
        self.tracked_run = run
        self.study = study

    @classmethod
    def start(
        cls,
        manager: DatabaseManager,
        request: TrainRequest,
        objectives: Sequence[Objective],
        *,
        search: SearchConfig,
        space: SearchSpace,
        arguments: Sequence[str],
    ) -> Self:
        """Make the run and the study of a new sweep.

        Args:
            manager: The database.
            request: What the first job trains.
            objectives: The metrics that jobs are compared by.
            search: How combinations are chosen and jobs are pruned.
            space: The parameters that vary.
            arguments: What `tunetrail train` was called with.
        """
        public = tuple(filter(_is_public, arguments))
        names = ", ".join(parameter.name for parameter in space.parameters)
        run = Tracker(request.tracking).start_run(
            f"sweep {names}", tags={SWEEP_TAG: shown_uri(" ".join(public))}
        )

        study = SweepStudy.create(
            manager,
            run.run_id,
            objectives,
            search=search,
            space=space,
            overrides=public,
            settings=_shared_settings(request),
            pins=pins_of_now(manager, request),
        )
        return cls(manager, request, run, study)

    @classmethod
    def reopen(cls, manager: DatabaseManager, request: TrainRequest, run_id: str) -> Self:
        """Open the run and the study of a sweep whose driver has ended."""
        study = SweepStudy.open(manager, run_id)
        _warn_of_edited_files(study.plan.settings, request)
        if study.plan.pins is not None:
            warn_of_changes(study.plan.pins, manager, request)
        run = Tracker(request.tracking).run(run_id)
        run.reopen()
        return cls(manager, request, run, study)

    def run(
        self,
        launcher: Launcher,
        shared: Sequence[str],
        finish: Callable[[TrainRequest, DatabaseManager, str], None],
    ) -> None:
        """Train the jobs that have not ended, and decide about the best one.

        Args:
            launcher: Where the jobs run.
            shared: The overrides that all jobs share.
            finish: Decides about the sweep and shows what it came to.

        Raises:
            SweepError: Jobs have failed.
        """
        if isinstance(launcher, JobLauncher):
            # At once, not only after the batch: this process may be killed before that.
            launcher.on_failure = self.study.fail_job
        run_id = self.tracked_run.run_id
        try:
            with self.tracked_run.finish_on_exit():
                self._add_missing_jobs()
                while batch := self._next_batch(slots_of(launcher)):
                    self._launch(batch, launcher, shared)
                finish(self.request, self.manager, run_id)
                self._check_failures()
        except BaseException as error:
            if not isinstance(error, SweepError):
                logger.warning("`tunetrail resume %s` goes on with this sweep", run_id)
            raise

    def _add_missing_jobs(self) -> None:
        """Add all jobs of a grid, or what a driver that was killed meanwhile hasn't added."""
        plan = self.study.plan
        if plan.search.sampler == "grid":
            for values in islice(plan.space.grid(), len(self.study.jobs()), None):
                self.study.add_job(values)

    def _next_batch(self, slots: int) -> list[SweepJob]:
        """Return the jobs that are next: a grid as a whole, otherwise as many as run at a time."""
        # Without overrides: a driver was killed while it asked for the job.
        jobs = [job for job in self.study.jobs() if job.overrides]
        batch = [job for job in jobs if not job.has_ended]
        for job in batch:
            self._wait_for_process(job)

        n_trials = self.study.plan.search.n_trials or 0
        for _ in range(min(n_trials - len(jobs), slots - len(batch))):
            batch.append(self.study.ask_job())
        return batch

    def _launch(self, batch: Sequence[SweepJob], launcher: Launcher, shared: Sequence[str]) -> None:
        """Train a batch, and note the failure of each job that couldn't do it itself."""
        # Quoted: an id may consist of digits only.
        sweep = f"sweep.run_id='{self.tracked_run.run_id}'"
        overrides = [[*shared, *job.overrides, sweep, f"sweep.job={job.number}"] for job in batch]
        ends = launcher.launch(overrides, initial_job_idx=batch[0].number)

        for job, end in zip(batch, ends, strict=True):
            self.study.fail_job(job.number, _failure_of(end))

    def _check_failures(self) -> None:
        jobs = self.study.jobs()
        failed = [job for job in jobs if job.state == JobState.FAILED]
        if not failed:
            return

        reasons = []
        for job in failed[:_MOST_FAILURES]:
            reasons.append(f"job {job.number}: {str(job.reason).rstrip('.')}")
        if len(failed) > _MOST_FAILURES:
            reasons.append(f"and {len(failed) - _MOST_FAILURES} more")
        raise SweepError(f"{len(failed)} of {len(jobs)} jobs failed: {'; '.join(reasons)}.")

    def _wait_for_process(self, job: SweepJob) -> None:
        """Wait until the process of an interrupted job has saved and ended.

        Raises:
            UserError: It doesn't end.
        """
        if job.mlflow_run_id is None:
            return
        runs = self.manager.training_runs(checked_session_ids(self.request.session_id)[0])
        processes = [run.process for run in runs if run.mlflow_run_id == job.mlflow_run_id]
        give_up_at = time.monotonic() + _SAVING_SECONDS
        for process in processes:
            while process.is_here and not process.is_dead():
                if time.monotonic() > give_up_at:
                    raise UserError(
                        f"job {job.number} of the sweep is still running in process {process.pid}. "
                        "Wait until it has ended, or stop it."
                    )
                time.sleep(_POLL_SECONDS)


def _shared_settings(request: TrainRequest) -> dict[str, Any]:
    """Return what the first job is composed of, by key, without the places of stores and files."""
    plain = plain_settings(request, "")
    for name in ("database", "tracking", "model_dir", "output_dir", "sweep"):
        plain.pop(name)
    values: dict[str, Any] = json.loads(json.dumps(dict(leaves(plain)), default=str))
    return values


def _warn_of_edited_files(before: Mapping[str, Any], request: TrainRequest) -> None:
    """Say which settings differ from those that a sweep began with.

    A sweep keeps its overrides. The files of conf/ and experiments/ may have been edited since.
    """
    now = _shared_settings(request)
    changes = [
        f"{key} was {before[key]}, is {value}"
        for key, value in now.items()
        if key in before and before[key] != value
    ]
    if changes:
        logger.warning(
            "the files that the sweep was composed of have changed: %s; jobs that have not begun "
            "get the new values",
            ", ".join(changes),
        )


def _is_public(argument: str) -> bool:
    """Tell whether an argument holds no password, and isn't the address of a store."""
    key = argument.partition("=")[0].lstrip("+")
    return key not in _SECRET_KEYS and shown_uri(argument) == argument


def _failure_of(end: JobReturn) -> str:
    """Return why a job has failed, as the launcher saw it."""
    error = end._return_value
    if isinstance(error, TunetrailError):
        return str(error)
    return one_line(error) if isinstance(error, Exception) else "it ended without a result"
