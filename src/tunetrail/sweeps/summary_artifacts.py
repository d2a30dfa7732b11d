"""Write the summary of a sweep to its run in MLflow: curves, page, pictures, tables and a note."""

import logging
from pathlib import Path
from typing import Any

import pandas as pd

from tunetrail.errors import one_line
from tunetrail.paths import write_private_text
from tunetrail.reporting.readable import as_markdown
from tunetrail.scratch import scratch_folder
from tunetrail.stores.database.manager import DatabaseManager
from tunetrail.stores.tracking.tracker import TrackedRun
from tunetrail.sweeps.job_notes import write_job_notes
from tunetrail.sweeps.page import sweep_page
from tunetrail.sweeps.pictures import sweep_pictures
from tunetrail.sweeps.study import SweepStudy
from tunetrail.sweeps.summary import SweepSummary, summarize_sweep

logger = logging.getLogger(__name__)

SWEEP_FOLDER = "sweep"
"""Folder of the summary among the artifacts of the sweep's run."""
SWEEP_PAGE = f"{SWEEP_FOLDER}/sweep.html"


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
