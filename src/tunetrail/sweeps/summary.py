"""The summary of a sweep: its jobs from best to worst, what mattered, and the decision.

`tunetrail sweep show` prints it, and `summary_artifacts` writes it to the sweep's run in MLflow.
"""

import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tunetrail.plain_values import plain_values
from tunetrail.reporting.readable import counted
from tunetrail.stores.database.ledger import PromotionRecord
from tunetrail.stores.database.manager import DatabaseManager
from tunetrail.sweeps.job_words import objective_label, shown_overrides, value_in_words
from tunetrail.sweeps.study import SweepStudy
from tunetrail.sweeps.sweep_job import JobState, SweepJob
from tunetrail.sweeps.sweep_plan import Objective

logger = logging.getLogger(__name__)

# The order of jobs without a value: those that have ended first.
_ORDER = list(JobState)[::-1]
# Finished jobs below which an importance would be a guess.
_FEWEST_JOBS = 4


@dataclass(frozen=True, kw_only=True)
class SweepSummary:
    """What a sweep came to.

    Attributes:
        sweep_run_id: The sweep's run in MLflow.
        objectives: What jobs are compared by, the most important one first.
        overrides: The overrides that all jobs share.
        jobs: All jobs: the finished ones from best to worst, then the others.
        best: The number of the best job; None if none has finished.
        front: The numbers of the jobs of which no other is better in all objectives.
        overlapping: How many other jobs' intervals overlap with that of the best one.
        importances: The share of the objective's variance that each parameter explains, largest
            first; empty if it is unknown.
        decision: What the gate decided on the best job, in words; None before.
    """

    sweep_run_id: str
    objectives: tuple[Objective, ...]
    overrides: tuple[str, ...]
    jobs: tuple[SweepJob, ...]
    best: int | None
    front: tuple[int, ...]
    overlapping: int
    importances: dict[str, float]
    decision: str | None

    @property
    def best_job(self) -> SweepJob | None:
        """The best job; None if none has finished."""
        # The first of the finished ones, which come first.
        return self.jobs[0] if self.best is not None else None

    @property
    def labels(self) -> tuple[str, ...]:
        """The objectives as people call them."""
        return tuple(objective_label(objective.name) for objective in self.objectives)

    @property
    def finished(self) -> list[SweepJob]:
        """The finished jobs, from best to worst."""
        return [job for job in self.jobs if job.state == JobState.FINISHED]

    @property
    def counts_in_words(self) -> str:
        """How many jobs are in which state."""
        states = Counter(job.state for job in self.jobs)
        counts = [f"{states[state]} {state}" for state in JobState if states[state]]
        return f"{counted(len(self.jobs), 'job')}: {', '.join(counts[::-1]) or 'none'}"

    @property
    def best_in_words(self) -> str:
        """Which job is the best, with what, and how surely."""
        if self.best_job is None:
            return "No job has finished."
        words = (
            f"Best by {self.labels[0]} of the validation rows: job {self.best} "
            f"({', '.join(shown_overrides(self.best_job)) or 'nothing varies'}) with "
            f"{value_in_words(self.best_job)}."
        )
        if self.overlapping:
            others = "interval of another job"
            if self.overlapping > 1:
                others = f"intervals of {self.overlapping} other jobs"
            words += f" Its interval overlaps with the {others}: their order may be chance."
        return words

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain values."""
        return plain_values(self)


def summarize_sweep(study: SweepStudy, manager: DatabaseManager) -> SweepSummary:
    """Return the summary of a sweep as it stands.

    Args:
        study: The sweep's study.
        manager: The database, whose ledger knows the decision.
    """
    jobs, best = study.jobs(), study.best()
    # Nothing is better than the best job in the most important objective, so it comes first.
    finished = [job for job in jobs if job.state == JobState.FINISHED]
    sign = -1.0 if study.objectives[0].higher_is_better else 1.0
    finished.sort(key=lambda job: (job != best, sign * (job.values or (0.0,))[0], job.number))
    unfinished = [job for job in jobs if job.state != JobState.FINISHED]
    unfinished.sort(key=lambda job: (_ORDER.index(job.state), job.number))

    overlapping = sum(job != best and _overlap(best, job) for job in finished)
    return SweepSummary(
        sweep_run_id=study.sweep_run_id,
        objectives=study.objectives,
        overrides=study.plan.overrides,
        jobs=(*finished, *unfinished),
        best=best.number if best else None,
        front=tuple(job.number for job in study.front()) if len(study.objectives) > 1 else (),
        overlapping=overlapping,
        importances=_importances(study, len(finished)),
        decision=_decision(jobs, manager),
    )


def _overlap(best: SweepJob | None, job: SweepJob) -> bool:
    """Tell whether the intervals of two jobs have a value in common."""
    if best is None or best.interval is None or job.interval is None:
        return False
    return best.interval[0] <= job.interval[1] and job.interval[0] <= best.interval[1]


def _importances(study: SweepStudy, finished: int) -> dict[str, float]:
    """Return the share of the first objective's variance by parameter (fANOVA, Hutter et al. 2014).

    https://proceedings.mlr.press/v32/hutter14.html
    """
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    if finished < _FEWEST_JOBS or len(study.plan.space.parameters) < 2:
        return {}
    try:
        # A fixed seed: the same jobs always give the same shares.
        importances = get_param_importances(
            study.optuna_study,
            evaluator=FanovaImportanceEvaluator(seed=0),
            target=lambda trial: trial.values[0],
        )
    # Jobs that all have the same value explain nothing.
    except (RuntimeError, ValueError) as error:
        logger.info("the parameters' importances are unknown: %s", error)
        return {}
    return dict(zip(importances, map(float, importances.values()), strict=True))


def _decision(jobs: list[SweepJob], manager: DatabaseManager) -> str | None:
    """Return what the gate decided on a job of the sweep, in words; None before."""
    job_of_run = {job.mlflow_run_id: job for job in jobs if job.mlflow_run_id}
    # The last one: a job of which another was promoted first may have been resumed by hand.
    for record in reversed(manager.promotions()):
        job = job_of_run.get(record.mlflow_run_id or "")
        if job is not None:
            return _decision_in_words(record, job)
    return None


def _decision_in_words(record: PromotionRecord, job: SweepJob) -> str:
    decision = "promoted to root" if record.decision == "promoted" else "refused, root stays"
    metric = objective_label(record.metric) if record.metric is not None else "The metric"
    return (
        f"Job {job.number} became version {record.version} of {record.model_name}: {decision}. "
        f"{metric} of the test rows is {record.after:.4f} against "
        f"{record.before:.4f}. Reason: {record.reason}."
    )
