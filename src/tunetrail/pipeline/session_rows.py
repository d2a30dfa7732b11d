"""Rows of sessions: the samples of a session, and of the session before it, as frames of rows."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import pandas as pd

from tunetrail.config import Settings
from tunetrail.data.rows import rows_frame, rows_of_shapes
from tunetrail.errors import ConfigError, did_you_mean
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.pipeline.pins import Pins
from tunetrail.samples import shape_named
from tunetrail.stores.database.manager import DatabaseManager

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SessionRows:
    """The rows of one session.

    Attributes:
        rows: The samples, as `tunetrail.data.rows.rows_frame` makes them: one frame, or any number
            of them with ascending row ids, of which few are in memory at a time.
        reference: Rows of the previous session, to measure drift against; None if there are none.
    """

    rows: pd.DataFrame | Iterable[pd.DataFrame]
    reference: pd.DataFrame | None = None


def session_frames(
    database: DatabaseManager, session_id: str, family: ModelFamily, last_id: int | None = None
) -> Iterator[pd.DataFrame]:
    """Yield a session's samples of a family in frames, so that few rows are in memory at a time.

    With `last_id`, samples that came after that row are left out.
    """
    for chunk in database.read_samples(session_id, family.kind, last_id=last_id):
        yield rows_frame((stored.row_id, stored.sample) for stored in chunk)


def training_frames(
    database: DatabaseManager,
    session_id: str,
    family: ModelFamily,
    settings: Settings,
    last_id: int | None = None,
) -> Iterator[pd.DataFrame]:
    """Yield the frames of a session that a training prepares.

    If the session has samples of several objectives and the settings choose none, these are the
    samples of the family's default objective; a warning names the others.

    Args:
        database: The database that holds the session.
        session_id: The session.
        family: The family that learns from the samples.
        settings: All that can be set.
        last_id: The last row that counts; None for the newest one.
    """
    frames = session_frames(database, session_id, family, last_id)
    counts = database.count_shapes(session_id, family.kind, last_id)
    shapes = _default_shapes(counts, family, settings)
    if not shapes:
        yield from frames
        return

    unlearnt = [
        f"{count} {shape} ({family.objective_setting}={shape_named(shape).objective} learns them)"
        for shape, count in counts.items()
        if shape not in shapes
    ]
    logger.warning(
        "%s: the session has samples of several objectives, and this training takes %s ones; "
        "not learnt: %s",
        family.name,
        family.default_objective,
        ", ".join(unlearnt),
    )
    for frame in frames:
        yield rows_of_shapes(frame, shapes)


def _default_shapes(
    counts: Mapping[str, int], family: ModelFamily, settings: Settings
) -> tuple[str, ...]:
    """Return the shapes of the default objective, none if there is nothing to decide."""
    shapes = tuple(
        shape for shape in counts if shape_named(shape).objective == family.default_objective
    )
    is_undecided = not family.chosen_shapes(settings) and len(shapes) < len(counts)
    return shapes if is_undecided else ()


def rows_by_session(
    database: DatabaseManager,
    session_ids: Sequence[str],
    family: ModelFamily,
    settings: Settings,
    pins: Pins | None = None,
) -> dict[str, SessionRows]:
    """Return what a training prepares of each session, which is read when it is needed.

    With `pins`, samples that came later are left out.
    """
    sessions = {}
    for session_id in session_ids:
        last_id = None if pins is None else pins.last_id(session_id)
        sessions[session_id] = SessionRows(
            rows=training_frames(database, session_id, family, settings, last_id),
            reference=previous_rows(database, session_id, family, settings),
        )
    return sessions


def previous_rows(
    database: DatabaseManager, session_id: str, family: ModelFamily, settings: Settings
) -> pd.DataFrame | None:
    """Return rows of the session that drift is measured from; None if there is none.

    Raises:
        ConfigError: The session that the settings name has no samples of the family.
    """
    previous = _previous_session(database, session_id, family, settings)
    row_count = settings.validation.judged_rows
    if previous is None or not row_count:
        return None
    logger.info("%s: drift is measured from session %s", family.name, previous)

    # As many rows as the checks look at: the previous session may hold millions.
    samples = chain.from_iterable(database.read_samples(previous, family.kind))
    rows = rows_frame((stored.row_id, stored.sample) for stored in islice(samples, row_count))

    counts = database.count_shapes(previous, family.kind)
    shapes = family.chosen_shapes(settings) or _default_shapes(counts, family, settings)
    return rows_of_shapes(rows, shapes) if shapes else rows


def _previous_session(
    database: DatabaseManager, session_id: str, family: ModelFamily, settings: Settings
) -> str | None:
    """Return the session that the settings name, or the last one before; None if there is none."""
    # Oldest first; the session itself may be trained on for the first time, or again.
    session_ids = [
        summary.session_id for summary in database.sessions() if summary.samples.get(family.kind)
    ]

    against = settings.validation.drift.against
    if against is not None:
        if against not in session_ids:
            raise ConfigError(
                f"validation.drift.against must be a session with {family.kind} samples, "
                f"got {against!r}.{did_you_mean(against, session_ids)}"
            )
        return against

    if session_id in session_ids:
        session_ids = session_ids[: session_ids.index(session_id)]
    return session_ids[-1] if session_ids else None
