"""`Session`: an application logs its samples, and what users say of them, while it runs."""

import itertools
import logging
import os
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tunetrail.config import check_identifier, default_database_url
from tunetrail.config.checks import check, check_choice
from tunetrail.data.conventions.reading import RowReader
from tunetrail.data.conversations.conversations import TIME_COLUMNS, derive
from tunetrail.plain_values import plain_values
from tunetrail.samples import SampleKind, is_sample_kind, sample_kinds
from tunetrail.stores.database.connection import json_text
from tunetrail.stores.database.log_entries import CONVERSATION, END, FEEDBACK, LogEntry
from tunetrail.stores.database.log_spool import spool_folder
from tunetrail.stores.database.log_writer import LogWriter

_LEAST_BUFFER = 100_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SessionStatus:
    """What became of what a process has logged for a session.

    Attributes:
        logged: Number of entries: rows, feedback and ends.
        delivered: Number of entries that the database has.
        waiting: Number of entries that wait in memory or in the spool.
        dropped: Number of entries that were given up, as neither the disk nor the database could be
            written and memory was full.
        problems: Number of calls whose arguments can't be logged.
        last_problem: The last of these problems, empty without any.
    """

    logged: int
    delivered: int
    waiting: int
    dropped: int
    problems: int
    last_problem: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return plain_values(self)


