"""From a prepared session's files to what the report shows of it. Draws nothing."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from tunetrail.data import row_files
from tunetrail.data.checks.results import StepAccount
from tunetrail.data.flow.accounts import reason_kind
from tunetrail.data.flow.prepared import (
    CHANGES,
    FLAGS,
    REPORT,
    SET_ASIDE,
    PreparedSession,
    side_file,
)
from tunetrail.data.report.report import render
from tunetrail.data.report.report_data import ReportData, ReportSection
from tunetrail.data.splits import SIDES

_SHOWN_LINES = 5_000
"""Rows set aside, and rows changed, that the report is drawn from; the files hold all."""


def report_section(session: PreparedSession, name: str, max_length: int | None) -> ReportSection:
    """Return a prepared session as one section of a report.

    Args:
        session: The session.
        name: The section's heading: `embedding` or `llm`.
        max_length: Tokens that the model reads.
    """
    columns = ["characters", "token_count"]
    files = [side_file(session.folder, side) for side in SIDES]
    label = ["label"] if "label" in pq.read_schema(files[0]).names else []
    frames = [row_files.read_rows(file, [*columns, *label]) for file in files]
    rows = pd.concat(frames, ignore_index=True)
    tokens = rows["token_count"].to_numpy()
    lengths = {"characters": rows["characters"].to_numpy()}
    if len(tokens) and tokens.min() >= 0:
        lengths["tokens"] = tokens
    measures = {
        each.check: each.measure for each in session.findings if each.check.startswith("drift.")
    }
    return ReportSection(
        name=name,
        account=session.account,
        findings=session.findings,
        sides=session.sides,
        set_aside=_first_lines(session.folder / SET_ASIDE),
        changes=_first_lines(session.folder / CHANGES),
        lengths={unit: np.asarray(values) for unit, values in lengths.items()},
        labels=dict(Counter(rows["label"])) if label else {},
        max_length=max_length,
        drift={check.partition(".")[2]: measure for check, measure in measures.items()},
        privacy=session.placeholders,
        stopped=session.stopped,
    )


def write_report(data: ReportData, path: Path) -> None:
    """Write the report to an HTML file."""
    path.write_text(render(data), encoding="utf-8")


def join_sessions(
    sessions: Mapping[str, PreparedSession],
    folder: Path,
    title: str,
    max_lengths: Mapping[str, int],
) -> PreparedSession:
    """Put the prepared parts of one session, by model type, together in `folder`, with one report over all of them.

    The files of the parts are moved or copied; the account and the findings of the result are those of all parts.
    """
    sections = tuple(
        report_section(part, name, max_lengths[name]) for name, part in sessions.items()
    )
    parts = list(sessions.values())
    (folder / "rows").mkdir(exist_ok=True)
    for name in (*(str(side_file(Path(), side)) for side in SIDES), SET_ASIDE, CHANGES, FLAGS):
        _join_files([part.folder / name for part in parts], folder / name)
    write_report(ReportData(title=title, sections=sections), folder / REPORT)
    session = PreparedSession(
        folder=folder,
        account=tuple(
            _sum_of(steps) for steps in zip(*(part.account for part in parts), strict=True)
        ),
        findings=tuple(
            replace(finding, message=f"{name}: {finding.message}") if len(parts) > 1 else finding
            for name, part in sessions.items()
            for finding in part.findings
        ),
        sides=sum((Counter(part.sides) for part in parts), Counter()),
        clusters=sum((Counter(part.clusters) for part in parts), Counter()),
        method=", ".join(dict.fromkeys(part.method for part in parts)),
        warnings=tuple(warning for part in parts for warning in part.warnings),
        placeholders=sum((Counter(part.placeholders) for part in parts), Counter()),
        stopped=" ".join(
            _named(name, part, len(parts)) for name, part in sessions.items() if part.stopped
        )
        or None,
    )
    session.write_summary()
    return session


def _named(name: str, part: PreparedSession, parts: int) -> str:
    return f"{name}: {part.stopped}" if parts > 1 else str(part.stopped)


def _join_files(files: Sequence[Path], target: Path) -> None:
    if len(files) == 1:
        files[0].replace(target)
        return
    columns = dict.fromkeys(name for file in files for name in pq.read_schema(file).names)
    writer = row_files.RowWriter(target, row_files.schema_of(list(columns)))
    for file in files:
        for frame in row_files.frames_of_file(file):
            writer.write(frame)
    writer.close()


def _sum_of(steps: Sequence[StepAccount]) -> StepAccount:
    reasons: Counter[str] = sum((Counter(step.reasons) for step in steps), Counter())
    return StepAccount(
        step=steps[0].step,
        rows_in=sum(step.rows_in for step in steps),
        rows_out=sum(step.rows_out for step in steps),
        set_aside=sum(step.set_aside for step in steps),
        changed=sum(step.changed for step in steps),
        reasons=dict(reasons.most_common()),
    )


def _first_lines(path: Path) -> pd.DataFrame:
    frame = next(row_files.frames_of_file(path, _SHOWN_LINES), None)
    if frame is None:
        return row_files.frame_of(row_files.SET_ASIDE_SCHEMA.empty_table())
    return frame.assign(reason=[reason_kind(reason) for reason in frame["reason"]])
