"""`DatabaseManager`: all access to sessions, training runs and promotions.

Each method delegates to the module that owns its table. Tables that only one room of tunetrail uses
are attributes with methods of their own.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tunetrail.config import check_identifier
from tunetrail.data.conventions.reading import IngestAccount, RowReader, counting, rows_of
from tunetrail.samples import BrokenRow, Sample, SampleKind
from tunetrail.stores.database import (
    benchmark,
    ingestion,
    ledger,
    sessions,
    training_runs,
)
from tunetrail.stores.database.benchmark import BenchmarkRecord
from tunetrail.stores.database.connection import DatabaseConnection
from tunetrail.stores.database.database_locks import database_lock
from tunetrail.stores.database.failures import shown
from tunetrail.stores.database.hook_deliveries import RecordedDeliveries
from tunetrail.stores.database.ingestion import CHUNK_SIZE, Derive, IngestReport, Occurrences
from tunetrail.stores.database.ledger import PromotionRecord
from tunetrail.stores.database.log_entries import ApplicationLog
from tunetrail.stores.database.sessions import (
    RejectedSample,
    SampleSnapshot,
    SessionSummary,
    StoredSample,
)
from tunetrail.stores.database.study_logs import StudyLogs
from tunetrail.stores.database.training_runs import RunState, TrainingRun
from tunetrail.stores.database.watched_sessions import WatchedSessions

if TYPE_CHECKING:
    from tunetrail.stores.database.packed_row_ids import RowIds

__all__ = [
    "BenchmarkRecord",
    "DatabaseManager",
    "IngestReport",
    "PromotionRecord",
    "RejectedSample",
    "RunState",
    "SampleSnapshot",
    "SessionSummary",
    "StoredSample",
    "TrainingRun",
]


class DatabaseManager:
    """Sessions, samples, training runs and the ledger, in SQLite or PostgreSQL.

    The constructor only checks the URL. The first use opens the database and migrates its tables.
    Reading doesn't make a SQLite file that is missing.
    Every method raises `DatabaseError` if the database can't be reached, read or written.

    Attributes:
        application_log: What `tunetrail.Session` has logged.
        hook_deliveries: What the hook was told.
        study_logs: The journals of sweeps.
        watched_sessions: The sessions as `tunetrail watch` sees them.

    Args:
        url: `sqlite:///FILE` or `postgresql+psycopg://USER:PASSWORD@HOST/NAME`.

    Raises:
        ConfigError: The URL is of another kind.
    """

    def __init__(self, url: str) -> None:
        self._database = DatabaseConnection(url)
        self.application_log = ApplicationLog(self._database)
        self.hook_deliveries = RecordedDeliveries(self._database)
        self.study_logs = StudyLogs(self._database)
        self.watched_sessions = WatchedSessions(self._database)

    def __enter__(self) -> Self:
        """Return the manager itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the database."""
        self.close()

    def __repr__(self) -> str:
        """Show the URL without its password."""
        return f"DatabaseManager({self.shown_url!r})"

    @property
    def shown_url(self) -> str:
        """The URL without its password."""
        return shown(self._database.url)

    def is_missing(self) -> bool:
        """Return whether the database is a SQLite file that doesn't exist; writing makes it."""
        return self._database.is_missing()

    def close(self) -> None:
        """Close the database; using the manager again opens it again."""
        self._database.close()

    def ingest(
        self,
        session_id: str,
        rows: Iterable[Mapping[str, Any] | BrokenRow],
        kind: SampleKind,
        *,
        source: str = "",
        columns: Mapping[str, str] | None = None,
        on_progress: Callable[[int], None] | None = None,
        chunk_size: int = CHUNK_SIZE,
        logged: Occurrences | None = None,
    ) -> IngestReport:
        """Check and store rows; malformed rows are stored separately, with the reason.

        Ingesting the same rows again adds nothing.

        Args:
            session_id: The session of the rows, which is created if it doesn't exist.
            rows: Mappings of columns to values, a pandas DataFrame, or the broken pieces of a file.
                Their columns belong to a shape or to a convention such as Alpaca.
            kind: The kind of the samples.
            columns: Columns of the rows by the name under which they are read, such as
                `{"anchor": "question"}`.
            source: The name of the rows' source, stored with rejected rows.
            on_progress: Called after each committed chunk with the number of rows so far.
            chunk_size: Most rows per transaction; fewer if they are long.
            logged: Numbers the rows if the application has logged them, see `tunetrail.collecting`.

        Raises:
            ConfigError: The session id has characters other than letters, digits, '.', '_', '-'.
            SampleError: `columns` has a name that no sample of the kind has.
        """
        check_identifier("session_id", session_id)
        reader = RowReader(SampleKind(kind), columns)
        items = ingestion.parsed_rows(rows_of(rows), reader, source)
        report = ingestion.store(
            self._database,
            session_id,
            ingestion.accounted(items, reader.account),
            chunk_size=chunk_size,
            on_progress=on_progress,
            logged=logged,
        )
        return replace(report, account=reader.account)

    def ingest_derived(
        self,
        session_id: str,
        rows: Iterable[Mapping[str, Any] | BrokenRow],
        derive: Derive,
        *,
        kind: SampleKind = SampleKind.LLM,
        source: str = "",
        on_progress: Callable[[int], None] | None = None,
        chunk_size: int = CHUNK_SIZE,
        logged: Occurrences | None = None,
    ) -> IngestReport:
        """Store the samples that each row is turned into, and its left-out pieces with the reason.

        The report and `on_progress` count these items, not the rows. Repeating it adds nothing.

        Args:
            session_id: The session of the rows, which is created if it doesn't exist.
            rows: Mappings of columns to values, or the broken pieces of a file.
            derive: Turns a row into samples and left-out pieces, or raises `SampleError`.
            kind: The kind under which malformed rows are stored.
            source: The name of the rows' source, stored with rejected rows.
            on_progress: Called after each committed chunk with the number of items so far.
            chunk_size: Most items per transaction; fewer if they are long.
            logged: Numbers the items if the application has logged them.

        Raises:
            ConfigError: The session id has characters other than letters, digits, '.', '_', '-'.
        """
        check_identifier("session_id", session_id)
        account = IngestAccount()
        counted = account.counted(rows)
        items = ingestion.derived_items(
            counted, counting(account, derive), SampleKind(kind), source
        )

        report = ingestion.store(
            self._database,
            session_id,
            ingestion.accounted(items, account),
            chunk_size=chunk_size,
            on_progress=on_progress,
            logged=logged,
        )
        return replace(report, account=account)

    def lock(
        self, name: str, in_words: str, most_seconds: float | None = None
    ) -> AbstractContextManager[None]:
        """Return a context in which no other process of the database holds the lock."""
        return database_lock(self._database, name, in_words, most_seconds)

    def add_samples(
        self, session_id: str, samples: Iterable[Sample], *, chunk_size: int = CHUNK_SIZE
    ) -> IngestReport:
        """Store checked samples; adding them again adds nothing."""
        return ingestion.store(self._database, session_id, samples, chunk_size=chunk_size)

    def read_samples(
        self,
        session_id: str,
        kind: SampleKind,
        *,
        chunk_size: int = 1000,
        last_id: int | None = None,
    ) -> Iterator[list[StoredSample]]:
        """Return an iterator over a session's samples in lists of up to `chunk_size`, by row id.

        With `last_id`, samples that came after that row are left out.

        Raises:
            SessionError: There is no such session; raised by this call, not by the iterator.
        """
        if chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, got {chunk_size}.")
        # Here and not in the iterator, which would raise the error only when it is used.
        sessions.check_session(self._database, session_id)
        return sessions.read_samples(
            self._database, session_id, SampleKind(kind), chunk_size, last_id
        )

    def snapshot_samples(
        self, session_id: str, kind: SampleKind, last_id: int | None = None
    ) -> SampleSnapshot:
        """Return which samples of a kind a session has, up to a row id; None for all of them."""
        return sessions.snapshot_samples(self._database, session_id, kind, last_id)

    def read_own_columns(self, row_ids: Sequence[int]) -> dict[int, dict[str, Any]]:
        """Return, by row id, the columns of samples that no shape knows; unknown ids are absent."""
        return sessions.read_own_columns(self._database, row_ids)

    def sessions_in_range(self, kind: SampleKind, first_id: int, last_id: int) -> list[str]:
        """Return the sessions that have samples of a kind with ids in a range."""
        return sessions.sessions_in_range(self._database, kind, first_id, last_id)

    def sample_ids(self, session_id: str, kind: SampleKind) -> list[int]:
        """Return the row ids of a session's samples of a kind, ascending."""
        return sessions.sample_ids(self._database, session_id, kind)

    def count_shapes(
        self, session_id: str, kind: SampleKind, last_id: int | None = None
    ) -> dict[str, int]:
        """Return how many samples of each shape a session has up to a row id, by shape."""
        return sessions.count_shapes(self._database, session_id, kind, last_id)

    def rejected_samples(self, session_id: str) -> list[RejectedSample]:
        """Return the session's rejected rows; raises `SessionError` for an unknown session."""
        sessions.check_session(self._database, session_id)
        return sessions.read_rejected_samples(self._database, session_id)

    def has_session(self, session_id: str) -> bool:
        """Tell whether there is a session of that id."""
        return sessions.session_exists(self._database, session_id)

    def discard_session_without_samples(self, session_id: str) -> None:
        """Remove a session and its rejected rows, unless it has a sample or a training run."""
        sessions.discard_session_without_samples(self._database, session_id)

    def session_summary(self, session_id: str) -> SessionSummary:
        """Return the summary of a session; raises `SessionError` for an unknown session."""
        sessions.check_session(self._database, session_id)
        return sessions.summarize(self._database, session_id)[0]

    def sessions(self) -> list[SessionSummary]:
        """Return the summaries of all sessions, oldest first."""
        return sessions.summarize(self._database)

    def create_training_run(
        self, session_id: str | Sequence[str], model_type: str, started_by: str | None = None
    ) -> str:
        """Store a pending run of this process, on one session or several, and return its id.

        Raises:
            SessionError: There is no such session.
        """
        session_ids = [session_id] if isinstance(session_id, str) else list(session_id)
        return training_runs.create_training_run(
            self._database, session_ids, model_type, started_by
        )

    def update_training_run(
        self,
        run_id: str,
        *,
        state: RunState | str | None = None,
        reason: str | None = None,
        mlflow_run_id: str | None = None,
        result: Mapping[str, Any] | None = None,
    ) -> None:
        """Set the values of a training run that are not None.

        Raises:
            DatabaseError: There is no such run, or its present state can't be followed by `state`.
        """
        training_runs.update_training_run(
            self._database,
            run_id,
            state=state,
            reason=reason,
            mlflow_run_id=mlflow_run_id,
            result=result,
        )

    def training_runs(self, session_id: str | None = None) -> list[TrainingRun]:
        """Return the training runs of one session or of all, oldest first."""
        return training_runs.read_training_runs(self._database, session_id)

    def failed_training_runs(self, since: datetime) -> list[TrainingRun]:
        """Return the training runs that have failed since a moment, oldest first."""
        failed = training_runs.read_training_runs(self._database, states=(RunState.FAILED,))
        return [run for run in failed if run.updated_at >= since]

    def training_run(self, run_id: str) -> TrainingRun | None:
        """Return one training run, or None if there is no run with that id."""
        return training_runs.read_training_run(self._database, run_id)

    def unfinished_training_runs(self) -> list[TrainingRun]:
        """Return the runs that are pending or running, oldest first."""
        states = (RunState.PENDING, RunState.RUNNING)
        return training_runs.read_training_runs(self._database, states=states)

    def reopen_training_run(self, run: TrainingRun) -> None:
        """Set a run that has not succeeded to running in this process.

        Raises:
            DatabaseError: Another process has changed the run since it was read.
        """
        training_runs.reopen_training_run(self._database, run)

    def mark_interrupted_runs(self) -> list[TrainingRun]:
        """Mark the unfinished runs of dead processes as interrupted, and return them."""
        return training_runs.mark_interrupted_runs(self._database)

    def record_promotion(self, record: PromotionRecord) -> int:
        """Append a decision to the ledger and return its number."""
        return ledger.append_promotion(self._database, record)

    def promotions(
        self, model_name: str | None = None, *, since: datetime | None = None
    ) -> list[PromotionRecord]:
        """Return the decisions on one model or on all models, from a moment on, oldest first."""
        return ledger.read_promotions(self._database, model_name, since)

    def ledger_lines(self, model_name: str | None = None) -> list[PromotionRecord]:
        """Return the lines of one model or of all models, intents included, oldest first."""
        return ledger.read_lines(self._database, model_name)

    def decide_intent(self, intent: PromotionRecord, decision: str, reason: str) -> None:
        """Append the decision that an intent of the ledger lacks."""
        ledger.decide_intent(self._database, intent, decision, reason)

    def root_lock(self, model_name: str) -> AbstractContextManager[None]:
        """Return a context in which no other process moves root of a model."""
        return ledger.root_lock(self._database, model_name)

    def learnt_rows(self, model_name: str, version: str) -> "RowIds | None":
        """Return the ids of the samples that a version has learnt from; None if unknown."""
        return ledger.read_learnt_rows(self._database, model_name, version)

    def read_benchmark(self, model_name: str, shape: str) -> list[BenchmarkRecord]:
        """Return the test rows of earlier trainings of a model that have a shape, oldest first."""
        return benchmark.read_benchmark(self._database, model_name, shape)

    def extend_benchmark(
        self, model_name: str, records: Iterable[BenchmarkRecord], limit: int
    ) -> None:
        """Add test rows to a model's benchmark, of which at most `limit` per shape stay."""
        benchmark.extend_benchmark(self._database, model_name, records, limit)
