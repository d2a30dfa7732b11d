"""Winner: the one job of a sweep that is evaluated on the test rows and meets the gate."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tunetrail.config import Settings
from tunetrail.evaluation.metrics import is_metric
from tunetrail.node import ModelTrainingNode, NodeConfig
from tunetrail.pipeline.recording import summarize
from tunetrail.stores.database.manager import DatabaseManager, RunState
from tunetrail.stores.tracking.run_tags import TRAINING_RUN_TAG
from tunetrail.stores.tracking.tracker import TrackedRun, Tracker
from tunetrail.sweeps.job import candidates_of, remove_folders
from tunetrail.sweeps.job_words import objective_label
from tunetrail.sweeps.objectives import metric_in_mlflow
from tunetrail.sweeps.study import SweepStudy
from tunetrail.sweeps.summary_artifacts import try_to_write_summary
from tunetrail.sweeps.sweep_job import JobState, SweepJob
from tunetrail.sweeps.sweep_plan import Objective

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SweepDecision:
    """What a sweep came to.

    Attributes:
        sweep_run_id: The sweep's run in MLflow.
        objectives: The metrics that jobs were compared by.
        jobs: All jobs, by number.
        best: The job with the best objective; None if none has finished.
        front: The jobs of which no other is better in all objectives.
        sentence: How the best job was chosen, and what became of it.
        results: The results of the best job's evaluation and deployment; None without them.
        report: Where the page of its run is, if it has one.
        page: The address of the jobs in MLflow's pages, the best one first.
    """

    sweep_run_id: str
    objectives: tuple[Objective, ...]
    jobs: tuple[SweepJob, ...]
    best: SweepJob | None
    front: tuple[SweepJob, ...]
    sentence: str
    results: Mapping[str, Any] | None = None
    report: str | None = None
    page: str


def decide_sweep(settings: Settings, manager: DatabaseManager, sweep_run_id: str) -> SweepDecision:
    """Choose the best job of a sweep whose jobs have all ended, and let only the best go on.

    It is evaluated on the test rows, once for the whole sweep, and meets the gate, unless
    `sweep.promote` is `none`. The sweep's run gets what was decided. With several objectives, the
    first one decides, and the others if jobs are equal in it.

    Args:
        settings: What all jobs have in common.
        manager: The database, which holds the sweep's study.
        sweep_run_id: The sweep's run in MLflow.

    Raises:
        TunetrailError: The evaluation or the deployment failed.
    """
    study = SweepStudy.open(manager, sweep_run_id)
    run = Tracker(settings.tracking).run(sweep_run_id)
    jobs, best, candidates = study.jobs(), study.best(), candidates_of(study)
    # A job that died couldn't remove its own. Of several objectives, the whole front stays: whoever
    # weighs them differently resumes another job.
    chosen = [job.number for job in candidates]
    remove_folders(settings, [job for job in jobs if job.number not in chosen])

    decision = SweepDecision(
        sweep_run_id=sweep_run_id,
        objectives=study.objectives,
        jobs=tuple(jobs),
        best=best,
        front=tuple(candidates),
        sentence=_selection(study.objectives, jobs, best),
        page=_jobs_page(run, study.objectives[0]),
    )
    if best is not None and settings.sweep.promote == "winner":
        decision = _let_go_on(decision, best, settings, manager)
    elif best is not None:
        sentence = (
            f"{decision.sentence}; root stays, as sweep.promote=none. To evaluate it: tunetrail "
            f"resume {best.mlflow_run_id}"
        )
        decision = replace(decision, sentence=sentence)

    _record(decision, run)
    try_to_write_summary(run, study, manager)
    return decision


def _let_go_on(
    decision: SweepDecision, best: SweepJob, settings: Settings, manager: DatabaseManager
) -> SweepDecision:
    """Evaluate and deploy the best job, unless an earlier process has done so."""
    assert best.mlflow_run_id is not None
    run = Tracker(settings.tracking).find_run(best.mlflow_run_id)
    training = manager.training_run(run.data.tags[TRAINING_RUN_TAG]) if run else None
    if training is not None and training.state == RunState.SUCCEEDED:
        return replace(decision, results=training.result)

    logger.info("%s, goes on to the test rows", decision.sentence)
    node = ModelTrainingNode(NodeConfig(settings=settings), manager)
    # `tunetrail resume SWEEP model_dir=...` names another folder than the job began with.
    results = node.resume(
        best.mlflow_run_id, selection=decision.sentence, model_dir=settings.model_dir
    )
    return replace(decision, results=results, report=node.report)


def _selection(
    objectives: tuple[Objective, ...], jobs: list[SweepJob], best: SweepJob | None
) -> str:
    """Return in words how the best job was chosen."""
    if best is None:
        return f"none of {len(jobs)} jobs has finished, so nothing is evaluated"

    objective = objectives[0].name
    how = objective_label(objective)
    if is_metric(objective):
        how += " of the validation rows"
    ended_early = sum(job.state == JobState.PRUNED for job in jobs)
    failed = sum(job.state == JobState.FAILED for job in jobs)
    notes = [f"{ended_early} pruned"] * bool(ended_early) + [f"{failed} failed"] * bool(failed)
    counts = f" ({', '.join(notes)})" if notes else ""
    return f"job {best.number}, the best of {len(jobs)} jobs{counts} by {how}"


def _jobs_page(run: TrackedRun, objective: Objective) -> str:
    """Return where MLflow shows the jobs, ordered by the objective if their runs have it."""
    metric = metric_in_mlflow(objective)
    return run.jobs_page(metric, descending=objective.higher_is_better)


def _record(decision: SweepDecision, run: TrackedRun) -> None:
    """Write to the sweep's run what was decided, and the figures of the best job."""
    states = [job.state for job in decision.jobs]
    figures: dict[str, float] = {f"jobs/{state}": states.count(state) for state in JobState}
    tags = {"tunetrail.sweep.decision": decision.sentence}

    best = decision.best
    if best is not None and best.values is not None:
        tags["tunetrail.sweep.best_job"] = str(best.number)
        tags["tunetrail.sweep.best_run"] = str(best.mlflow_run_id)
        for objective, value in zip(decision.objectives, best.values, strict=True):
            figures[f"best/{objective.name}"] = value
        if best.interval is not None:
            name = decision.objectives[0].name
            lower, upper = best.interval
            figures |= {f"best/{name}/lower": lower, f"best/{name}/upper": upper}
    run.log_metrics(figures)
    run.set_tags(tags)

    # As in the run of the job: what the gate decided, and by which figures.
    if decision.results is not None:
        steps = decision.results["results"]["steps"]
        for model_type in steps["comparison"]:
            of_type = {name: steps[name][model_type] for name in ("comparison", "deployment")}
            summarize(run, model_type, of_type)
