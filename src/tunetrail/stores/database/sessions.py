"""Read the sessions of the database: samples, rejected rows and summaries."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, select, true
from sqlalchemy.orm import InstrumentedAttribute

from tunetrail.errors import SessionError, did_you_mean
from tunetrail.plain_values import plain_values
from tunetrail.samples import Sample, SampleKind, sample_kinds
from tunetrail.stores.database.connection import DatabaseConnection
from tunetrail.stores.database.failures import shown
from tunetrail.stores.database.tables import (
    RejectedSampleRow,
    SampleRow,
    SessionRow,
    TrainingRunRow,
    TrainingRunSessionRow,
)

NEW = "new"
"""The state of a session that was never trained on."""
# Row ids in one statement: databases bound the number of its parameters.
_MOST_PARAMETERS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredSample:
    """A sample and the id of its row in the database."""

    row_id: int
    sample: Sample


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleSnapshot:
    """The samples of one kind that a session has at a moment.

    Attributes:
        last_id: The id of the newest row; 0 without any.
        rows: Number of rows.
        digest: SHA-256 (hex) of the ids and the contents of all rows.
    """

    last_id: int
    rows: int
    digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RejectedSample:
    """A row that could not become a sample; `row` is its text (JSON if it was a mapping)."""

    row_id: int
    kind: SampleKind
    source: str
    row_number: int
    reason: str
    row: str
    created_at: datetime

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return plain_values(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionSummary:
    """The summary of a session.

    Attributes:
        session_id: The id of the session.
        created_at: The time at which its first row arrived.
        rejected: Number of rejected rows.
        shapes: Number of samples by kind and shape.
        state: State of the last training run that began, or `new`; of the last one if none began,
            as with a mistake in its settings.
        reason: Why this run failed or was interrupted; None if it did neither.
        last_training: The time at which it was created.
    """

    session_id: str
    created_at: datetime
    rejected: int = 0
    shapes: dict[str, dict[str, int]] = field(default_factory=dict)
    state: str = NEW
    reason: str | None = None
    last_training: datetime | None = None

    @property
    def samples(self) -> dict[str, int]:
        """Number of samples by kind."""
        return {kind: sum(shapes.values()) for kind, shapes in self.shapes.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return plain_values(self)


def check_session(database: DatabaseConnection, session_id: str) -> None:
    """Raise `SessionError`, naming the nearest known session, unless the session exists."""
    with database.reading() as connection:
        is_session = SessionRow.session_id == session_id
        if connection.scalar(select(SessionRow.session_id).where(is_session)) is not None:
            return
        # Read only for the message: a known session needs one look-up by its key.
        known = connection.scalars(select(SessionRow.session_id)).all()

    name = shown(database.url)
    if known:
        advice = f"{did_you_mean(session_id, known)} The database is {name}."
    else:
        state = "doesn't exist" if database.is_missing() else "is empty"
        advice = f" There are none yet: ingest samples first. The database {name} {state}."
    raise SessionError(
        f"session_id must name a session of the database, got {session_id!r}.{advice}"
    )


def session_exists(database: DatabaseConnection, session_id: str) -> bool:
    """Tell whether there is a session of that id."""
    statement = select(SessionRow.session_id).where(SessionRow.session_id == session_id)
    with database.transaction() as connection:
        return connection.scalar(statement) is not None


def discard_session_without_samples(database: DatabaseConnection, session_id: str) -> None:
    """Remove a session and its rejected rows, unless it has a sample or a training run."""
    with database.transaction() as connection:
        for table in (SampleRow, TrainingRunSessionRow):
            statement = select(table.session_id).where(table.session_id == session_id).limit(1)
            if connection.scalar(statement) is not None:
                return
        # The session last: its rows refer to it.
        is_rejected_row = RejectedSampleRow.session_id == session_id
        connection.execute(delete(RejectedSampleRow).where(is_rejected_row))
        connection.execute(delete(SessionRow).where(SessionRow.session_id == session_id))


def read_samples(
    database: DatabaseConnection,
    session_id: str,
    kind: SampleKind,
    chunk_size: int,
    last_id: int | None = None,
) -> Iterator[list[StoredSample]]:
    """Yield the samples that are present at the start, by row id; each chunk in a transaction.

    Args:
        database: The database.
        session_id: The session.
        kind: The kind of the samples.
        chunk_size: Rows of a chunk.
        last_id: The last row that counts; None for the newest one.
    """
    row = SampleRow
    columns = (row.id, row.shape, row.content, row.group_name, row.timestamp, row.weight, row.extra)
    is_of_kind = _samples_of_kind(session_id, kind, last_id)
    with database.reading() as connection:
        # Samples that arrive while these are read are left to the next training.
        last_id = connection.scalar(select(func.max(row.id)).where(*is_of_kind)) or 0

    # Pages by row id, not by offset: samples may be added while these are read.
    previous_id = 0
    while previous_id < last_id:
        statement = (
            select(*columns)
            .where(*is_of_kind, row.id > previous_id, row.id <= last_id)
            .order_by(row.id)
            .limit(chunk_size)
        )
        with database.reading() as connection:
            # One transaction per page: whoever takes the rows may need hours for them.
            rows = connection.execute(statement).all()

        yield [
            StoredSample(
                row_id=row_id,
                sample=Sample(
                    kind=kind,
                    shape=shape,
                    content=content,
                    group=group,
                    timestamp=timestamp,
                    weight=weight,
                    metadata=metadata,
                ),
            )
            for row_id, shape, content, group, timestamp, weight, metadata in rows
        ]
        previous_id = rows[-1][0]


def read_own_columns(
    database: DatabaseConnection, row_ids: Sequence[int]
) -> dict[int, dict[str, Any]]:
    """Return, by row id, the columns of samples that no shape knows; unknown ids are absent."""
    own_columns: dict[int, dict[str, Any]] = {}
    with database.reading() as connection:
        for start in range(0, len(row_ids), _MOST_PARAMETERS):
            is_asked_for = SampleRow.id.in_(row_ids[start : start + _MOST_PARAMETERS])
            statement = select(SampleRow.id, SampleRow.extra).where(is_asked_for)
            own_columns |= {row_id: extra for row_id, extra in connection.execute(statement)}
    return own_columns


def sessions_in_range(
    database: DatabaseConnection, kind: SampleKind, first_id: int, last_id: int
) -> list[str]:
    """Return the sessions that have samples of a kind with ids in a range, oldest samples first."""
    row = SampleRow
    statement = (
        select(row.session_id)
        .where(row.kind == str(kind), row.id >= first_id, row.id <= last_id)
        .group_by(row.session_id)
        .order_by(func.min(row.id))
    )
    with database.reading() as connection:
        return list(connection.scalars(statement))


def sample_ids(database: DatabaseConnection, session_id: str, kind: SampleKind) -> list[int]:
    """Return the row ids of a session's samples of a kind, ascending."""
    row = SampleRow
    statement = (
        select(row.id).where(row.session_id == session_id, row.kind == str(kind)).order_by(row.id)
    )
    with database.reading() as connection:
        return list(connection.scalars(statement))