class Session:
    """Logs an application's samples, and users' feedback on them, while the application runs.

    Any number of threads and processes may log to one session. A call takes some microseconds: a
    thread brings the entries to the database. Whatever happens to the disk or the database, no
    method raises; problems are logged once by `logging` and counted in `status`.

    Args:
        session_id: The session, which is made if it doesn't exist.
        kind: What the rows are, as for `tunetrail ingest --kind`: `conversation`, `embedding`,
            `llm`, or the kind of an installed family.
        database: URL of the database; None for $TUNETRAIL_DATABASE_URL, or else
            `sqlite:///tunetrail.db`.
        durable: Whether an entry is on disk when the call that logs it returns, so that even a
            killed process loses none. Otherwise this is so once `flush` has returned True; an entry
            waits in memory for about 0.2 seconds.
        spool: Folder of the entries that the database doesn't have yet, see `spool_folder`; all
            processes of a machine should have the same.
        most_characters: The bound of what waits in memory while the disk can't be written. If the
            database is away as well, later entries are dropped and counted.

    Raises:
        ConfigError: An argument isn't allowed.
    """

    def __init__(
        self,
        session_id: str,
        kind: str,
        database: str | None = None,
        *,
        durable: bool = False,
        spool: Path | str | None = None,
        most_characters: int = 64_000_000,
    ) -> None:
        self.session_id = check_identifier("session_id", session_id)
        self.kind = str(kind)
        # Asked first, since it imports the packages that may have the kind.
        if self.kind != CONVERSATION and not is_sample_kind(self.kind):
            check_choice("kind", self.kind, (CONVERSATION, *map(str, sample_kinds())))
        is_enough = isinstance(most_characters, int) and most_characters >= _LEAST_BUFFER
        check(is_enough, "most_characters", f"at least {_LEAST_BUFFER}", most_characters)
        url = database or default_database_url()
        folder = spool_folder(url) if spool is None else Path(spool).absolute()

        self._writer = LogWriter(url, folder, most_characters, durable=bool(durable))
        self._ids = _EntryIds()
        self._problems = 0
        self._last_problem = ""
        self._is_first_row = True

    def __enter__(self) -> Self:
        """Return the session itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Deliver what was logged; the session doesn't end by that, see `end`."""
        self.close()

    def log(self, row: Mapping[str, Any] | None = None, /, **columns: Any) -> str:
        """Log a sample and return its id, to which `feedback` refers.

        The columns are the same as in a file for `tunetrail ingest`, such as `messages` for a
        conversation or `anchor` and `positive` for an embedding model. A row without a time gets
        the present one as `timestamp`. It is checked when it becomes a sample: a malformed row is
        stored with the reason.

        Args:
            row: The columns as a mapping.
            columns: Further columns.
        """
        entry_id = self._ids.next()
        try:
            content = {**(row or {}), **columns}
            if not content:
                raise ValueError("log must be given the columns of a row, got none")

            logged_at = time.time()
            if all(content.get(column) is None for column in TIME_COLUMNS):
                content["timestamp"] = round(logged_at, 3)
            self._write(entry_id, self.kind, json_text(content), logged_at=logged_at)
            if self._is_first_row:
                self._is_first_row = False
                self._check(content)
        # Whatever an application passes, it mustn't fail because of it.
        except Exception as error:
            self._note(error)
        return entry_id

    def feedback(
        self,
        sample_id: str,
        verdict: Any = None,
        *,
        rating: float | None = None,
        correction: str | None = None,
    ) -> None:
        """Log what a user says of a sample; later feedback on it replaces earlier feedback.

        Args:
            sample_id: What `log` returned, in this process or another one.
            verdict: `"up"` or `"down"`, True or False, 1 or -1, `"4/5"`: any form that docs/data.md
                lists for the column `feedback`.
            rating: A number on the scale of the session's ratings, such as 1 to 5 stars.
            correction: What the answer should have been; for conversations.
        """
        try:
            if not _EntryIds.is_id(sample_id):
                raise ValueError("feedback must name a sample by the id that log returned")
            if correction is not None and self.kind != CONVERSATION:
                raise ValueError(f"correction is for conversations, got one for {self.kind}")
            stated = {"feedback": verdict, "rating": rating, "correction": correction}
            content = {name: value for name, value in stated.items() if value is not None}
            if not content:
                raise ValueError("feedback must have a verdict, a rating or a correction, got none")
            self._write(self._ids.next(), FEEDBACK, json_text(content), about=sample_id)
        # As in `log`.
        except Exception as error:
            self._note(error)

    def end(self, seconds: float = 10.0) -> bool:
        """Say that the session is over, so that `tunetrail watch` trains; deliver what was logged.

        What is logged afterwards still belongs to the session.

        Args:
            seconds: How long to wait for the database.

        Returns:
            Whether the database has everything. If not, it is delivered later, the end included.
        """
        self._write(self._ids.next(), END, "{}")
        return self._writer.close(seconds)

    def flush(self, seconds: float = 10.0) -> bool:
        """Return whether everything that was logged before is safe.

        It is if the disk has it, in the spool, or the database. Then neither a killed process nor a
        power failure loses it, and it is delivered once.

        Args:
            seconds: How long to wait for the database if the disk can't be written.
        """
        return self._writer.flush(seconds)

    def close(self, seconds: float = 10.0) -> bool:
        """Deliver what was logged, and return whether the database has it.

        What it doesn't have after these seconds stays in the spool. A session that isn't closed is
        closed when the process exits.
        """
        return self._writer.close(seconds)

    @property
    def status(self) -> SessionStatus:
        """What became of what this process has logged."""
        writer = self._writer
        return SessionStatus(
            logged=writer.written,
            delivered=writer.delivered,
            waiting=writer.waiting,
            dropped=writer.dropped,
            problems=self._problems,
            last_problem=self._last_problem,
        )

    def _write(
        self,
        entry_id: str,
        kind: str,
        content: str,
        *,
        about: str = "",
        logged_at: float | None = None,
    ) -> None:
        entry = LogEntry(
            entry_id=entry_id,
            session_id=self.session_id,
            kind=kind,
            about=about,
            logged_at=time.time() if logged_at is None else logged_at,
            content=content,
        )
        self._writer.write(entry.to_line())

    def _check(self, row: Mapping[str, Any]) -> None:
        """Raise `SampleError` if nothing can be learnt from a row."""
        if self.kind == CONVERSATION:
            derive(row)
        else:
            RowReader(SampleKind(self.kind)).read(row)

    def _note(self, error: Exception) -> None:
        self._problems += 1
        self._last_problem = str(error)
        if self._problems == 1:
            _log.warning(
                "session %s: %s (further problems are only counted)", self.session_id, error
            )


class _EntryIds:
    """Gives out ids that no other process and no other session has."""

    _FORM = re.compile(r"[0-9a-f]{16}-[0-9a-f]{1,16}")

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._process = (os.getpid(), secrets.token_hex(8), itertools.count())

    def next(self) -> str:
        """Return a new id."""
        if self._process[0] != os.getpid():
            # A forked process would count on with the same beginning.
            self._begin()
        _, beginning, numbers = self._process
        return f"{beginning}-{next(numbers):x}"

    @classmethod
    def is_id(cls, value: object) -> bool:
        """Tell whether a value has the form of an id."""
        return isinstance(value, str) and cls._FORM.fullmatch(value) is not None
