"""United sessions: the sides of several prepared sessions, without twins across them.

Each session has been prepared and split by itself, so a row has the side that it has in a training
of its session alone. Only what the sessions show together is decided here: a row whose twin another
session holds out is learnt by nobody, and of equal rows the oldest one stays.
"""

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from tunetrail.config import CleaningConfig, SplitConfig
from tunetrail.data import row_files
from tunetrail.data.checks.results import StepAccount
from tunetrail.data.flow.accounts import reason_kind
from tunetrail.data.flow.joined_sessions import join_files, sum_of_sessions
from tunetrail.data.flow.prepared import CHANGES, FLAGS, SET_ASIDE, PreparedSession, side_file
from tunetrail.data.flow.removals import duplicate_rows
from tunetrail.data.rows import (
    SESSION_COLUMN,
    content_text,
    object_series,
    records_of,
    set_aside_frame,
    stacked_rows,
)
from tunetrail.data.sides import SIDES
from tunetrail.data.twins.duplicates import FrameRows, sketch_book
from tunetrail.paths import private_folder
from tunetrail.scratch import scratch_folder

_BLOCK_ROWS = 10_000
# Column with the side of a row, while rows of all sides are compared.
_SIDE = "side"
# Of rows that are twins, those on the earlier side stay: the test rows are to be complete.
_PRECEDENCE = ("test", "validation", "train")


def unite_sessions(
    sessions: Mapping[str, PreparedSession],
    folder: Path,
    split: SplitConfig,
    cleaning: CleaningConfig,
) -> PreparedSession:
    """Unite prepared sessions in `folder`, with the session of each row in a column.

    Args:
        sessions: The prepared sessions by their ids. If one is stopped, so is the result.
        folder: The folder of the result.
        split: Says which rows are twins.
        cleaning: Says which duplicates are dropped.
    """
    private_folder(folder / "rows")
    summed = sum_of_sessions(sessions, folder)
    for name in (SET_ASIDE, CHANGES, FLAGS):
        # Copies: the sessions keep their files, which are read below.
        copies = [_copied(session.folder / name) for session in sessions.values()]
        join_files(copies, folder / name)

    rows = _rows_of(sessions)
    removed: dict[int, str] = {}
    if len(rows):
        keys, removed = _without_twins(rows, split, cleaning)
        rows["cluster"] = object_series(keys)
    # By position: `rows` has a new index, from 0.
    remaining = rows.drop(index=list(removed))

    sides, clusters = {}, {}
    for side in SIDES:
        on_side = remaining[remaining[_SIDE] == side].drop(columns=_SIDE)
        frame = on_side.reset_index(drop=True)
        schema = row_files.schema_of(list(frame.columns))
        row_files.write_rows(frame, schema, side_file(folder, side))
        sides[side], clusters[side] = len(frame), int(frame["cluster"].nunique())

    _append_set_aside(folder, rows, removed)
    *steps, split_step = summed.account
    united = replace(
        summed,
        account=(*steps, _with_removed(split_step, list(removed.values()))),
        sides=sides,
        clusters=clusters,
        warnings=(*summed.warnings, *_warnings(rows, removed)),
        stopped=summed.stopped or _why_empty(sides),
    )
    united.write_summary()
    return united


