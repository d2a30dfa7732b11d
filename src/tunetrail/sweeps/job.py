"""Job: one training of a sweep, up to its fit, that tells the sweep's study how it ended itself.

So nothing is lost if the process that started the job dies.
"""

import logging
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from tunetrail.config import Settings
from tunetrail.errors import TunetrailError, one_line
from tunetrail.node import ModelTrainingNode, NodeConfig
from tunetrail.pipeline import Outcome, Pruned
from tunetrail.pipeline.stages.fit import MonitoredValue
from tunetrail.stores.database.manager import DatabaseManager
from tunetrail.stores.resumable_runs import CONFIGURATION
from tunetrail.stores.tracking.tracker import Tracker
from tunetrail.sweeps.job_words import shown_overrides
from tunetrail.sweeps.objectives import COSTS, interval_of, measure, metric_in_mlflow
from tunetrail.sweeps.study import SweepStudy
from tunetrail.sweeps.sweep_job import SweepJob

logger = logging.getLogger(__name__)


def run_job(
    settings: Settings,
    session_id: str | Sequence[str],
    model_type: str,
    manager: DatabaseManager,
) -> SweepJob:
    """Train the job of a sweep that the settings name, unless it has ended.

    The model is trained until its fit and scored on the validation rows; the test rows aren't
    asked. A job that an earlier process left half-done continues from its last checkpoint. Folders
    of jobs that can't win any more are removed.

    Args:
        settings: The settings, with `sweep.run_id` and `sweep.job`.
        session_id: The session to learn from, or several.
        model_type: A family, or `all` for the only one with samples in the session.
        manager: The database, which holds the sweep's study.

    Returns:
        The job as it ended, now or earlier.

    Raises:
        TunetrailError: The job failed; the study knows the reason.
    """
    sweep = settings.sweep
    assert sweep.run_id is not None and sweep.job is not None
    study = SweepStudy.open(manager, sweep.run_id)
    job, started_at = study.job(sweep.job), time.monotonic()
    if job.has_ended:
        return job

    node = ModelTrainingNode(
        NodeConfig(settings=settings),
        manager,
        parent_run_id=sweep.run_id,
        run_name=", ".join(shown_overrides(job)) or f"job {job.number}",
    )

    pruning = _Pruning(study, job.number, started_at)
    try:
        outcome = _fit(node, job, study, pruning, session_id, model_type)
        # Not earlier: jobs of other processes have ended since this one began.
        former_candidates = candidates_of(study)
        # Whoever ended it early has told the study.
        if outcome.reason is None:
            _finish(study, job.number, outcome)
    except Exception as error:
        reason = str(error) if isinstance(error, TunetrailError) else one_line(error)
        study.fail_job(job.number, reason, seconds=time.monotonic() - started_at)
        remove_folders(settings, [study.job(job.number)])
        raise

    # The best job only ever gets better, so a job that is worse stays worse.
    ended, candidates = study.job(job.number), candidates_of(study)
    in_the_running = [candidate.number for candidate in candidates]
    beaten = [job for job in (*former_candidates, ended) if job.number not in in_the_running]
    remove_folders(settings, beaten)
    return ended


def remove_folders(settings: Settings, jobs: Iterable[SweepJob]) -> None:
    """Remove what the runs of jobs keep on disk: models, rows and checkpoints."""
    for job in jobs:
        if job.mlflow_run_id is not None:
            shutil.rmtree(Path(settings.output_dir) / job.mlflow_run_id, ignore_errors=True)


class _Pruning:
    """Tells the study each validation's value, and ends the job if the study has seen enough.

    Args:
        study: The study of the sweep.
        number: The job.
        started_at: When it began, on the monotonic clock.
    """

    def __init__(self, study: SweepStudy, number: int, started_at: float) -> None:
        self.study = study
        self.number = number
        self.started_at = started_at

    def __call__(self, validation: MonitoredValue) -> None:
        """Report a value; raises `Pruned` if other jobs were better at this step."""
        objective = self.study.objectives[0]
        # How good a model is says nothing of what it costs.
        if objective.name in COSTS:
            return

        # Optuna compares reports in the direction of the objective: the loss falls, nDCG rises.
        is_same_way = validation.higher_is_better == objective.higher_is_better
        value = validation.value if is_same_way else -validation.value
        self.study.report(self.number, value, validation.step)
        if not self.study.should_stop(self.number):
            return

        reason = (
            f"{validation.metric} of {validation.value:.4g} at step {validation.step} is worse "
            f"than other jobs' (hydra.sweeper.pruner={self.study.plan.search.pruner})"
        )
        seconds = time.monotonic() - self.started_at
        self.study.prune_job(self.number, reason, seconds=seconds, steps=validation.step)
        raise Pruned(reason)


def _fit(
    node: ModelTrainingNode,
    job: SweepJob,
    study: SweepStudy,
    pruning: _Pruning,
    session_id: str | Sequence[str],
    model_type: str,
) -> Outcome:
    """Train the job, or go on with what an earlier process has left of it."""
    run_id = job.mlflow_run_id
    if run_id is not None and _has_begun(node.settings, run_id):
        logger.info("job %d continues with the run %s", job.number, run_id)
        return node.resume_fit(run_id, on_validation=pruning, pins=study.plan.pins)

    def start(started_run_id: str) -> None:
        study.start_job(job.number, started_run_id)
        metric = metric_in_mlflow(study.objectives[0])
        if metric is not None:
            Tracker(node.settings.tracking).run(started_run_id).announce_metric(metric)

    return node.fit(
        {"session_id": session_id, "model_type": model_type},
        on_start=start,
        on_validation=pruning,
        pins=study.plan.pins,
    )


def _has_begun(settings: Settings, run_id: str) -> bool:
    """Tell whether a run has stored its configuration, before which it has done nothing."""
    return CONFIGURATION in Tracker(settings.tracking).run(run_id).artifacts()


def _finish(study: SweepStudy, number: int, outcome: Outcome) -> None:
    training = outcome.steps["training"]
    study.finish_job(
        number,
        measure(outcome, study.objectives),
        interval=interval_of(outcome, study.objectives[0]),
        # Time before an interruption included.
        seconds=training["seconds"],
        steps=training["steps"],
    )


def candidates_of(study: SweepStudy) -> list[SweepJob]:
    """Return the finished jobs that may still be chosen: the best one, or the Pareto front."""
    if len(study.objectives) > 1:
        return study.front()
    best = study.best()
    return [] if best is None else [best]
