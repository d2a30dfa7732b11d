"""Training runs in the database: created, moved from state to state, found interrupted. Knows nothing of training."""

import dataclasses
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import insert, select, update

from tunetrail.errors import DatabaseError
from tunetrail.stores.connection import DatabaseConnection, storable
from tunetrail.stores.processes import ProcessIdentity
from tunetrail.stores.sessions import check_session
from tunetrail.stores.tables import TrainingRunRow, now


class RunState(StrEnum):
    """Where a training run stands."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


_BEFORE = {
    RunState.PENDING: (),
    RunState.RUNNING: (RunState.PENDING,),
    RunState.SUCCEEDED: (RunState.RUNNING,),
    RunState.FAILED: (RunState.PENDING, RunState.RUNNING),
    RunState.INTERRUPTED: (RunState.PENDING, RunState.RUNNING),
}
"""The states from which each state may be entered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRun:
    """One execution of the training node, with the process that it belongs to."""

    run_id: str
    session_id: str
    model_type: str
    state: RunState
    reason: str | None
    mlflow_run_id: str | None
    result: Mapping[str, Any] | None
    process: ProcessIdentity
    created_at: datetime
    updated_at: datetime

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return dataclasses.asdict(self) | {
            "state": str(self.state),
            "created_at": self.created_at.isoformat(),
            "updated_at": self.updated_at.isoformat(),
        }


def create_training_run(database: DatabaseConnection, session_id: str, model_type: str) -> str:
    """Store a pending run that belongs to this process, and return its id."""
    check_session(database, session_id)
    process, moment = ProcessIdentity.current(), now()
    values = {
        "id": uuid.uuid4().hex,
        "session_id": session_id,
        "model_type": model_type,
        "state": str(RunState.PENDING),
        "pid": process.pid,
        "host": process.host,
        "process_started": process.started,
        "created_at": moment,
        "updated_at": moment,
    }
    with database.transaction() as connection:
        connection.execute(insert(TrainingRunRow), values)
    return str(values["id"])


def update_training_run(
    database: DatabaseConnection,
    run_id: str,
    *,
    state: RunState | str | None = None,
    reason: str | None = None,
    mlflow_run_id: str | None = None,
    result: Mapping[str, Any] | None = None,
) -> None:
    """Set what is given; a state only if it may follow the present one, whoever else writes at the same moment."""
    values: dict[str, Any] = {
        "mlflow_run_id": mlflow_run_id,
        "result": None if result is None else dict(result),
    }
    values["reason"] = None if reason is None else storable(reason)
    values = {name: value for name, value in values.items() if value is not None} | {
        "updated_at": now()
    }
    statement = update(TrainingRunRow).where(TrainingRunRow.id == run_id)
    if state is not None:
        state = RunState(state)
        statement = statement.where(
            TrainingRunRow.state.in_([str(before) for before in _BEFORE[state]])
        )
        values["state"] = str(state)
    with database.transaction() as connection:
        if connection.execute(statement.values(values)).rowcount:
            return
        present = connection.scalar(select(TrainingRunRow.state).where(TrainingRunRow.id == run_id))
    if present is None:
        raise DatabaseError(f"run_id must name a training run of the database, got {run_id!r}.")
    raise DatabaseError(f"Training run {run_id} is {present} and can't become {state}.")


def read_training_runs(
    database: DatabaseConnection, session_id: str | None = None, states: tuple[RunState, ...] = ()
) -> list[TrainingRun]:
    """Return the runs of one session or of all, in some states or in all, the oldest first."""
    statement = select(TrainingRunRow.__table__).order_by(
        TrainingRunRow.created_at, TrainingRunRow.id
    )
    if session_id is not None:
        statement = statement.where(TrainingRunRow.session_id == session_id)
    if states:
        statement = statement.where(TrainingRunRow.state.in_([str(state) for state in states]))
    with database.transaction() as connection:
        rows = connection.execute(statement).mappings().all()
    return [_training_run(row) for row in rows]


def read_training_run(database: DatabaseConnection, run_id: str) -> TrainingRun | None:
    """Return one run, None where there is none of that id."""
    statement = select(TrainingRunRow.__table__).where(TrainingRunRow.id == run_id)
    with database.transaction() as connection:
        row = connection.execute(statement).mappings().one_or_none()
    return None if row is None else _training_run(row)


def reopen_training_run(database: DatabaseConnection, run: TrainingRun) -> None:
    """Let a run that has not succeeded go on in this process: running, without the reason for which it had ended.

    Raises:
        DatabaseError: It is no longer as `run` says: another process was quicker.
    """
    process = ProcessIdentity.current()
    statement = (
        update(TrainingRunRow)
        .where(
            TrainingRunRow.id == run.run_id,
            TrainingRunRow.state == str(run.state),
            TrainingRunRow.state != str(RunState.SUCCEEDED),
            TrainingRunRow.updated_at == run.updated_at,
        )
        .values(
            state=str(RunState.RUNNING),
            reason=None,
            pid=process.pid,
            host=process.host,
            process_started=process.started,
            updated_at=now(),
        )
    )
    with database.transaction() as connection:
        changed = connection.execute(statement).rowcount
    if not changed:
        raise DatabaseError(
            f"Training run {run.run_id} has been moved on by another process. Nothing was changed here."
        )


def _training_run(row: Mapping[Any, Any]) -> TrainingRun:
    return TrainingRun(
        run_id=row["id"],
        session_id=row["session_id"],
        model_type=row["model_type"],
        state=RunState(row["state"]),
        reason=row["reason"],
        mlflow_run_id=row["mlflow_run_id"],
        result=row["result"],
        process=ProcessIdentity(pid=row["pid"], host=row["host"], started=row["process_started"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def mark_interrupted_runs(database: DatabaseConnection) -> list[TrainingRun]:
    """Mark pending and running runs whose process is gone, and return them as they are now.

    A run that another process has moved on at the same moment is left alone.
    """
    marked = []
    for run in read_training_runs(database, states=(RunState.PENDING, RunState.RUNNING)):
        if not run.process.is_dead():
            continue
        reason = f"Process {run.process.pid} on {run.process.host} ended without a word while the run was {run.state}."
        moment = now()
        statement = (
            update(TrainingRunRow)
            .where(TrainingRunRow.id == run.run_id, TrainingRunRow.state == str(run.state))
            .values(state=str(RunState.INTERRUPTED), reason=reason, updated_at=moment)
        )
        with database.transaction() as connection:
            changed = connection.execute(statement).rowcount
        if changed:
            marked.append(
                dataclasses.replace(
                    run, state=RunState.INTERRUPTED, reason=reason, updated_at=moment
                )
            )
    return marked
