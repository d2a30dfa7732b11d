"""The study of a sweep: what its jobs are, how they ended, and which of them is the best.

It is an Optuna study in tunetrail's database, which each process of the sweep opens for itself: a
job tells how it ended on its own, so that nothing is lost if the process that started it dies. A
trial of the study is a job of the sweep, with the same number.
"""

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from tunetrail.config import SearchConfig
from tunetrail.errors import TrainingError, UserError
from tunetrail.pipeline.pins import Pins
from tunetrail.stores.database.manager import DatabaseManager
from tunetrail.sweeps.samplers import make_pruner, make_sampler
from tunetrail.sweeps.space import SearchSpace, Value
from tunetrail.sweeps.storage import study_storage
from tunetrail.sweeps.sweep_job import JobState, SweepJob
from tunetrail.sweeps.sweep_plan import Objective, SweepPlan
from tunetrail.sweeps.trials import ENDED, job_of_trial


class SweepStudy:
    """The jobs of one sweep, in tunetrail's database.

    Every method reads the present state, which other processes may have changed.

    Attributes:
        sweep_run_id: The sweep's run in MLflow, which is the study's name.
        plan: What the sweep was started with.
        optuna_study: The study for Optuna's own functions, such as importances.
    """

    def __init__(self, sweep_run_id: str, plan: SweepPlan, optuna_study: optuna.Study) -> None:
        self.sweep_run_id = sweep_run_id
        self.plan = plan
        self.optuna_study = optuna_study
        self._storage = optuna_study._storage

    @classmethod
    def create(
        cls,
        manager: DatabaseManager,
        sweep_run_id: str,
        objectives: Sequence[Objective],
        *,
        search: SearchConfig,
        space: SearchSpace,
        overrides: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
        pins: Pins | None = None,
    ) -> Self:
        """Make the study of a new sweep, without jobs.

        Args:
            manager: The database.
            sweep_run_id: The sweep's run in MLflow.
            objectives: The metrics that jobs are compared by, the most important one first.
            search: How combinations are chosen and jobs are pruned.
            space: The parameters that vary.
            overrides: What the sweep was started with, without passwords.
            settings: What the first job was composed of, by key.
            pins: The samples and the root that jobs begin with; None if each job reads its own.
        """
        plan = SweepPlan(
            objectives=tuple(objectives),
            search=search,
            space=space,
            overrides=tuple(overrides),
            settings=settings or {},
            pins=pins,
        )

        directions = [goal.direction for goal in objectives]
        study = optuna.create_study(
            study_name=sweep_run_id,
            storage=study_storage(manager, sweep_run_id),
            directions=directions,
            sampler=RandomSampler(),
            pruner=make_pruner(search),
        )

        study.set_user_attr("plan", plan.to_plain())
        return cls(sweep_run_id, plan, study)

    @classmethod
    def open(cls, manager: DatabaseManager, sweep_run_id: str) -> Self:
        """Open the study of a sweep.

        Raises:
            UserError: The database has no such sweep.
        """
        storage = study_storage(manager, sweep_run_id)
        if not storage.get_all_studies():
            raise UserError(
                f"the database {manager.shown_url} has no sweep {sweep_run_id}. "
                "Name the one that the sweep was started with, as in database.url=URL."
            )
        # The sampler isn't asked by jobs; `ask_job` makes one for each of its questions.
        study = optuna.load_study(study_name=sweep_run_id, storage=storage, sampler=RandomSampler())
        plan = SweepPlan.from_plain(study.user_attrs["plan"])
        study.pruner = make_pruner(plan.search)
        return cls(sweep_run_id, plan, study)

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The metrics that jobs are compared by, the most important one first."""
        return self.plan.objectives

    def jobs(self) -> list[SweepJob]:
        """Return all jobs, by number."""
        return list(map(job_of_trial, self._trials()))

    def job(self, number: int) -> SweepJob:
        """Return one job; raises `UserError` if there is none of that number."""
        return job_of_trial(self._trial(number))

    def add_job(self, values: Mapping[str, Value]) -> SweepJob:
        """Add a waiting job with given values of the parameters, and return it."""
        trial = create_trial(
            state=TrialState.WAITING,
            params=dict(values),
            distributions=self.plan.space.distributions,
            user_attrs={"overrides": list(self.plan.space.overrides(values))},
        )
        self.optuna_study.add_trial(trial)
        return job_of_trial(self._trials()[-1])

    def ask_job(self) -> SweepJob:
        """Add a job with the values that the sampler chooses, and return it."""
        trials = self._trials()
        # A driver that was killed while it asked has left a trial without all of its values.
        is_complete = not trials or "overrides" in trials[-1].user_attrs
        number = len(trials) if is_complete else len(trials) - 1

        self.optuna_study.sampler = make_sampler(self.plan.search, number)
        space = self.plan.space
        if is_complete:
            trial = self.optuna_study.ask(space.distributions)
        else:
            trial = Trial(self.optuna_study, trials[-1]._trial_id)
            for name, distribution in space.distributions.items():
                trial._suggest(name, distribution)

        trial.set_user_attr("overrides", list(space.overrides(trial.params)))
        return self.job(number)

    def start_job(self, number: int, mlflow_run_id: str) -> None:
        """Note that a job runs, and the run that it writes to.

        Raises:
            TrainingError: The job has ended.
        """
        trial = self._trial(number)
        if trial.state.is_finished():
            raise TrainingError(
                f"job {number} of the sweep {self.sweep_run_id} has already ended: "
                f"{ENDED[trial.state]}."
            )
        if trial.state == TrialState.WAITING:
            self._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
        self._storage.set_trial_user_attr(trial._trial_id, "mlflow_run_id", mlflow_run_id)

    def report(self, number: int, value: float, step: int) -> None:
        """Note a job's value at a step, for the pruner.

        A step may be reported again, as a resumed job does; the last value stays.

        Args:
            number: The job.
            value: Larger is better if that is so for the first objective, otherwise smaller: change
                the sign of a monitor that goes the other way. NaN and infinities are not kept.
            step: The optimizer step.
        """
        if math.isfinite(value):
            trial_id = self._trial(number)._trial_id
            self._storage.set_trial_intermediate_value(trial_id, step, float(value))

    def should_stop(self, number: int) -> bool:
        """Return whether the pruner would end a job after its last report."""
        # With several objectives, no single value says how good a job is.
        if len(self.objectives) > 1:
            return False
        return self.optuna_study.pruner.prune(self.optuna_study, self._trial(number))

    def finish_job(
        self,
        number: int,
        values: Sequence[float],
        *,
        interval: tuple[float, float] | None = None,
        seconds: float | None = None,
        steps: int | None = None,
    ) -> None:
        """Note that a job has finished; with a value that isn't finite, it has failed.

        Args:
            number: The job.
            values: The values of the objectives, in their order.
            interval: The 95 % interval of the first one.
            seconds: How long the job took.
            steps: The optimizer steps that it trained.
        """
        facts = {"interval": interval and list(interval), "seconds": seconds, "steps": steps}
        for objective, value in zip(self.objectives, values, strict=True):
            if not math.isfinite(value):
                reason = f"{objective.name} is {value:g}"
                return self._end(number, TrialState.FAIL, facts | {"reason": reason})
        self._end(number, TrialState.COMPLETE, facts, list(map(float, values)))

    def prune_job(
        self,
        number: int,
        reason: str,
        *,
        seconds: float | None = None,
        steps: int | None = None,
    ) -> None:
        """Note that a job was ended early, and why."""
        facts = {"reason": reason, "seconds": seconds, "steps": steps}
        self._end(number, TrialState.PRUNED, facts)

    def fail_job(self, number: int, reason: str, *, seconds: float | None = None) -> None:
        """Note that a job has failed, and why."""
        self._end(number, TrialState.FAIL, {"reason": reason, "seconds": seconds})

    def best(self) -> SweepJob | None:
        """Return the finished job with the best objective; None if there is none.

        With several objectives, it is the first one that counts; the others only where jobs are
        equal in it, so that the best job is on the front.
        """
        return best_of(self.jobs(), self.objectives)

    def front(self) -> list[SweepJob]:
        """Return the finished jobs of which no other is better in all objectives, by number."""
        return [job_of_trial(trial) for trial in self.optuna_study.best_trials]

    def _end(
        self,
        number: int,
        state: TrialState,
        facts: Mapping[str, Any],
        values: Sequence[float] | None = None,
    ) -> None:
        trial = self._trial(number)
        # The process of the job and the driver may both say how it ended: the first one counts.
        with contextlib.suppress(UpdateFinishedTrialError):
            # Optuna ends running trials only; a job may fail before it has a run.
            if trial.state == TrialState.WAITING:
                self._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
            # Before the state: an ended trial can't be changed any more.
            for name, fact in facts.items():
                if fact is not None:
                    self._storage.set_trial_user_attr(trial._trial_id, name, fact)
            self.optuna_study.tell(number, values, state, skip_if_finished=True)

    def _trials(self) -> list[FrozenTrial]:
        return self.optuna_study.get_trials(deepcopy=False)

    def _trial(self, number: int) -> FrozenTrial:
        trials = self._trials()
        if not 0 <= number < len(trials):
            raise UserError(
                f"sweep.job must be a job of the sweep {self.sweep_run_id}, which has "
                f"{len(trials)}, got {number}."
            )
        return trials[number]


def best_of(jobs: Sequence[SweepJob], objectives: Sequence[Objective]) -> SweepJob | None:
    """Return the finished job with the best objectives, of equal ones the first; None without."""

    def cost(job: SweepJob) -> tuple[float, ...]:
        costs = []
        for goal, value in zip(objectives, job.values or (), strict=True):
            costs.append(-value if goal.higher_is_better else value)
        return tuple(costs)

    finished = [job for job in jobs if job.state == JobState.FINISHED]
    return min(finished, key=cost, default=None)
