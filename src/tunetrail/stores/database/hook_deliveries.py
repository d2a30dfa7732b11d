"""Which events the hook was told: each is claimed by one process, and tried again until it is.

The events themselves are lines of the ledger and failed training runs. So an event can't be lost
between the two, and any process of the database can deliver what another one has left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select, update

from tunetrail.stores.database.connection import DatabaseConnection
from tunetrail.stores.database.insertion import insert_missing
from tunetrail.stores.database.tables import HookDeliveryRow, now

_BEGINNING = "beginning"
_WAITING, _DELIVERED = "waiting", "delivered"


@dataclass(frozen=True)
class RecordedDeliveries:
    """The deliveries that a database knows of."""

    database: DatabaseConnection

    def begin(self, moment: datetime) -> datetime:
        """Return when the hook was first used, which is `moment` if it never was."""
        row = HookDeliveryRow
        beginning = {"event_id": _BEGINNING, "state": _DELIVERED, "attempts": 0}
        statement = select(row.created_at).where(row.event_id == _BEGINNING)
        with self.database.transaction() as connection:
            insert_missing(connection, row, [beginning], next_attempt_at=moment, created_at=moment)
            return connection.execute(statement).scalar_one()

    def undelivered(self, event_ids: Sequence[str]) -> dict[str, datetime | None]:
        """Return the events to deliver, and when each is tried next; None for at once."""
        row = HookDeliveryRow
        statement = select(row.event_id, row.state, row.next_attempt_at)
        with self.database.reading() as connection:
            rows = {
                event_id: (state, due) for event_id, state, due in connection.execute(statement)
            }

        waiting: dict[str, datetime | None] = {}
        for event_id in event_ids:
            state, due = rows.get(event_id, (_WAITING, None))
            if state == _WAITING:
                waiting[event_id] = due
        return waiting

    def claim(self, event_id: str, seconds: float) -> int | None:
        """Claim an event that is due for some seconds; return the number of this attempt.

        None if another process has claimed or delivered it, or if it isn't due.
        """
        row, moment = HookDeliveryRow, now()
        until = moment + timedelta(seconds=seconds)
        statement = (
            update(row)
            .where(row.event_id == event_id, row.state == _WAITING, row.next_attempt_at <= moment)
            .values(attempts=row.attempts + 1, next_attempt_at=until)
            .returning(row.attempts)
        )
        with self.database.transaction() as connection:
            new = {"event_id": event_id, "state": _WAITING, "attempts": 0}
            insert_missing(connection, row, [new], next_attempt_at=moment, created_at=moment)
            return connection.execute(statement).scalar_one_or_none()

    def note_delivered(self, event_id: str) -> None:
        """Note that the hook was told an event."""
        row = HookDeliveryRow
        statement = update(row).where(row.event_id == event_id).values(state=_DELIVERED)
        with self.database.transaction() as connection:
            connection.execute(statement)

    def postpone(self, event_id: str, seconds: float) -> None:
        """Let the next attempt come after some seconds."""
        row = HookDeliveryRow
        due = now() + timedelta(seconds=seconds)
        statement = update(row).where(row.event_id == event_id).values(next_attempt_at=due)
        with self.database.transaction() as connection:
            connection.execute(statement)