def snapshot_samples(
    database: DatabaseConnection, session_id: str, kind: SampleKind, last_id: int | None = None
) -> SampleSnapshot:
    """Return which samples of a kind a session has, up to a row id; None for all of them."""
    row = SampleRow
    statement = (
        select(row.id, row.digest)
        .where(*_samples_of_kind(session_id, kind, last_id))
        .order_by(row.id)
    )
    newest_id = rows = 0
    contents = hashlib.sha256()
    with database.reading() as connection:
        for newest_id, digest in connection.execute(statement):
            contents.update(f"{newest_id}:{digest};".encode())
            rows += 1
    return SampleSnapshot(last_id=newest_id, rows=rows, digest=contents.hexdigest())


def count_shapes(
    database: DatabaseConnection, session_id: str, kind: SampleKind, last_id: int | None = None
) -> dict[str, int]:
    """Return how many samples of each shape a session has, by shape.

    Args:
        database: The database.
        session_id: The session.
        kind: The kind of the samples.
        last_id: The last row that counts; None for the newest one.
    """
    row = SampleRow
    statement = (
        select(row.shape, func.count())
        .where(*_samples_of_kind(session_id, kind, last_id))
        .group_by(row.shape)
        .order_by(row.shape)
    )
    with database.reading() as connection:
        return {shape: count for shape, count in connection.execute(statement)}


