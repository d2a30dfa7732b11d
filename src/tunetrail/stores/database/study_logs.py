"""The journals of the sweeps' studies: entries that many processes append and read at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, func, insert, select

from tunetrail.stores.database.connection import DatabaseConnection, lock_until_commit
from tunetrail.stores.database.tables import StudyLogRow


@dataclass(frozen=True)
class StudyLogs:
    """The journals of all studies, by the id of the sweep's run."""

    database: DatabaseConnection

    def append(self, study: str, entries: Sequence[Mapping[str, Any]]) -> None:
        """Append entries to the journal of a study; their numbers have no gaps."""
        row = StudyLogRow
        # SQLite takes its lock for writing with the first statement that writes: a SELECT before it
        # would let two processes find the same number, and one of them fail.
        next_number = func.coalesce(func.max(row.number), -1) + 1
        numbered = select(
            bindparam("study_id", study),
            next_number,
            bindparam("content", type_=row.__table__.c.entry.type),
        ).where(row.study == study)
        statement = insert(row).from_select(["study", "number", "entry"], numbered)

        with self.database.transaction() as connection:
            # PostgreSQL releases it after the commit is visible: the next process sees this number.
            lock_until_commit(connection, f"study {study}")
            for entry in entries:
                connection.execute(statement, {"content": dict(entry)})

    def read(self, study: str, first_number: int = 0) -> list[dict[str, Any]]:
        """Return the entries of a study's journal from a number on, in their order."""
        row = StudyLogRow
        statement = (
            select(row.entry)
            .where(row.study == study, row.number >= first_number)
            .order_by(row.number)
        )
        with self.database.reading() as connection:
            return list(connection.scalars(statement))

    def studies(self) -> list[str]:
        """Return the names of the studies that have a journal."""
        with self.database.reading() as connection:
            return list(connection.scalars(select(StudyLogRow.study).distinct()))
