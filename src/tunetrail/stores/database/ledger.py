"""The ledger: the append-only record of every decision on a version and of every move of root.

A move of root has two lines with one `move_id`: the intent, before the alias moves, and the
decision, after it. An intent without a decision was left by a process that died in between.
"""

import contextlib
import dataclasses
import getpass
import socket
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select

from tunetrail.config import BASE
from tunetrail.errors import DatabaseError
from tunetrail.plain_values import NOT_PLAIN, plain_values
from tunetrail.stores.database.connection import DatabaseConnection, storable
from tunetrail.stores.database.database_locks import database_lock
from tunetrail.stores.database.tables import PromotionRow, now

if TYPE_CHECKING:
    from tunetrail.stores.database.packed_row_ids import RowIds

INTENT, DECISION = "intent", "decision"
"""The events that a line can record."""

PROMOTED, FORCED, ROLLED_BACK, MOVED = "promoted", "forced", "rolled back", "moved by hand"
REFUSED, WAITING, FORBIDDEN, ABANDONED = "refused", "waiting", "forbidden", "abandoned"
DELETED = "deleted"
"""Decided by the retention or `tunetrail clean`; like a move, it has an intent before it."""
MOVES = (PROMOTED, FORCED, ROLLED_BACK, MOVED)
"""Decisions after which the line's version is root."""
PROMOTIONS = (PROMOTED, FORCED)
"""Decisions that made a candidate root: with them, candidates are compared with another model."""


def version_in_words(version: str | None) -> str:
    """Return `version 3`, or `none`."""
    return "none" if version is None else f"version {version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class PromotionRecord:
    """One decision about one model version, refused ones included.

    Attributes:
        model_name: The registered model.
        version: The candidate's version; `base` if root was rolled back to none.
        decision: What was decided: `promoted`, `refused`, `waiting` (for an approval), `forced`,
            `rolled back`, `moved by hand` (in MLflow), `forbidden`, `abandoned`, or `deleted`.
        reason: Why, in a sentence.
        previous_version: The version that `root` pointed to, None if there was none.
        metric: The metric that decided.
        before: Its value for the previous version.
        after: Its value for the candidate.
        improvement: The measured improvement.
        lower: Lower bound of the improvement's interval.
        upper: Upper bound of the improvement's interval.
        run_id: The training run.
        mlflow_run_id: The MLflow run.
        session_id: The session whose samples were trained on, the first one of several.
        session_ids: All sessions, if there are several.
        test_rows: Sketch of the test rows that decided, see `tunetrail.evaluation.looks`; None if
            unknown.
        learnt_rows: The ids of the samples that the version has learnt from, its ancestors
            included, see `pack_row_ids`; None if unknown, and when lines are read: they may be
            large, and `read_learnt_rows` returns them.
        digest: Digest of the version's files; None before digests were kept.
        event: `decision`, or `intent` for the line before a move.
        move_id: What the two lines of a move have in common; None for a line that moves nothing.
        actor: Who decided, as `user@host`; None if unknown.
        details: Configuration, rows and metrics of the training as plain values; None if unknown.
        record_id: The number of the line; set when it is read.
        created_at: The time of the decision; set when it is read.
    """

    model_name: str
    version: str
    decision: str
    reason: str
    previous_version: str | None = None
    metric: str | None = None
    before: float | None = None
    after: float | None = None
    improvement: float | None = None
    lower: float | None = None
    upper: float | None = None
    run_id: str | None = None
    mlflow_run_id: str | None = None
    session_id: str | None = None
    session_ids: Sequence[str] | None = None
    test_rows: Sequence[str] | None = field(default=None, metadata=NOT_PLAIN)
    learnt_rows: bytes | None = field(default=None, metadata=NOT_PLAIN)
    digest: str | None = None
    event: str = DECISION
    move_id: str | None = None
    actor: str | None = None
    details: dict[str, Any] | None = field(default=None, metadata=NOT_PLAIN)
    record_id: int | None = None
    created_at: datetime | None = None

    @property
    def sessions(self) -> tuple[str, ...]:
        """The sessions whose samples were trained on; none for a move by hand."""
        if self.session_ids:
            return tuple(self.session_ids)
        return () if self.session_id is None else (self.session_id,)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, without test rows, learnt rows and details."""
        return plain_values(self)


def append_promotion(database: DatabaseConnection, record: PromotionRecord) -> int:
    """Append a line and return its number; the record's own number and time are ignored."""
    values = dataclasses.asdict(record) | {"created_at": now(), "reason": storable(record.reason)}
    # The database numbers the lines, so that their ids are in the order of the decisions.
    del values["record_id"]

    statement = insert(PromotionRow).values(values).returning(PromotionRow.id)
    with database.transaction() as connection:
        return connection.execute(statement).scalar_one()