def _samples_of_kind(
    session_id: str, kind: SampleKind, last_id: int | None
) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions for the samples of a kind of a session, up to a row id."""
    conditions = (SampleRow.session_id == session_id, SampleRow.kind == str(kind))
    return conditions if last_id is None else (*conditions, SampleRow.id <= last_id)


def read_rejected_samples(database: DatabaseConnection, session_id: str) -> list[RejectedSample]:
    """Return the rejected rows of a session, oldest first."""
    row = RejectedSampleRow
    statement = (
        select(row.id, row.kind, row.source, row.row_number, row.reason, row.row, row.created_at)
        .where(row.session_id == session_id)
        .order_by(row.id)
    )
    with database.reading() as connection:
        rows = [dict(row) for row in connection.execute(statement).mappings()]

    return [
        RejectedSample(row_id=row.pop("id"), kind=SampleKind(row.pop("kind")), **row)
        for row in rows
    ]


def summarize(database: DatabaseConnection, session_id: str | None = None) -> list[SessionSummary]:
    """Return the summary of one session, or of all sessions, oldest first."""

    def is_selected(column: InstrumentedAttribute[str]) -> ColumnElement[bool]:
        return true() if session_id is None else column == session_id

    # Four statements and not one join, which would multiply samples, rejections and runs.
    created = (
        select(SessionRow.session_id, SessionRow.created_at)
        .where(is_selected(SessionRow.session_id))
        .order_by(SessionRow.created_at, SessionRow.session_id)
    )
    rejections = (
        select(RejectedSampleRow.session_id, func.count())
        .where(is_selected(RejectedSampleRow.session_id))
        .group_by(RejectedSampleRow.session_id)
    )
    with database.reading() as connection:
        sessions = connection.execute(created).all()
        rejected = {name: count for name, count in connection.execute(rejections)}
        shapes = _shapes(connection, is_selected(SampleRow.session_id))
        last_runs = _last_runs(connection, is_selected(TrainingRunSessionRow.session_id))

    summaries = []
    for name, created_at in sessions:
        last_run = last_runs.get(name)
        summary = SessionSummary(
            session_id=name,
            created_at=created_at,
            rejected=rejected.get(name, 0),
            shapes=shapes[name],
            state=NEW if last_run is None else last_run.state,
            reason=None if last_run is None else last_run.reason,
            last_training=None if last_run is None else last_run.created_at,
        )
        summaries.append(summary)
    return summaries


def _shapes(
    connection: Connection, is_selected: ColumnElement[bool]
) -> dict[str, dict[str, dict[str, int]]]:
    """Return the number of samples by session, kind and shape."""
    statement = (
        select(SampleRow.session_id, SampleRow.kind, SampleRow.shape, func.count())
        .where(is_selected)
        .group_by(SampleRow.session_id, SampleRow.kind, SampleRow.shape)
    )
    # Every kind has a count, so that callers needn't ask whether a session has samples of it.
    counts: dict[str, dict[str, dict[str, int]]] = defaultdict(
        lambda: {str(kind): {} for kind in sample_kinds()}
    )
    for name, kind, shape, count in connection.execute(statement):
        counts[name].setdefault(kind, {})[shape] = count
    return counts


def _last_runs(connection: Connection, is_selected: ColumnElement[bool]) -> dict[str, Any]:
    """Return the line of the last training run that began, or of the last one, by session."""
    run, run_session = TrainingRunRow, TrainingRunSessionRow
    statement = (
        select(run_session.session_id, run.state, run.reason, run.created_at, run.mlflow_run_id)
        .join(run, run.id == run_session.training_run_id)
        .where(is_selected)
        .order_by(run.created_at, run.id)
    )
    last_runs: dict[str, Any] = {}
    # Ordered by time, so that the last run of each session overwrites the earlier ones.
    for line in connection.execute(statement):
        # A run that has begun is known to MLflow; a mistake in its settings ends it before.
        never_began = line.reason is not None and line.mlflow_run_id is None
        if not never_began or line.session_id not in last_runs:
            last_runs[line.session_id] = line
    return last_runs
