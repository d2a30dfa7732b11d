"""Make samples of what an application has logged, as `tunetrail ingest` does of a file.

The rows that an application logs for a session are read together, with the last feedback on each of
them, as the rows of one file are. So they become the same samples. A collection reads all of them
again: rows that were there before add nothing, and samples whose row has got other feedback since
are taken back.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from tunetrail.data.conventions.reading import IngestAccount
from tunetrail.data.conversations.conversations import derive
from tunetrail.data.conversations.feedback import EDIT_KEYS, FEEDBACK_COLUMNS
from tunetrail.data.conversations.messages import MESSAGE_COLUMNS
from tunetrail.data.conversations.preferences import PreferenceFinder
from tunetrail.data.conversations.rating_scales import ScaleOfRows, using_scale
from tunetrail.samples import LeftOut, Sample, SampleKind
from tunetrail.stores.database.ingestion import Occurrences
from tunetrail.stores.database.log_entries import CONVERSATION, LOGGED
from tunetrail.stores.database.manager import DatabaseManager, IngestReport

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Collection:
    """What became of the rows that were logged for a session.

    Attributes:
        added: Number of new samples.
        taken_back: Number of samples of an earlier collection that later feedback has changed.
        rejected: Number of rows, or pieces of them, that nothing is learnt from.
        unknown_feedback: Number of rows that feedback names and that were never logged.
        accounts: What the rows were read as, and why some were rejected, by kind.
    """

    added: int
    taken_back: int
    rejected: int
    unknown_feedback: int
    accounts: Mapping[str, IngestAccount]


def collect(database: DatabaseManager, session_id: str) -> Collection | None:
    """Make samples of what was logged for a session; None if nothing was since the last time.

    Raises:
        DatabaseError: The database can't be read or written.
        LockError: Another process collected the same session for too long.
    """
    # Asked without the lock first: most sessions were never logged to.
    if not _is_uncollected(database, session_id):
        return None
    with database.lock(f"{session_id}.collection", f"the collection of {session_id}"):
        if not _is_uncollected(database, session_id):
            return None
        return _collect(database, session_id)


def _is_uncollected(database: DatabaseManager, session_id: str) -> bool:
    entries, collected = database.application_log.count(session_id)
    return entries > collected


def _collect(database: DatabaseManager, session_id: str) -> Collection:
    """Turn what was logged for a session into samples, and note how far it was read."""
    # Counted first: what arrives while the rows are read is left to the next collection.
    entries, _ = database.application_log.count(session_id)
    feedback = database.application_log.feedback(session_id)
    unknown = set(feedback)

    reports: dict[str, IngestReport] = {}
    numbered: list[Occurrences] = []
    for kind in database.application_log.kinds(session_id):
        occurrences = Occurrences()
        rows = _LoggedRows(database, session_id, kind, feedback)
        # All ratings are on one scale, which the last row may show.
        with using_scale(ScaleOfRows(partial(iter, rows), MESSAGE_COLUMNS)):
            reports[kind] = _ingest(database, session_id, kind, rows, occurrences)
        numbered.append(occurrences)
        unknown -= rows.judged

    return Collection(
        added=sum(report.added for report in reports.values()),
        taken_back=database.application_log.finish_collection(session_id, entries, numbered),
        rejected=sum(report.rejected for report in reports.values()),
        unknown_feedback=len(unknown),
        accounts={kind: report.account for kind, report in reports.items()},
    )


def _ingest(
    database: DatabaseManager,
    session_id: str,
    kind: str,
    rows: "_LoggedRows",
    occurrences: Occurrences,
) -> IngestReport:
    if kind != CONVERSATION:
        return database.ingest(
            session_id, rows, SampleKind(kind), source=LOGGED, logged=occurrences
        )
    derive_all = partial(_derive_all, finder=PreferenceFinder())
    return database.ingest_derived(session_id, rows, derive_all, source=LOGGED, logged=occurrences)


def _derive_all(row: Mapping[str, Any], finder: PreferenceFinder) -> tuple[Sample | LeftOut, ...]:
    return derive(row, finder).kept


class _LoggedRows:
    """The logged rows of a kind, with the last feedback on each; each iteration reads them again.

    Attributes:
        judged: The entries of the rows with feedback, after an iteration.
    """

    def __init__(
        self,
        database: DatabaseManager,
        session_id: str,
        kind: str,
        feedback: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.judged: set[str] = set()
        self._database, self._session_id, self._kind = database, session_id, kind
        self._feedback = feedback

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for entry_id, row in self._database.application_log.rows(self._session_id, self._kind):
            feedback = self._feedback.get(entry_id)
            if feedback is None:
                yield row
            else:
                self.judged.add(entry_id)
                yield with_feedback(row, feedback)


def with_feedback(row: Mapping[str, Any], feedback: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a row with later feedback in place of its own.

    Feedback on a conversation is about its last message, the answer that the user has just got.
    """
    replaced = (*FEEDBACK_COLUMNS, *EDIT_KEYS)
    column = next((name for name in MESSAGE_COLUMNS if isinstance(row.get(name), list)), None)
    messages = row[column] if column else []
    if not messages or not isinstance(messages[-1], Mapping):
        content = {name: value for name, value in row.items() if name not in replaced}
        return {**content, **feedback}

    answer = {name: value for name, value in messages[-1].items() if name not in replaced}
    columns = {name: value for name, value in row.items() if name not in FEEDBACK_COLUMNS}
    return {**columns, str(column): [*messages[:-1], {**answer, **feedback}]}
