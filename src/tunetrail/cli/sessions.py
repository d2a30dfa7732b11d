"""`tunetrail ingest` and `tunetrail sessions`: fill the database, and list what it holds."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tunetrail.data.conversations.conversations import derive
from tunetrail.data.conversations.messages import messages_of
from tunetrail.data.sources import check_columns, check_rows, count_rows, read_rows
from tunetrail.samples import LeftOut, Sample, SampleKind, sample_kinds
from tunetrail.stores.database import DatabaseManager


def ingest(file: str, session_id: str, kind: str, database: str) -> int:
    """Store the samples of a file, or of the chat logs of a file, and print what became of them."""
    if kind == "conversation":
        return _ingest_conversations(file, session_id, database)

    sample_kind = SampleKind(kind)
    # A file of another kind is refused as a whole, before anything is stored.
    check_columns(file, sample_kind)
    with DatabaseManager(database) as manager, _progress(file) as (progress, task):
        report = manager.ingest(
            session_id,
            read_rows(file),
            sample_kind,
            source=file,
            on_progress=lambda rows: progress.update(task, completed=rows),
        )

    print(
        f"{report.received} rows read: {report.added} added to session {session_id}, "
        f"{report.already_present} already there, "
        f"{report.rejected} rejected (kept with the reason)"
    )
    _print_rejected(database, session_id, report.rejected)
    return 0


@dataclass(kw_only=True)
class _Tally:
    """Counts of what conversations were turned into while they were stored."""

    conversations: int = 0
    pairs: int = 0
    chats: int = 0
    rejected: int = 0
    unusable: int = 0
    short_questions: int = 0

    def derive(self, row: Mapping[str, Any]) -> tuple[Sample | LeftOut, ...]:
        """Return the samples and the left-out pieces of a conversation."""
        derived = derive(row)
        pairs = sum(sample.kind == SampleKind.EMBEDDING for sample in derived.samples)
        self.conversations += 1
        self.pairs += pairs
        self.chats += len(derived.samples) - pairs
        self.rejected += len(derived.rejected)
        self.unusable += len(derived.unusable)
        self.short_questions += len(derived.short_questions)
        return derived.kept


def _ingest_conversations(file: str, session_id: str, database: str) -> int:
    check_rows(file, messages_of, "conversations")
    tally = _Tally()
    with DatabaseManager(database) as manager, _progress(file) as (progress, task):
        report = manager.ingest_derived(
            session_id,
            read_rows(file),
            tally.derive,
            source=file,
            # The manager counts samples, but the bar's total is in conversations.
            on_progress=lambda _: progress.update(task, completed=tally.conversations),
        )

    # All other rejections are rows that weren't conversations at all.
    malformed = report.rejected - tally.rejected - tally.unusable
    print(f"{tally.conversations} conversations read: {tally.pairs} pairs and {tally.chats} chats")
    print(
        f"  {report.added} samples added to session {session_id}, "
        f"{report.already_present} already there"
    )
    print(
        f"  left out, kept with the reason: {tally.rejected} answers rejected by feedback, "
        f"{tally.unusable} parts that can't be learnt from, {malformed} malformed rows"
    )
    print(f"  no pair, as the question can't stand alone: {tally.short_questions}")
    _print_rejected(database, session_id, report.rejected)
    return 0


@contextmanager
def _progress(file: str) -> Iterator[tuple[Progress, Any]]:
    columns = (
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    # On stderr: stdout holds only the result.
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield progress, progress.add_task(f"ingest {file}", total=count_rows(file))


def _print_rejected(database: str, session_id: str, count: int) -> None:
    if not count:
        return
    with DatabaseManager(database) as manager:
        rejected = manager.rejected_samples(session_id)

    # The newest are of this file. Three usually show what is wrong with all of them.
    for row in rejected[-3:]:
        print(f"  row {row.row_number} of {row.source}: {row.reason}")


def sessions(database: str) -> int:
    """Print a table of all sessions, after marking the runs of dead processes as interrupted."""
    with DatabaseManager(database) as manager:
        manager.mark_interrupted_runs()
        summaries = manager.sessions()
    if not summaries:
        print("no sessions yet. Make one: tunetrail ingest FILE --session ID --kind embedding")
        return 0

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("session", *sample_kinds(), "rejected", "state", "last training"):
        table.add_column(name, no_wrap=True)
    for summary in summaries:
        trained = summary.last_training
        table.add_row(
            summary.session_id,
            *(str(summary.samples[kind]) for kind in sample_kinds()),
            str(summary.rejected),
            str(summary.state),
            trained.strftime("%Y-%m-%d %H:%M") if trained else "never",
        )
    Console().print(table)
    return 0
