"""Joins the files and accounts of several prepared sessions into one session."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from tunetrail.data import row_files
from tunetrail.data.checks.results import CheckResult, StepAccount
from tunetrail.data.flow.prepared import PreparedSession


def sum_of_sessions(sessions: Mapping[str, PreparedSession], folder: Path) -> PreparedSession:
    """Return the sums of the accounts, counts and findings of prepared sessions.

    Args:
        sessions: The prepared sessions by model type, or by their ids.
        folder: The folder of the result.
    """
    findings: list[CheckResult] = []
    warnings: list[str] = []
    stopped = []
    for model_type, session in sessions.items():
        # A single one needs no prefix to tell whose finding it is.
        prefix = f"{model_type}: " if len(sessions) > 1 else ""
        for result in session.findings:
            findings.append(replace(result, message=f"{prefix}{result.message}"))
        warnings += session.warnings
        if session.stopped is not None:
            stopped.append(f"{prefix}{session.stopped}")

    listed = list(sessions.values())
    # Every session has the same steps, in the same order.
    steps = zip(*(session.account for session in listed), strict=True)
    return PreparedSession(
        folder=folder,
        account=tuple(map(_sum_of_accounts, steps)),
        findings=tuple(findings),
        sides=_sum_of_counts([session.sides for session in listed]),
        clusters=_sum_of_counts([session.clusters for session in listed]),
        method=", ".join(dict.fromkeys(session.method for session in listed)),
        warnings=tuple(warnings),
        placeholders=_sum_of_counts([session.placeholders for session in listed]),
        stopped=" ".join(stopped) or None,
        replayed=_sum_of_counts([session.replayed for session in listed]),
    )


def join_files(files: Sequence[Path], target: Path) -> None:
    """Move one Parquet file to a place, or write the rows of several files there."""
    if len(files) == 1:
        files[0].replace(target)
        return

    # A model type's files have the columns of its shapes only; in the joined file, others are null.
    columns: dict[str, None] = {}
    for file in files:
        columns |= dict.fromkeys(pq.read_schema(file).names)
    writer = row_files.RowWriter(target, row_files.schema_of(list(columns)))
    for file in files:
        for frame in row_files.frames_of_file(file):
            writer.write(frame)
    writer.close()


def _sum_of_counts(counts: Sequence[Mapping[str, int]]) -> Counter[str]:
    return sum(map(Counter, counts), Counter())


def _sum_of_accounts(steps: Sequence[StepAccount]) -> StepAccount:
    rows_in = rows_out = set_aside = changed = 0
    reasons: Counter[str] = Counter()
    for step in steps:
        rows_in += step.rows_in
        rows_out += step.rows_out
        set_aside += step.set_aside
        changed += step.changed
        reasons.update(step.reasons)

    return StepAccount(
        step=steps[0].step,
        rows_in=rows_in,
        rows_out=rows_out,
        set_aside=set_aside,
        changed=changed,
        reasons=dict(reasons.most_common()),
    )