def read_promotions(
    database: DatabaseConnection, model_name: str | None = None, since: datetime | None = None
) -> list[PromotionRecord]:
    """Return the decisions on one model or on all models, from a moment on, oldest first."""
    lines = read_lines(database, model_name, since)
    return [line for line in lines if line.event == DECISION]


def read_lines(
    database: DatabaseConnection, model_name: str | None = None, since: datetime | None = None
) -> list[PromotionRecord]:
    """Return the lines of one model or of all models, intents included, oldest first."""
    columns = [column for column in PromotionRow.__table__.columns if column.key != "learnt_rows"]
    statement = select(*columns).order_by(PromotionRow.id)
    if model_name is not None:
        statement = statement.where(PromotionRow.model_name == model_name)
    if since is not None:
        statement = statement.where(PromotionRow.created_at >= since)

    with database.reading() as connection:
        rows = [dict(row) for row in connection.execute(statement).mappings()]
    return [PromotionRecord(record_id=row.pop("id"), **row) for row in rows]


def root_line(lines: Sequence[PromotionRecord]) -> PromotionRecord | None:
    """Return the line that made the present root root; None if there is no root.

    Args:
        lines: The ledger of one model, oldest first.
    """
    for line in reversed(lines):
        if line.event == DECISION and line.decision in MOVES:
            return None if line.version == BASE else line
    return None


def open_intents(lines: Sequence[PromotionRecord]) -> list[PromotionRecord]:
    """Return the intents without a decision: a process died between the two."""
    decided = {line.move_id for line in lines if line.event == DECISION}
    return [line for line in lines if line.event == INTENT and line.move_id not in decided]


def forbidden_line(lines: Sequence[PromotionRecord], version: str) -> PromotionRecord | None:
    """Return the line that forbids a version to become root; None if it isn't forbidden."""
    for line in lines:
        if line.decision == FORBIDDEN and line.version == version:
            return line
    return None


def decide_intent(
    database: DatabaseConnection, intent: PromotionRecord, decision: str, reason: str
) -> None:
    """Append the decision that an intent lacks, with all that the intent says."""
    row = PromotionRow
    with database.transaction() as connection:
        learnt = connection.scalar(select(row.learnt_rows).where(row.id == intent.record_id))
    line = dataclasses.replace(
        intent, event=DECISION, decision=decision, reason=reason, learnt_rows=learnt
    )
    append_promotion(database, line)


def present_actor() -> str:
    """Return the user and the host of this process as `user@host`."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # some containers have no name for the user's id
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


@contextlib.contextmanager
def root_lock(database: DatabaseConnection, model_name: str) -> Iterator[None]:
    """Hold the lock under which root of a model moves: one process at a time, of any machine.

    Raises:
        LockError: Another process held the lock for too long.
    """
    with database_lock(database, f"{model_name}.root", f"root of {model_name}"):
        yield


def read_learnt_rows(
    database: DatabaseConnection, model_name: str, version: str
) -> "RowIds | None":
    """Return the ids of the samples that a version has learnt from, ascending; None if unknown."""
    # Whoever asks for root reads the ledger, and needs no NumPy.
    from tunetrail.stores.database.packed_row_ids import unpack_row_ids

    row = PromotionRow
    statement = (
        select(row.learnt_rows)
        .where(row.model_name == model_name, row.version == version, row.learnt_rows.is_not(None))
        .order_by(row.id.desc())
        .limit(1)
    )
    with database.reading() as connection:
        packed = connection.scalar(statement)
    if packed is None:
        return None

    try:
        return unpack_row_ids(packed)
    except (zlib.error, ValueError) as error:
        raise DatabaseError(
            f"learnt_rows of {model_name} version {version} can't be read: {error}. "
            "Restore the database from a backup."
        ) from error