def _without_twins(
    rows: pd.DataFrame, split: SplitConfig, cleaning: CleaningConfig
) -> tuple[list[str], dict[int, str]]:
    """Return the cluster of each row among all sessions, and why some are left out, by position."""
    with scratch_folder() as folder:
        blocks = []
        for start in range(0, len(rows), _BLOCK_ROWS):
            blocks.append(FrameRows(rows.iloc[start : start + _BLOCK_ROWS]))
        sketches = sketch_book(Path(folder), blocks)
        clusters = sketches.cluster_keys(split.near_duplicate_similarity)

        removed = _twins_of_held_out(rows[_SIDE], clusters)
        remaining = np.ones(len(rows), dtype=bool)
        remaining[list(removed)] = False
        row_ids = rows["row_id"].to_numpy()
        # Across sessions only: each has lost its own duplicates already.
        if cleaning.drop_duplicates:
            originals = sketches.exact_duplicates(remaining)
            removed |= duplicate_rows(row_ids, originals, "duplicate")
            remaining[list(removed)] = False
        if cleaning.near_duplicate_similarity:
            originals = sketches.near_duplicates(cleaning.near_duplicate_similarity, remaining)
            removed |= duplicate_rows(row_ids, originals, "near-duplicate")
    return clusters, removed


def _twins_of_held_out(sides: pd.Series, clusters: Sequence[str]) -> dict[int, str]:
    """Return why rows are left out whose twins are on a side of higher precedence."""
    # A cluster's rows may stay on one side only: the first one in the order of precedence.
    rank = sides.map(_PRECEDENCE.index)
    first_rank = rank.groupby(np.array(clusters)).transform("min")
    removed = {}
    for position in np.flatnonzero(rank > first_rank).tolist():
        side = _PRECEDENCE[first_rank.iloc[position]]
        removed[position] = f"near-duplicate of a {side} row of another session"
    return removed


def _rows_of(sessions: Mapping[str, PreparedSession]) -> pd.DataFrame:
    """Return the rows of all sides of all sessions, the oldest first."""
    frames = []
    for session_id, session in sessions.items():
        for side in SIDES:
            frame = session.frame(side)
            names = object_series([session_id] * len(frame), frame.index)
            sides = object_series([side] * len(frame), frame.index)
            frames.append(frame.assign(**{SESSION_COLUMN: names, _SIDE: sides}))
    return stacked_rows(frames).sort_values("row_id").reset_index(drop=True)


def _copied(file: Path) -> Path:
    return Path(shutil.copyfile(file, file.with_name(f".copy-{file.name}")))


def _append_set_aside(folder: Path, rows: pd.DataFrame, removed: Mapping[int, str]) -> None:
    """Add the rows that are left out to the rows set aside."""
    lines = []
    records = records_of(rows.iloc[list(removed)])
    for record, reason in zip(records, removed.values(), strict=True):
        content = content_text(record)
        lines.append((int(record["row_id"]), reason, content, content))

    file = folder / SET_ASIDE
    earlier = row_files.read_rows(file)
    frame = stacked_rows([earlier, set_aside_frame("split", lines)])
    row_files.write_rows(frame, row_files.SET_ASIDE_SCHEMA, file)


def _with_removed(step: StepAccount, reasons: Sequence[str]) -> StepAccount:
    """Return the account of the split with rows that are left out."""
    counts = Counter(step.reasons)
    for reason in reasons:
        counts[reason_kind(reason)] += 1
    return replace(
        step,
        rows_out=step.rows_out - len(reasons),
        set_aside=step.set_aside + len(reasons),
        reasons=dict(counts.most_common()),
    )


def _why_empty(sides: Mapping[str, int]) -> str | None:
    """Return why the rows can't be trained on if a side has lost all of its rows."""
    empty = [side for side, rows in sides.items() if not rows]
    if not empty:
        return None
    return (
        f"the {' and the '.join(empty)} split of the sessions must have rows, got none: all are "
        "near-duplicates of rows that another session holds out. Train on one of the sessions."
    )


def _warnings(rows: pd.DataFrame, removed: Mapping[int, str]) -> list[str]:
    """Return a sentence if rows are left out."""
    if not removed:
        return []
    sessions = Counter(rows[SESSION_COLUMN].iloc[list(removed)])
    listed = ", ".join(f"{count} of {session}" for session, count in sessions.items())
    return [
        f"{len(removed)} of {len(rows)} rows are left out, as another session has near-duplicates "
        f"or holds them out: {listed}"
    ]
