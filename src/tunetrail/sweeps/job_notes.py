"""The notes of the jobs that lost: what MLflow's page of a job's run says about it."""

from tunetrail.reporting.readable import as_markdown
from tunetrail.stores.tracking.tracker import Tracker
from tunetrail.sweeps.job_words import shown_overrides, value_in_words
from tunetrail.sweeps.summary import SweepSummary
from tunetrail.sweeps.sweep_job import JobState, SweepJob


def write_job_notes(tracker: Tracker, summary: SweepSummary) -> None:
    """Write to the run of each job that lost how it did in its sweep, unless the run has a note.

    The run of a job that can be evaluated gets its note then: what the gate decided.

    Args:
        tracker: The MLflow store of the sweep.
        summary: The sweep, all of whose jobs have ended.
    """
    in_the_running = (summary.best, *summary.front)
    for job in summary.jobs:
        run_id = job.mlflow_run_id
        if job.number in in_the_running or run_id is None or tracker.find_run(run_id) is None:
            continue
        tracker.run(run_id).describe(as_markdown(job_note(summary, job)))


def job_note(summary: SweepSummary, job: SweepJob) -> str:
    """Return in one or two sentences how a job that has lost did in its sweep."""
    swept = ", ".join(shown_overrides(job)) or "nothing varies"
    which = f"Job {job.number} of {len(summary.jobs)} in a sweep ({swept})"
    if job.state != JobState.FINISHED:
        ended = "failed" if job.state == JobState.FAILED else "was pruned"
        reason = str(job.reason).rstrip(".")
        return f"{which} {ended}: {reason}."

    finished, best = summary.finished, summary.best_job
    assert best is not None
    return (
        f"{which}: {summary.labels[0]} of the validation rows is {value_in_words(job)}, place "
        f"{finished.index(job) + 1} of {len(finished)}. Job {best.number} was better with "
        f"{value_in_words(best)}, so this model wasn't evaluated on the test rows."
    )
