"""What applications log: rows, feedback on rows, and the ends of sessions, in their order.

The entries of a session are what a file is to `ingest`: its samples are made from all of them
together. An entry has an id of its own, so that an entry that is delivered twice is stored once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, delete, func, select, update

from tunetrail.stores.database.connection import DatabaseConnection, lock_until_commit
from tunetrail.stores.database.ingestion import Occurrences
from tunetrail.stores.database.insertion import insert_missing
from tunetrail.stores.database.tables import (
    LogEntryRow,
    RejectedSampleRow,
    SampleRow,
    SessionRow,
    now,
)

FEEDBACK, END = "feedback", "end"
"""The kinds of entries that are no rows."""
CONVERSATION = "conversation"
"""The kind of rows that become samples of several kinds."""
LOGGED = "tunetrail.Session"
"""The source of rows that an application has logged."""
_MOST_PARAMETERS = 1000
_PAGE = 1000
_FIELDS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class LogEntry:
    """One entry, before it is stored.

    Attributes:
        entry_id: Its id, which no other entry has.
        session_id: The session that it belongs to.
        kind: The kind of a row as `ingest` takes it, or `feedback` or `end`.
        about: The entry that feedback is about, empty for other kinds.
        logged_at: The application's clock, in seconds since 1970.
        content: The row or the feedback, as JSON in ASCII.
    """

    entry_id: str
    session_id: str
    kind: str
    about: str
    logged_at: float
    content: str

    def to_line(self) -> str:
        """Return the entry as a line of a spool."""
        # JSON in ASCII has neither tabs nor line breaks, and needn't be read to be stored.
        return (
            f"{self.entry_id}\t{self.session_id}\t{self.kind}\t{self.about}\t"
            f"{self.logged_at!r}\t{self.content}\n"
        )

    @classmethod
    def from_line(cls, line: str) -> "LogEntry":
        """Return the entry of a line; raises `ValueError` if the line is cut off."""
        fields = line.split("\t")
        if len(fields) != _FIELDS or not line.endswith("\n"):
            raise ValueError(f"an entry must have {_FIELDS} fields, got {len(fields)}")
        entry_id, session_id, kind, about, logged_at, content = fields
        return cls(
            entry_id=entry_id,
            session_id=session_id,
            kind=kind,
            about=about,
            logged_at=float(logged_at),
            content=content.rstrip("\n"),
        )


def _row(entry: LogEntry) -> dict[str, Any]:
    return {
        "entry_id": entry.entry_id,
        "kind": entry.kind,
        "about": entry.about or None,
        "content": entry.content,
        "logged_at": entry.logged_at,
    }


@dataclass(frozen=True)
class ApplicationLog:
    """The log entries of all sessions."""

    database: DatabaseConnection

    def add(self, entries: Sequence[LogEntry]) -> int:
        """Store the entries that aren't there yet, in their order; return how many were stored."""
        added = 0
        with self.database.connection() as connection:
            for session_id, of_session in groupby(entries, lambda entry: entry.session_id):
                rows = [_row(entry) for entry in of_session]

                def write(
                    connection: Connection,
                    session_id: str = session_id,
                    rows: Sequence[dict[str, Any]] = rows,
                ) -> int:
                    lock_until_commit(connection, f"session {session_id}")
                    session = {"session_id": session_id}
                    insert_missing(connection, SessionRow, [session], created_at=now())
                    return insert_missing(connection, LogEntryRow, rows, session_id=session_id)

                added += self.database.write(connection, write)
        return added

    def count_uncollected(self) -> dict[str, int]:
        """Return, by session, how many entries its samples weren't made from yet; no zeros."""
        counts = (
            select(LogEntryRow.session_id, func.count().label("entries"))
            .group_by(LogEntryRow.session_id)
            .subquery()
        )
        uncollected = counts.c.entries - func.coalesce(SessionRow.collected_entries, 0)
        statement = (
            select(counts.c.session_id, uncollected)
            .join(SessionRow, SessionRow.session_id == counts.c.session_id)
            .where(uncollected > 0)
            .order_by(SessionRow.created_at)
        )
        with self.database.reading() as connection:
            return {session_id: count for session_id, count in connection.execute(statement)}

    def count(self, session_id: str) -> tuple[int, int]:
        """Return how many entries a session has, and from how many its samples were made."""
        entries = select(func.count()).where(LogEntryRow.session_id == session_id)
        collected = select(SessionRow.collected_entries).where(SessionRow.session_id == session_id)
        with self.database.reading() as connection:
            return connection.scalar(entries) or 0, connection.scalar(collected) or 0

    def kinds(self, session_id: str) -> list[str]:
        """Return the kinds of the rows that were logged for a session."""
        row = LogEntryRow
        statement = (
            select(row.kind)
            .where(row.session_id == session_id, row.kind.not_in((FEEDBACK, END)))
            .distinct()
            .order_by(row.kind)
        )
        with self.database.reading() as connection:
            return list(connection.scalars(statement))

    def feedback(self, session_id: str) -> dict[str, dict[str, Any]]:
        """Return the last feedback on each row of a session, by the row's entry."""
        row = LogEntryRow
        statement = (
            select(row.about, row.content)
            .where(row.session_id == session_id, row.kind == FEEDBACK)
            # Processes deliver when they can: the application's clock says what came last.
            .order_by(row.logged_at, row.id)
        )
        with self.database.reading() as connection:
            return {about: content for about, content in connection.execute(statement)}

    def rows(self, session_id: str, kind: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield the entry's id and the row of each logged row of a kind, oldest first."""
        row = LogEntryRow
        previous_id = 0
        while True:
            statement = (
                select(row.id, row.entry_id, row.content)
                .where(row.session_id == session_id, row.id > previous_id, row.kind == kind)
                .order_by(row.id)
                .limit(_PAGE)
            )
            with self.database.reading() as connection:
                page = connection.execute(statement).all()

            for _, entry_id, content in page:
                yield entry_id, content
            if len(page) < _PAGE:
                return
            previous_id = page[-1][0]

    def ended_at(self, session_id: str) -> datetime | None:
        """Return when the application last said that a session has ended; None if it never has."""
        row = LogEntryRow
        statement = select(func.max(row.logged_at)).where(
            row.session_id == session_id, row.kind == END
        )
        with self.database.reading() as connection:
            ended_at = connection.scalar(statement)
        return None if ended_at is None else datetime.fromtimestamp(ended_at, UTC)

    def finish_collection(
        self, session_id: str, entries: int, collected: Sequence[Occurrences]
    ) -> int:
        """Note how many entries were collected, and remove what earlier collections made otherwise.

        Feedback may have come after the samples were made: they are taken back then.

        Returns:
            The number of removed samples.
        """
        superseded = []
        for table, is_logged in (
            (SampleRow, SampleRow.logged.is_(True)),
            (RejectedSampleRow, RejectedSampleRow.source == LOGGED),
        ):
            statement = select(table.id, table.digest, table.occurrence).where(
                table.session_id == session_id, is_logged
            )
            with self.database.reading() as connection:
                rows = connection.execute(statement).all()
            obsolete = []
            for row_id, digest, occurrence in rows:
                if not any(occurrences.includes(digest, occurrence) for occurrences in collected):
                    obsolete.append(row_id)
            superseded.append((table, obsolete))

        with self.database.transaction() as connection:
            for table, row_ids in superseded:
                for start in range(0, len(row_ids), _MOST_PARAMETERS):
                    is_obsolete = table.id.in_(row_ids[start : start + _MOST_PARAMETERS])
                    connection.execute(delete(table).where(is_obsolete))
            is_session = SessionRow.session_id == session_id
            connection.execute(
                update(SessionRow).where(is_session).values(collected_entries=entries)
            )
        return len(superseded[0][1])
