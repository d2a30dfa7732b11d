"""Rows of sessions: the samples of a session, and of the session before it, as frames of rows."""

from collections.abc import Iterator
from itertools import chain, islice

import pandas as pd

from tunetrail.config import Settings
from tunetrail.data.rows import rows_frame, rows_of_shapes
from tunetrail.pipeline.families import ModelFamily
from tunetrail.stores.database import DatabaseManager


def session_frames(
    database: DatabaseManager, session_id: str, family: ModelFamily
) -> Iterator[pd.DataFrame]:
    """Yield a session's samples of a family in frames, so that few rows are in memory at a time."""
    for chunk in database.read_samples(session_id, family.kind):
        yield rows_frame((stored.row_id, stored.sample) for stored in chunk)


def previous_rows(
    database: DatabaseManager, session_id: str, family: ModelFamily, settings: Settings
) -> pd.DataFrame | None:
    """Return rows of the last earlier session with samples of the family; None if there is none."""
    # Oldest first; the session itself may be trained on for the first time, or again.
    session_ids = [
        summary.session_id for summary in database.sessions() if summary.samples.get(family.kind)
    ]
    if session_id in session_ids:
        session_ids = session_ids[: session_ids.index(session_id)]
    row_count = settings.validation.judged_rows
    if not session_ids or not row_count:
        return None

    # As many rows as the checks look at: the previous session may hold millions.
    samples = chain.from_iterable(database.read_samples(session_ids[-1], family.kind))
    rows = rows_frame((stored.row_id, stored.sample) for stored in islice(samples, row_count))

    shapes = family.chosen_shapes(settings)
    return rows_of_shapes(rows, shapes) if shapes else rows
