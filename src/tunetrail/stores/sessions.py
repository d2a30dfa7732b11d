"""What the database holds about sessions: their samples, their rejected rows and their summaries. Only reads."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, select, true
from sqlalchemy.orm import InstrumentedAttribute

from tunetrail.errors import SessionError, did_you_mean
from tunetrail.samples import Sample, SampleKind, sample_kinds
from tunetrail.stores.connection import DatabaseConnection
from tunetrail.stores.tables import RejectedSampleRow, SampleRow, SessionRow, TrainingRunRow

NEW = "new"
"""The state of a session that was never trained on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredSample:
    """A sample and the number of its row in the database."""

    row_id: int
    sample: Sample


@dataclass(frozen=True, kw_only=True, slots=True)
class RejectedSample:
    """A row that could not become a sample; `row` is its text (JSON where it was a mapping)."""

    row_id: int
    kind: SampleKind
    source: str
    row_number: int
    reason: str
    row: str
    created_at: datetime

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return dataclasses.asdict(self) | {
            "kind": str(self.kind),
            "created_at": self.created_at.isoformat(),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionSummary:
    """A session at a glance.

    Attributes:
        session_id: Its name.
        created_at: When its first row arrived.
        rejected: Number of rejected rows.
        shapes: Number of samples by kind and shape.
        state: State of the last training run, or `new`.
        last_training: When the last training run was created.
    """

    session_id: str
    created_at: datetime
    rejected: int = 0
    shapes: dict[str, dict[str, int]] = field(default_factory=dict)
    state: str = NEW
    last_training: datetime | None = None

    @property
    def samples(self) -> dict[str, int]:
        """Number of samples by kind."""
        return {kind: sum(shapes.values()) for kind, shapes in self.shapes.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return dataclasses.asdict(self) | {
            "created_at": self.created_at.isoformat(),
            "last_training": None if self.last_training is None else self.last_training.isoformat(),
        }


def check_session(database: DatabaseConnection, session_id: str) -> None:
    """Raise `SessionError`, naming the nearest known session, unless the session exists."""
    with database.transaction() as connection:
        found = connection.scalar(
            select(SessionRow.session_id).where(SessionRow.session_id == session_id)
        )
        known = [] if found else list(connection.scalars(select(SessionRow.session_id)))
    if found is None:
        advice = (
            did_you_mean(session_id, known)
            if known
            else " There are none yet: ingest samples first."
        )
        raise SessionError(
            f"session_id must name a session of the database, got {session_id!r}.{advice}"
        )


def read_samples(
    database: DatabaseConnection, session_id: str, kind: SampleKind, chunk_size: int
) -> Iterator[list[StoredSample]]:
    """Yield the samples present at the start, in the order of their row ids; each chunk is a transaction of its own."""
    of_kind = (SampleRow.session_id == session_id, SampleRow.kind == str(kind))
    with database.transaction() as connection:
        last = connection.scalar(select(func.max(SampleRow.id)).where(*of_kind)) or 0
    row, position = SampleRow, 0
    columns = (row.id, row.shape, row.content, row.group_name, row.timestamp, row.weight, row.extra)
    while position < last:
        statement = (
            select(*columns)
            .where(*of_kind, SampleRow.id > position, SampleRow.id <= last)
            .order_by(SampleRow.id)
            .limit(chunk_size)
        )
        with database.transaction() as connection:
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
        position = rows[-1][0]


def read_rejected_samples(database: DatabaseConnection, session_id: str) -> list[RejectedSample]:
    """Return the rejected rows of a session in the order in which they arrived."""
    row = RejectedSampleRow
    statement = (
        select(row.id, row.kind, row.source, row.row_number, row.reason, row.row, row.created_at)
        .where(row.session_id == session_id)
        .order_by(row.id)
    )
    with database.transaction() as connection:
        found = connection.execute(statement).all()
    return [
        RejectedSample(
            row_id=row_id,
            kind=SampleKind(kind),
            source=source,
            row_number=row_number,
            reason=reason,
            row=text,
            created_at=created_at,
        )
        for row_id, kind, source, row_number, reason, text, created_at in found
    ]


def summarize(database: DatabaseConnection, session_id: str | None = None) -> list[SessionSummary]:
    """Return the summary of one session, or of all of them, the oldest first."""

    def chosen(column: InstrumentedAttribute[str]) -> ColumnElement[bool]:
        return true() if session_id is None else column == session_id

    sample, rejected, run = SampleRow, RejectedSampleRow, TrainingRunRow
    created = (
        select(SessionRow.session_id, SessionRow.created_at)
        .where(chosen(SessionRow.session_id))
        .order_by(SessionRow.created_at, SessionRow.session_id)
    )
    shapes = (
        select(sample.session_id, sample.kind, sample.shape, func.count())
        .where(chosen(sample.session_id))
        .group_by(sample.session_id, sample.kind, sample.shape)
    )
    rejections = (
        select(rejected.session_id, func.count())
        .where(chosen(rejected.session_id))
        .group_by(rejected.session_id)
    )
    runs = (
        select(run.session_id, run.state, run.created_at)
        .where(chosen(run.session_id))
        .order_by(run.created_at, run.id)
    )
    with database.transaction() as connection:
        sessions = connection.execute(created).all()
        counts: dict[str, dict[str, dict[str, int]]] = defaultdict(
            lambda: {str(kind): {} for kind in sample_kinds()}
        )
        for name, kind, shape, count in connection.execute(shapes):
            counts[name].setdefault(kind, {})[shape] = count
        rejected_counts = {name: count for name, count in connection.execute(rejections)}
        last_runs = {name: (state, moment) for name, state, moment in connection.execute(runs)}
    return [
        SessionSummary(
            session_id=name,
            created_at=created_at,
            rejected=rejected_counts.get(name, 0),
            shapes=counts[name],
            state=last_runs[name][0] if name in last_runs else NEW,
            last_training=last_runs[name][1] if name in last_runs else None,
        )
        for name, created_at in sessions
    ]
