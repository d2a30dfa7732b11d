"""The training runs in the database: their states, and the process that each belongs to."""

import dataclasses
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, insert, select, update

from tunetrail.errors import DatabaseError
from tunetrail.plain_values import plain_values
from tunetrail.stores.database.connection import DatabaseConnection, storable
from tunetrail.stores.database.ingestion import chunked
from tunetrail.stores.database.sessions import check_session
from tunetrail.stores.database.tables import TrainingRunRow, TrainingRunSessionRow, now
from tunetrail.stores.processes import ProcessIdentity

# Run ids in one statement: databases bound the number of its parameters.
_MOST_PARAMETERS = 1000


class RunState(StrEnum):
    """The state of a training run."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    # Jobs of a sweep: trained and to be evaluated if it wins, or ended within its training.
    FITTED = "fitted"
    PRUNED = "pruned"


# The states from which each state may be entered. An end is final; only `reopen_training_run` sets
# a run to running again.
_PREVIOUS_STATES = {
    RunState.PENDING: (),
    RunState.RUNNING: (RunState.PENDING,),
    RunState.SUCCEEDED: (RunState.RUNNING,),
    RunState.FAILED: (RunState.PENDING, RunState.RUNNING),
    RunState.INTERRUPTED: (RunState.PENDING, RunState.RUNNING),
    RunState.FITTED: (RunState.RUNNING,),
    RunState.PRUNED: (RunState.RUNNING,),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRun:
    """One execution of the training node, with the process that it belongs to.

    It learns from `session_ids`, of which `session_id` is the first one.
    """

    run_id: str
    session_id: str
    session_ids: tuple[str, ...]
    model_type: str
    state: RunState
    reason: str | None
    started_by: str | None
    mlflow_run_id: str | None
    result: Mapping[str, Any] | None
    process: ProcessIdentity
    created_at: datetime
    updated_at: datetime

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return plain_values(self)


def create_training_run(
    database: DatabaseConnection,
    session_ids: Sequence[str],
    model_type: str,
    started_by: str | None = None,
) -> str:
    """Store a pending run that belongs to this process, and return its id.

    Args:
        database: The database.
        session_ids: The sessions whose samples it learns.
        model_type: What it trains.
        started_by: What started it; None for a person.
    """
    # Its error names the nearest session; the one of a foreign key wouldn't.
    for session_id in session_ids:
        check_session(database, session_id)

    process, created_at, run_id = ProcessIdentity.current(), now(), uuid.uuid4().hex
    values = {
        "id": run_id,
        "session_id": session_ids[0],
        "model_type": model_type,
        "state": str(RunState.PENDING),
        "started_by": started_by,
        "pid": process.pid,
        "host": process.host,
        "process_started": process.started,
        "created_at": created_at,
        "updated_at": created_at,
    }

    sessions = [
        {"training_run_id": run_id, "position": position, "session_id": session_id}
        for position, session_id in enumerate(session_ids)
    ]
    with database.transaction() as connection:
        connection.execute(insert(TrainingRunRow), values)
        connection.execute(insert(TrainingRunSessionRow), sessions)
    return run_id


def update_training_run(
    database: DatabaseConnection,
    run_id: str,
    *,
    state: RunState | str | None = None,
    reason: str | None = None,
    mlflow_run_id: str | None = None,
    result: Mapping[str, Any] | None = None,
) -> None:
    """Set the values that are not None, and the state if it may follow the run's present state.

    Raises:
        DatabaseError: There is no such run, or it can't enter that state.
    """
    values: dict[str, Any] = {"updated_at": now()}
    if mlflow_run_id is not None:
        values["mlflow_run_id"] = mlflow_run_id
    if result is not None:
        values["result"] = dict(result)
    if reason is not None:
        values["reason"] = storable(reason)

    # The state is checked within the statement, as another process may write at the same moment.
    statement = update(TrainingRunRow).where(TrainingRunRow.id == run_id)
    if state is not None:
        state = RunState(state)
        values["state"] = str(state)
        previous_states = list(map(str, _PREVIOUS_STATES[state]))
        statement = statement.where(TrainingRunRow.state.in_(previous_states))

    with database.transaction() as connection:
        if connection.execute(statement.values(values)).rowcount:
            return
        # Read only for the message: no row was changed.
        present = connection.scalar(select(TrainingRunRow.state).where(TrainingRunRow.id == run_id))

    if present is None:
        raise DatabaseError(f"run_id must name a training run of the database, got {run_id!r}.")
    raise DatabaseError(f"Training run {run_id} is {present} and can't become {state}.")


def read_training_runs(
    database: DatabaseConnection, session_id: str | None = None, states: tuple[RunState, ...] = ()
) -> list[TrainingRun]:
    """Return the runs of one session or of all, in some states or in all, oldest first."""
    statement = select(TrainingRunRow.__table__).order_by(
        TrainingRunRow.created_at, TrainingRunRow.id
    )
    if session_id is not None:
        of_session = select(TrainingRunSessionRow.training_run_id).where(
            TrainingRunSessionRow.session_id == session_id
        )
        statement = statement.where(TrainingRunRow.id.in_(of_session))
    if states:
        statement = statement.where(TrainingRunRow.state.in_(list(map(str, states))))

    with database.reading() as connection:
        rows = connection.execute(statement).mappings().all()
        sessions = _sessions_of_runs(connection, [row["id"] for row in rows])
    return [_training_run(row, sessions[row["id"]]) for row in rows]


def read_training_run(database: DatabaseConnection, run_id: str) -> TrainingRun | None:
    """Return one run, or None if there is no run with that id."""
    statement = select(TrainingRunRow.__table__).where(TrainingRunRow.id == run_id)
    with database.reading() as connection:
        row = connection.execute(statement).mappings().one_or_none()
        sessions = _sessions_of_runs(connection, [run_id])
    return None if row is None else _training_run(row, sessions[run_id])


def _sessions_of_runs(connection: Connection, run_ids: Sequence[str]) -> dict[str, list[str]]:
    """Return the sessions of some runs in their order, by run."""
    row = TrainingRunSessionRow
    sessions: dict[str, list[str]] = defaultdict(list)
    for chunk in chunked(run_ids, _MOST_PARAMETERS):
        statement = (
            select(row.training_run_id, row.session_id)
            .where(row.training_run_id.in_(chunk))
            .order_by(row.training_run_id, row.position)
        )
        for run_id, session_id in connection.execute(statement):
            sessions[run_id].append(session_id)
    return sessions


def reopen_training_run(database: DatabaseConnection, run: TrainingRun) -> None:
    """Set a run that isn't over for good to running in this process, and clear its reason.

    Raises:
        DatabaseError: Another process has changed the run since it was read.
    """
    process = ProcessIdentity.current()

    # The time of the last change tells whether another process was quicker.
    statement = (
        update(TrainingRunRow)
        .where(
            TrainingRunRow.id == run.run_id,
            TrainingRunRow.state == str(run.state),
            TrainingRunRow.state.not_in([str(RunState.SUCCEEDED), str(RunState.PRUNED)]),
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
            f"Training run {run.run_id} has been changed by another process in the meantime. "
            "Nothing was changed here; look at its state and try again."
        )


def _training_run(row: Mapping[Any, Any], session_ids: Sequence[str]) -> TrainingRun:
    return TrainingRun(
        run_id=row["id"],
        session_id=row["session_id"],
        session_ids=tuple(session_ids),
        model_type=row["model_type"],
        state=_state_of(row),
        reason=row["reason"],
        started_by=row["started_by"],
        mlflow_run_id=row["mlflow_run_id"],
        result=row["result"],
        process=ProcessIdentity(pid=row["pid"], host=row["host"], started=row["process_started"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def _state_of(row: Mapping[Any, Any]) -> RunState:
    try:
        return RunState(row["state"])
    except ValueError as error:
        raise DatabaseError(
            f"training_runs, row {row['id']}: state must be one of {', '.join(RunState)}, got "
            f"{row['state']!r:.60}. Another version or program wrote it; correct the value."
        ) from error


def mark_interrupted_runs(database: DatabaseConnection) -> list[TrainingRun]:
    """Mark the unfinished runs of dead processes as interrupted, and return them as they are now.

    A run that another process changes at the same moment is left alone.
    """
    marked = []
    for run in read_training_runs(database, states=(RunState.PENDING, RunState.RUNNING)):
        if not run.process.is_dead():
            continue

        process, updated_at = run.process, now()
        reason = (
            f"Process {process.pid} on {process.host} ended unexpectedly "
            f"while the run was {run.state}."
        )
        statement = (
            update(TrainingRunRow)
            # Nothing happens if the run has changed since it was read.
            .where(TrainingRunRow.id == run.run_id, TrainingRunRow.state == str(run.state))
            .values(state=str(RunState.INTERRUPTED), reason=reason, updated_at=updated_at)
        )

        with database.transaction() as connection:
            changed = connection.execute(statement).rowcount
        if changed:
            state = RunState.INTERRUPTED
            marked.append(
                dataclasses.replace(run, state=state, reason=reason, updated_at=updated_at)
            )

    return marked
