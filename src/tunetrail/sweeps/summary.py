"""The summary of a sweep: its jobs from best to worst, what mattered, and the decision.

It is what `tunetrail sweep show` prints, and what the sweep's run in MLflow holds as a page,
pictures, tables and a note.
"""

import logging
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tunetrail.errors import one_line
from tunetrail.evaluation.metrics import is_metric, metric_named
from tunetrail.paths import write_private_text
from tunetrail.plain_values import plain_values
from tunetrail.reporting.readable import as_markdown, counted, duration, shown_interval
from tunetrail.scratch import scratch_folder
from tunetrail.stores.database import DatabaseManager
from tunetrail.stores.ledger import PromotionRecord
from tunetrail.stores.tracking import TrackedRun
from tunetrail.sweeps.study import SweepStudy
from tunetrail.sweeps.sweep_job import JobState, SweepJob
from tunetrail.sweeps.sweep_plan import Objective

logger = logging.getLogger(__name__)

SWEEP_FOLDER = "sweep"
"""Folder of the summary among the artifacts of the sweep's run."""
SWEEP_PAGE = f"{SWEEP_FOLDER}/sweep.html"

_ORDER = list(JobState)[::-1]
"""The order of jobs without a value: those that have ended first."""
_LONG_NUMBER = re.compile(r"-?\d*\.?\d{5,}(e-?\d+)?")
_LARGEST_SCORE = 10.0
_FEWEST_JOBS = 4
"""Finished jobs below which an importance would be a guess."""


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
            is_one = self.overlapping == 1
            others = "another job's" if is_one else f"those of {self.overlapping} other jobs"
            words += f" Its interval overlaps with {others}: their order may be chance."
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


def try_to_write_summary(run: TrackedRun, study: SweepStudy, manager: DatabaseManager) -> None:
    """Write the summary of a sweep to its run; warn if it can't be written."""
    try:
        write_sweep_summary(run, study, manager)
    # The decision stands: a page that can be drawn again must not fail a sweep.
    except Exception as error:
        logger.warning(
            "the summary of the sweep can't be written: %s. `tunetrail sweep show %s` prints it.",
            one_line(error),
            study.sweep_run_id,
        )


def write_sweep_summary(run: TrackedRun, study: SweepStudy, manager: DatabaseManager) -> None:
    """Write the summary of a sweep to its run: metrics, tags, page, pictures, tables, note.

    It may be written again when the sweep has gone on.

    Args:
        run: The sweep's run.
        study: The sweep's study.
        manager: The database, whose ledger knows the decision.
    """
    from tunetrail.sweeps.job_notes import write_job_notes
    from tunetrail.sweeps.page import sweep_page
    from tunetrail.sweeps.pictures import sweep_pictures

    summary = summarize_sweep(study, manager)
    _log_curves(run, summary)
    run.log_dict(summary.to_dict(), f"{SWEEP_FOLDER}/summary.json")
    run.log_text(jobs_table(summary).to_csv(index=False), f"{SWEEP_FOLDER}/jobs.csv")

    pictures = sweep_pictures(summary, study)
    for name, picture in pictures.items():
        run.log_picture(picture, f"{SWEEP_FOLDER}/{name}.png")
    with scratch_folder() as folder:
        page = folder / Path(SWEEP_PAGE).name
        # Overrides may quote what its owner alone may read.
        write_private_text(page, sweep_page(summary, pictures))
        run.log_artifact(page, SWEEP_FOLDER)

    best = summary.best_job
    if best is not None and best.mlflow_run_id and run.tracker.find_run(best.mlflow_run_id):
        run.link(best.mlflow_run_id)
    # A note stays as it is, so a sweep that goes on gets it at its end.
    if all(job.has_ended for job in summary.jobs):
        write_job_notes(run.tracker, summary)
        sentences = [summary.best_in_words, summary.decision, f"{summary.counts_in_words}."]
        run.describe("\n\n".join(as_markdown(text) for text in sentences if text))


def _log_curves(run: TrackedRun, summary: SweepSummary) -> None:
    """Log each objective as a curve over the jobs, without the points that it has already."""
    for position, objective in enumerate(summary.objectives):
        name = f"jobs/{objective.name}"
        known_steps = run.logged_steps(name)
        for job in summary.finished:
            if job.values is not None and job.number not in known_steps:
                run.log_metrics({name: job.values[position]}, step=job.number)


def jobs_table(summary: SweepSummary) -> pd.DataFrame:
    """Return a row for each job: what was swept, its objectives, its cost and how it ended."""
    rows: list[dict[str, Any]] = []
    for job in summary.jobs:
        lower, upper = job.interval or (None, None)
        values = job.values or (None,) * len(summary.objectives)
        names = [objective.name for objective in summary.objectives]

        rows.append(
            {
                "job": job.number,
                "state": str(job.state),
                **dict(override.lstrip("+").split("=", 1) for override in job.overrides),
                **dict(zip(names, values, strict=True)),
                "lower": lower,
                "upper": upper,
                "seconds": job.seconds,
                "steps": job.steps,
                "mlflow_run_id": job.mlflow_run_id,
                "reason": job.reason,
            }
        )

    return pd.DataFrame(rows)


def objective_label(name: str) -> str:
    """Return an objective as people call it: a metric by its label."""
    return metric_named(name).label if is_metric(name) else name


def shown_overrides(job: SweepJob) -> list[str]:
    """Return what was swept, as short as it stays clear.

    Keys lose the sections before their last name unless two would be equal, and numbers all but
    four digits.
    """
    pairs = [override.lstrip("+").partition("=") for override in job.overrides]
    names = Counter(key.rpartition(".")[2] for key, _, _ in pairs)

    shown = []
    for key, sign, value in pairs:
        name = key.rpartition(".")[2]
        is_long_number = _LONG_NUMBER.fullmatch(value) is not None
        short_value = f"{float(value):.4g}" if is_long_number else value
        shown.append(f"{name if names[name] == 1 else key}{sign}{short_value}")
    return shown


def shown_value(value: float) -> str:
    """Return an objective's value: a score with four decimals, a cost with one."""
    return f"{value:.4f}" if abs(value) < _LARGEST_SCORE else f"{value:.1f}"


def value_in_words(job: SweepJob) -> str:
    """Return the objectives' values of a finished job, with the interval; `-` for others."""
    if job.values is None:
        return "-"
    words = ", ".join(map(shown_value, job.values))
    if job.interval is not None:
        words += f" ({shown_interval(*job.interval, '.4f')})"
    return words


def duration_in_words(seconds: float | None) -> str:
    """Return a duration such as `12 min`; `-` if it is unknown."""
    return "-" if seconds is None else duration(seconds)


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
