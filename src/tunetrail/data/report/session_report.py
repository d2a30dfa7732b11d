"""The report of prepared sessions: their files become what the report shows."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from tunetrail.data import row_files
from tunetrail.data.flow.accounts import reason_kind
from tunetrail.data.flow.joined_sessions import join_files, sum_of_sessions
from tunetrail.data.flow.prepared import (
    CHANGES,
    FLAGS,
    REPORT,
    SET_ASIDE,
    PreparedSession,
    side_file,
)
from tunetrail.data.report.report import DataReportPage, render
from tunetrail.data.report.report_data import ReportData, ReportSection
from tunetrail.data.sides import SIDES
from tunetrail.paths import private_folder, write_private_text

# Of the rows set aside, and of the rows changed: the files have all of them.
_LINES_READ = 5_000


def report_section(session: PreparedSession, name: str, max_length: int | None) -> ReportSection:
    """Return a prepared session as one section of a report.

    Args:
        session: The session.
        name: The section's heading: `embedding` or `llm`.
        max_length: Tokens that the model reads.
    """
    files = [side_file(session.folder, side) for side in SIDES]
    # The files of all sides have the same columns.
    has_labels = "label" in pq.read_schema(files[0]).names
    columns = ["characters", "token_count", *(["label"] if has_labels else [])]
    # Without the texts, because a session may be larger than memory.
    rows = pd.concat([row_files.read_rows(file, columns) for file in files], ignore_index=True)

    lengths: dict[str, npt.NDArray[Any]] = {"characters": rows["characters"].to_numpy()}
    tokens = rows["token_count"].to_numpy()
    # -1 if the tokens weren't counted.
    if len(tokens) and tokens.min() >= 0:
        lengths["tokens"] = tokens

    drift = {}
    for result in session.findings:
        group, _, measure = result.check.partition(".")
        if group == "drift":
            drift[measure] = result.measure

    return ReportSection(
        name=name,
        account=session.account,
        findings=session.findings,
        sides=session.sides,
        set_aside=_first_lines(session.folder / SET_ASIDE),
        changes=_first_lines(session.folder / CHANGES),
        lengths=lengths,
        labels=Counter(rows["label"]) if has_labels else {},
        max_length=max_length,
        drift=drift,
        privacy=session.placeholders,
        stopped=session.stopped,
        replayed=session.replayed,
    )


def write_report(data: ReportData, path: Path) -> DataReportPage:
    """Write the report to an HTML file, and return it."""
    rendered = render(data)
    write_private_text(path, rendered.html)
    return rendered


def join_sessions(
    sessions: Mapping[str, PreparedSession],
    folder: Path,
    title: str,
    max_lengths: Mapping[str, int],
) -> PreparedSession:
    """Join the prepared rows of one session's model types in `folder`, with one report of them all.

    The files are moved, or copied if there are several model types. The account and the findings of
    the result are sums over all model types.

    Args:
        sessions: The prepared sessions by model type.
        folder: The folder of the result.
        title: Title of the report.
        max_lengths: Tokens that the model reads, by model type.
    """
    sections = []
    for model_type, session in sessions.items():
        sections.append(report_section(session, model_type, max_lengths[model_type]))

    private_folder(folder / "rows")
    side_names = [str(side_file(Path(), side)) for side in SIDES]
    for name in (*side_names, SET_ASIDE, CHANGES, FLAGS):
        join_files([session.folder / name for session in sessions.values()], folder / name)
    write_report(ReportData(title=title, sections=tuple(sections)), folder / REPORT)

    joined = sum_of_sessions(sessions, folder)
    joined.write_summary()
    return joined


def _first_lines(path: Path) -> pd.DataFrame:
    frame = next(row_files.frames_of_file(path, _LINES_READ), None)
    if frame is None:
        return row_files.frame_of(row_files.SET_ASIDE_SCHEMA.empty_table())
    # Grouped by kind: "450 tokens are ..." and "451 tokens are ..." are one reason.
    return frame.assign(reason=list(map(reason_kind, frame["reason"])))
