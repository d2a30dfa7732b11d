"""The tables of the database, typed."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, kept in UTC; SQLite drops time zones, so they are restored on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the value in UTC; a naive datetime is taken as local time, as Python does."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the value as an aware datetime in UTC."""
        if value is None:
            return None
        # SQLite returns a naive datetime, PostgreSQL one in the time zone of the connection.
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def now() -> datetime:
    """Return the present moment, aware, in UTC."""
    return datetime.now(UTC)


RowId = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself only in a column of type INTEGER."""


class Base(DeclarativeBase):
    """The metadata that every table belongs to."""


class SessionRow(Base):
    """A batch of samples that an application collected."""

    __tablename__ = "sessions"

    session_id: Mapped[str] = mapped_column(Text, primary_key=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    # How many of its log entries the samples were made from; NULL if nothing was ever logged.
    collected_entries: Mapped[int | None] = mapped_column(RowId)


class LogEntryRow(Base):
    """What an application logged: a row, feedback on a row, or the end of the session."""

    __tablename__ = "log_entries"
    __table_args__ = (
        UniqueConstraint("entry_id", name="log_entries_once"),
        Index("log_entries_in_order", "session_id", "id"),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    entry_id: Mapped[str] = mapped_column(Text)
    session_id: Mapped[str] = mapped_column(
        ForeignKey("sessions.session_id", name="log_entries_session")
    )
    # The kind of a row as `ingest` takes it, or `feedback` or `end`.
    kind: Mapped[str] = mapped_column(Text)
    # The entry that feedback is about; it may arrive later than the feedback.
    about: Mapped[str | None] = mapped_column(Text)
    content: Mapped[dict[str, Any]] = mapped_column(JSON)
    # The application's clock, in seconds since 1970.
    logged_at: Mapped[float] = mapped_column(Double)


class SampleRow(Base):
    """A sample; `occurrence` numbers equal samples of one ingest."""

    __tablename__ = "samples"
    __table_args__ = (
        UniqueConstraint("session_id", "digest", "occurrence", name="samples_once"),
        Index("samples_in_order", "session_id", "kind", "id"),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    session_id: Mapped[str] = mapped_column(
        ForeignKey("sessions.session_id", name="samples_session")
    )
    kind: Mapped[str] = mapped_column(Text)
    shape: Mapped[str] = mapped_column(Text)
    content: Mapped[dict[str, Any]] = mapped_column(JSON)
    group_name: Mapped[str | None] = mapped_column(Text)
    # Text, because ISO 8601 in UTC sorts like time.
    timestamp: Mapped[str | None] = mapped_column(Text)
    weight: Mapped[float | None] = mapped_column(Double)
    # Declarative classes of SQLAlchemy have an attribute `metadata` already.
    extra: Mapped[dict[str, Any]] = mapped_column("metadata", JSON)
    digest: Mapped[str] = mapped_column(Text)
    occurrence: Mapped[int] = mapped_column(Integer)
    # True if it was made from log entries, so that later feedback can take it back.
    logged: Mapped[bool | None] = mapped_column(Boolean)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class RejectedSampleRow(Base):
    """A row that could not become a sample; `row` is its text (JSON if it was a mapping)."""

    __tablename__ = "rejected_samples"
    __table_args__ = (
        UniqueConstraint("session_id", "digest", "occurrence", name="rejected_samples_once"),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    session_id: Mapped[str] = mapped_column(
        ForeignKey("sessions.session_id", name="rejected_samples_session")
    )
    kind: Mapped[str] = mapped_column(Text)
    source: Mapped[str] = mapped_column(Text)
    row_number: Mapped[int] = mapped_column(RowId)
    reason: Mapped[str] = mapped_column(Text)
    row: Mapped[str] = mapped_column(Text)
    digest: Mapped[str] = mapped_column(Text)
    occurrence: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class TrainingRunRow(Base):
    """One execution of the training node, with the process that it belongs to."""

    __tablename__ = "training_runs"
    __table_args__ = (Index("training_runs_of_session", "session_id", "created_at"),)

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    session_id: Mapped[str] = mapped_column(
        ForeignKey("sessions.session_id", name="training_runs_session")
    )
    model_type: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text)
    reason: Mapped[str | None] = mapped_column(Text)
    # Why `tunetrail watch` started it; NULL if a person did.
    started_by: Mapped[str | None] = mapped_column(Text)
    mlflow_run_id: Mapped[str | None] = mapped_column(Text)
    # No result is NULL in SQL; the default would store the JSON text `null`.
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    # The three that identify a process: an id alone is used again after its end.
    pid: Mapped[int] = mapped_column(Integer)
    host: Mapped[str] = mapped_column(Text)
    process_started: Mapped[float] = mapped_column(Double)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)


class TrainingRunSessionRow(Base):
    """A session that a training run learns from; the run itself names only the first one."""

    __tablename__ = "training_run_sessions"
    __table_args__ = (
        UniqueConstraint("session_id", "training_run_id", name="training_run_sessions_once"),
    )

    training_run_id: Mapped[str] = mapped_column(
        ForeignKey("training_runs.id", name="training_run_sessions_run"), primary_key=True
    )
    position: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    session_id: Mapped[str] = mapped_column(
        ForeignKey("sessions.session_id", name="training_run_sessions_session")
    )


class PromotionRow(Base):
    """A line of the ledger. Triggers refuse to change or delete it, so it has no foreign keys."""

    __tablename__ = "promotions"
    __table_args__ = (
        Index("promotions_of_model", "model_name", "id"),
        # A move is begun once and decided once, whoever finishes it.
        Index("promotions_of_move", "move_id", "event", unique=True),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    model_name: Mapped[str] = mapped_column(Text)
    version: Mapped[str] = mapped_column(Text)
    previous_version: Mapped[str | None] = mapped_column(Text)
    decision: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)
    metric: Mapped[str | None] = mapped_column(Text)
    before: Mapped[float | None] = mapped_column(Double)
    after: Mapped[float | None] = mapped_column(Double)
    improvement: Mapped[float | None] = mapped_column(Double)
    lower: Mapped[float | None] = mapped_column(Double)
    upper: Mapped[float | None] = mapped_column(Double)
    test_rows: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    learnt_rows: Mapped[bytes | None] = mapped_column(LargeBinary)
    digest: Mapped[str | None] = mapped_column(Text)
    run_id: Mapped[str | None] = mapped_column(Text)
    mlflow_run_id: Mapped[str | None] = mapped_column(Text)
    session_id: Mapped[str | None] = mapped_column(Text)
    # Only if there are several; the first one is `session_id`.
    session_ids: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    # `intent` before the alias moves, `decision` after it.
    event: Mapped[str] = mapped_column(Text)
    move_id: Mapped[str | None] = mapped_column(Text)
    actor: Mapped[str | None] = mapped_column(Text)
    details: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class BenchmarkRow(Base):
    """A test row of an earlier training, on which later candidates are scored too."""

    __tablename__ = "benchmark_rows"
    __table_args__ = (
        UniqueConstraint("model_name", "digest", name="benchmark_rows_once"),
        Index("benchmark_rows_of_shape", "model_name", "shape", "id"),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    model_name: Mapped[str] = mapped_column(Text)
    shape: Mapped[str] = mapped_column(Text)
    session_id: Mapped[str] = mapped_column(Text)
    row_id: Mapped[int] = mapped_column(RowId)
    cluster: Mapped[str] = mapped_column(Text)
    # The prepared row: cleaning may have changed the sample that it comes from.
    record: Mapped[dict[str, Any]] = mapped_column(JSON)
    digest: Mapped[str] = mapped_column(Text)


class StudyLogRow(Base):
    """An entry in the journal of a sweep's study: one change of the study, numbered from 0."""

    __tablename__ = "study_logs"

    study: Mapped[str] = mapped_column(Text, primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    entry: Mapped[dict[str, Any]] = mapped_column(JSON)


class HookDeliveryRow(Base):
    """An event for the hook: delivered, given up, or waiting for its next attempt."""

    __tablename__ = "hook_deliveries"

    event_id: Mapped[str] = mapped_column(Text, primary_key=True)
    state: Mapped[str] = mapped_column(Text)
    attempts: Mapped[int] = mapped_column(Integer)
    next_attempt_at: Mapped[datetime] = mapped_column(UtcDateTime)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
