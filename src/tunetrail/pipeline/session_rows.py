"""A session's samples as frames of rows, few of them in memory at a time, and those of the session before it."""

from collections.abc import Iterator
from itertools import islice

import pandas as pd

from tunetrail.config import Settings
from tunetrail.data.rows import rows_frame, rows_of_shapes
from tunetrail.samples import SampleKind, shapes_of_kind
from tunetrail.stores.database import DatabaseManager


def session_frames(
    database: DatabaseManager, session_id: str, model_type: str
) -> Iterator[pd.DataFrame]:
    """Yield a session's samples of a model type, as `tunetrail.data.rows.rows_frame` makes frames of them."""
    for chunk in database.read_samples(session_id, SampleKind(model_type)):
        yield rows_frame((stored.row_id, stored.sample) for stored in chunk)


def previous_rows(
    database: DatabaseManager, session_id: str, model_type: str, settings: Settings
) -> pd.DataFrame | None:
    """Return rows of the last session before this one that has samples of the model type, None if none has."""
    names = [each.session_id for each in database.sessions() if getattr(each, model_type)]
    before = names[: names.index(session_id)] if session_id in names else names
    wanted = settings.validation.judged_rows
    if not before or not wanted:
        return None
    chunks = database.read_samples(before[-1], SampleKind(model_type))
    stored = islice((each for chunk in chunks for each in chunk), wanted)
    rows = rows_frame((each.row_id, each.sample) for each in stored)
    shapes = chosen_shapes(model_type, settings)
    return rows_of_shapes(rows, shapes) if shapes else rows


def chosen_shapes(model_type: str, settings: Settings) -> tuple[str, ...]:
    """Return the shapes of samples that the settings choose for a model type; none means all of them."""
    if model_type == "llm":
        shapes = shapes_of_kind(SampleKind.LLM)
        return tuple(shape.name for shape in shapes if shape.objective == settings.llm.objective)
    return () if settings.embedding.shape is None else (settings.embedding.shape,)
