"""What `tunetrail watch` asks the database: the last training of each session, and what came since.

The database alone knows what was trained, so that a watch that starts again goes on where the last
one ended, whoever else has trained meanwhile.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select

from tunetrail.samples import SampleKind
from tunetrail.stores.database.connection import DatabaseConnection
from tunetrail.stores.database.tables import (
    LogEntryRow,
    SampleRow,
    SessionRow,
    TrainingRunRow,
    TrainingRunSessionRow,
)
from tunetrail.stores.database.training_runs import RunState


@dataclass(frozen=True, kw_only=True, slots=True)
class LastRun:
    """The last training of a model type on a session.

    Attributes:
        run_id: Its id in the database.
        state: Its state.
        started_by: What has started it; None for a person.
        created_at: When it began: later samples are new.
    """

    run_id: str
    state: RunState
    started_by: str | None
    created_at: datetime


@dataclass(frozen=True)
class WatchedSessions:
    """The sessions as `tunetrail watch` sees them."""

    database: DatabaseConnection

    def session_ids(self) -> list[str]:
        """Return the ids of all sessions, oldest first."""
        statement = select(SessionRow.session_id).order_by(
            SessionRow.created_at, SessionRow.session_id
        )
        with self.database.reading() as connection:
            return list(connection.scalars(statement))

    def last_runs(self) -> Mapping[tuple[str, str], LastRun]:
        """Return the last training run by session and model type."""
        run, of_session = TrainingRunRow, TrainingRunSessionRow
        statement = (
            select(of_session.session_id, run.model_type, run.id, run.state, run.started_by)
            .add_columns(run.created_at)
            .join(of_session, of_session.training_run_id == run.id)
            # Later runs take the place of earlier ones.
            .order_by(run.created_at, run.id)
        )

        last_runs = {}
        with self.database.reading() as connection:
            for session_id, model_type, run_id, state, started_by, created_at in connection.execute(
                statement
            ):
                last_runs[session_id, model_type] = LastRun(
                    run_id=run_id,
                    state=RunState(state),
                    started_by=started_by,
                    created_at=created_at,
                )

        return last_runs

    def count_new_samples(self, session_id: str, kind: SampleKind, since: datetime | None) -> int:
        """Return how many samples of a kind a session has got since a moment, or in all."""
        row = SampleRow
        statement = select(func.count()).where(row.session_id == session_id, row.kind == str(kind))
        if since is not None:
            statement = statement.where(row.created_at > since)
        with self.database.reading() as connection:
            return connection.scalar(statement) or 0

    def position(self) -> tuple[Any, ...]:
        """Return what changes with each new sample, log entry and change of a training run."""
        statement = select(
            select(func.max(SampleRow.id)).scalar_subquery(),
            select(func.max(LogEntryRow.id)).scalar_subquery(),
            select(func.max(TrainingRunRow.updated_at)).scalar_subquery(),
        )
        with self.database.reading() as connection:
            return tuple(connection.execute(statement).one())
