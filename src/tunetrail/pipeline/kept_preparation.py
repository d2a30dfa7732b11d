"""Keeping a preparation: its counts, its report and its files go to a run."""

from typing import Any

from tunetrail.data.flow.prepared import CHANGES, FLAGS, REPORT, SET_ASIDE, SUMMARY, PreparedSession
from tunetrail.data.report.report_data import ReportData
from tunetrail.data.report.session_report import report_section, write_report
from tunetrail.errors import SampleError
from tunetrail.pipeline.stage_context import log_step
from tunetrail.stores.tracking.tracker import TrackedRun


def keep_preparation(
    run: TrackedRun, session: PreparedSession, model_type: str, name: str, max_length: int
) -> dict[str, dict[str, Any]]:
    """Write the results of a preparation to a run and return them by step.

    Raises:
        SampleError: The rows can't be trained on; everything is written all the same.
    """
    steps = {"validation": session.validation_dict(), "cleaning": session.cleaning_dict()}
    for step, result in steps.items():
        # Without metrics: MLflow's page `Compare` draws the first one of a run, and how many rows
        # there were is the same for all runs of a session.
        log_step(run, step, result)
    keep_report(run, session, model_type, name, max_length)

    # Not before: the report shows what is wrong with the rows.
    if session.stopped is not None:
        raise SampleError(session.stopped)
    return steps


def keep_report(
    run: TrackedRun,
    session: PreparedSession,
    model_type: str,
    name: str,
    max_length: int,
    folder: str = "data",
) -> None:
    """Write the report of prepared rows and the rows set aside to a run's artifacts."""
    section = report_section(session, model_type, max_length)
    data = ReportData(title=name, sections=(section,))
    (pictures,) = write_report(data, session.folder / REPORT).pictures

    for file in (REPORT, SUMMARY, SET_ASIDE, CHANGES, FLAGS):
        run.log_artifact(session.folder / file, folder)
    # The report holds them as well; as artifacts they can be compared between runs.
    for picture_name, picture in pictures.items():
        run.log_picture(picture, f"{folder}/{picture_name}.png")
