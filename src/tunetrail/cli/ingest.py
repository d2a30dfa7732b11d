"""`tunetrail ingest`: rows and chat logs become samples of a session."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tunetrail.cli.ingest_account import first_reason, read_as_lines, unlearnt_lines
from tunetrail.cli.output import show as show_result
from tunetrail.cli.terminal import printable, say
from tunetrail.data.conventions.beir import beir_rows, is_beir_folder
from tunetrail.data.conventions.columns import (
    check_sources,
    check_targets,
    columns_of,
    read_mapping,
    renamed,
)
from tunetrail.data.conventions.reading import IngestAccount, RowReader
from tunetrail.data.conversations.conversations import ID_COLUMNS, TIME_COLUMNS, derive
from tunetrail.data.conversations.feedback import FEEDBACK_COLUMNS
from tunetrail.data.conversations.front_ends import without_front_ends
from tunetrail.data.conversations.messages import MESSAGE_COLUMNS, messages_of
from tunetrail.data.conversations.preferences import PreferenceFinder
from tunetrail.data.conversations.rating_scales import ScaleOfRows, find_scale, using_scale
from tunetrail.data.formats import (
    DatabaseQuery,
    Row,
    Source,
    check_rows,
    count_rows,
    peek_rows,
    read_rows,
    reading_notes,
    shown_source,
)
from tunetrail.errors import SampleError
from tunetrail.reporting.progress import progress_console
from tunetrail.reporting.readable import counted
from tunetrail.samples import (
    COMMON_COLUMNS,
    BrokenRow,
    LeftOut,
    Sample,
    SampleKind,
)
from tunetrail.stores.database.manager import DatabaseManager, IngestReport

_VERDICTS = ("verdict", "verdict_chat")


def ingest(
    file: str,
    session_id: str,
    kind: str,
    database: str,
    columns: str = "",
    *,
    query: str | None = None,
) -> int:
    """Store the samples of a file, or of the chat logs of a file, and print what became of them.

    Args:
        file: A source of rows as `read_rows` takes it, or a folder with a corpus, queries and
            judgements in BEIR's form.
        session_id: The session of the rows.
        kind: A kind of samples, or `conversation`.
        database: The URL of the database.
        columns: The user's own mapping of columns, such as `anchor=question,positive=answer`.
        query: The SELECT that returns the rows of the database whose URL is in place of the file.
    """
    source: Source = file if query is None else DatabaseQuery(file, query)
    mapping = read_mapping(columns) if columns else {}
    if kind == "conversation":
        return _ingest_conversations(source, session_id, database, mapping)

    sample_kind = SampleKind(kind)
    is_beir = is_beir_folder(file)
    if is_beir:
        rows: Iterable[Any] = beir_rows(file)
        scale = ScaleOfRows()
    else:
        reader = RowReader(sample_kind, mapping)
        rows, scale = _checked_rows(source, mapping, reader.check_columns, f"{sample_kind} samples")

    with DatabaseManager(database) as manager, using_scale(scale):
        is_new = not manager.has_session(session_id)
        with _progress(source, rows) as (counted_rows, show):
            report = manager.ingest(
                session_id,
                counted_rows,
                sample_kind,
                source=shown_source(source),
                columns=mapping,
                on_progress=show,
            )

        if is_beir:
            report.account.read_as["BEIR"] = report.account.rows
        for line in read_as_lines(report.account, scale.found):
            say(line)
        print(
            f"{counted(report.account.rows, 'row')} read: {report.added} added to session "
            f"{session_id}, "
            f"{report.already_present} already there, {report.rejected} rejected"
            f"{' (kept with the reason)' if report.added or report.already_present else ''}"
        )
        _finish(manager, session_id, report, shown_source(source), is_new)
    _show_report(session_id, kind, source, report)
    return 0


def _show_report(session_id: str, kind: str, source: Source, report: IngestReport) -> None:
    identity = {"session_id": session_id, "kind": kind, "source": shown_source(source)}
    account = report.account
    rejections = {rejection.reason: rejection.rows for rejection in account.rejections.values()}
    columns = {"read_as": dict(account.read_as), "not_used": dict(account.unused)}
    rows = {"rows": account.rows, **report.to_dict(), "rejections": rejections}
    show_result(lambda: {**identity, **rows, **columns})


def _checked_rows(
    source: Source,
    mapping: Mapping[str, str],
    check: Callable[[Mapping[str, Any]], object],
    goal: str,
    read_as: Counter[str] | None = None,
) -> tuple[Iterator[Row], ScaleOfRows]:
    """Return the rows of a source and the scale of their ratings, after saying how they are read.

    Args:
        source: The source.
        mapping: The user's own mapping of columns.
        check: Raises `SampleError` for an unsuitable row.
        goal: What the rows are meant to become, for the error.
        read_as: Counts the conversations by the front end that exported them; None if the rows
            aren't conversations.

    Raises:
        SampleError: The first rows lack a mapped column, or none of them passes the check: a file
            of another kind is refused as a whole, before anything is stored.
    """
    for note in reading_notes(source):
        say(note)
    all_rows: Iterator[Row] = read_rows(source)
    if read_as is not None:
        all_rows = without_front_ends(all_rows, read_as)
    first_rows, rows = peek_rows(all_rows)
    if mapping:
        check_sources(mapping, columns_of(first_rows))
    check_rows(first_rows, check, goal, source)

    # All ratings of the file are on one scale, which its last row may show.
    scale = ScaleOfRows(lambda: _renamed_rows(read_rows(source), mapping), MESSAGE_COLUMNS)
    if find_scale(_renamed_rows(first_rows, mapping), MESSAGE_COLUMNS) is not None:
        # Before anything is stored: the file may be damaged further on.
        scale.scale()
    return rows, scale


def _renamed_rows(rows: Iterable[Row], mapping: Mapping[str, str]) -> Iterator[Mapping[str, Any]]:
    for row in rows:
        if not isinstance(row, BrokenRow):
            yield renamed(row, mapping) if mapping else row


def _finish(
    manager: DatabaseManager, session_id: str, report: IngestReport, file: str, is_new: bool
) -> None:
    """Print what nothing is learnt from.

    Raises:
        SampleError: No sample was stored. A session that is new is removed with its rejected rows.
    """
    for line in unlearnt_lines(report.account, file):
        say(line)
    if report.added or report.already_present:
        return

    if is_new:
        manager.discard_session_without_samples(session_id)
    raise SampleError(
        f"{file} must have a row that can be learnt from, got {first_reason(report.account)} "
        "No sample was stored."
    )


@dataclass(kw_only=True)
class _Tally:
    """Counts of what conversations were turned into while they were stored."""

    conversations: int = 0
    pairs: int = 0
    chats: int = 0
    rejected: int = 0
    unusable: int = 0
    short_questions: int = 0
    preferences: int = 0
    verdicts: int = 0
    finder: PreferenceFinder = field(default_factory=PreferenceFinder)

    def derive(self, row: Mapping[str, Any]) -> tuple[Sample | LeftOut, ...]:
        """Return the samples and the left-out pieces of a conversation."""
        derived = derive(row, self.finder)
        verdicts = sum(sample.shape in _VERDICTS for sample in derived.judged)
        self.verdicts += verdicts
        self.preferences += len(derived.judged) - verdicts
        pairs = sum(sample.kind == SampleKind.EMBEDDING for sample in derived.samples)
        self.conversations += 1
        self.pairs += pairs
        self.chats += len(derived.samples) - pairs
        self.rejected += len(derived.rejected)
        self.unusable += len(derived.unusable)
        self.short_questions += len(derived.short_questions)
        return derived.kept


def _ingest_conversations(
    source: Source, session_id: str, database: str, mapping: Mapping[str, str]
) -> int:
    """Store the samples of conversations, and print what became of the conversations."""
    known = {*MESSAGE_COLUMNS, *ID_COLUMNS, *TIME_COLUMNS, *FEEDBACK_COLUMNS, *COMMON_COLUMNS}
    check_targets(mapping, known, "conversation")
    read_as: Counter[str] = Counter()
    rows, scale = _checked_rows(
        source,
        mapping,
        lambda row: messages_of(renamed(row, mapping)),
        "conversations",
        read_as,
    )

    tally = _Tally()
    with DatabaseManager(database) as manager, using_scale(scale):
        is_new = not manager.has_session(session_id)
        if not is_new:
            tally.finder.remember(_stored_verdicts(manager, session_id))
        with _progress(source, rows) as (counted_rows, show):
            report = manager.ingest_derived(
                session_id,
                counted_rows,
                lambda row: tally.derive(renamed(row, mapping)),
                source=shown_source(source),
                on_progress=show,
            )

        report.account.read_as.update(read_as)
        for line in read_as_lines(report.account, scale.found):
            say(line)
        # All other rejections are rows that weren't conversations at all.
        malformed = report.rejected - tally.rejected - tally.unusable
        print(
            f"{counted(tally.conversations, 'conversation')} read: "
            f"{counted(tally.pairs, 'pair')} and {counted(tally.chats, 'chat')}"
        )
        if tally.preferences or tally.verdicts:
            print(
                f"  from feedback: {counted(tally.preferences, 'preference')} "
                f"(llm.objective=preference), {counted(tally.verdicts, 'verdict')} "
                "(llm.objective=kto); llm.objective=supervised learns the chats"
            )
        print(
            f"  {counted(report.added, 'sample')} added to session {session_id}, "
            f"{report.already_present} already there"
        )
        print(
            f"  left out, kept with the reason: {counted(tally.rejected, 'answer')} rejected by "
            f"feedback, {counted(tally.unusable, 'part')} that can't be learnt from, "
            f"{counted(malformed, 'malformed row')}"
        )
        print(f"  no pair, as the question can't stand alone: {tally.short_questions}")
        _finish(manager, session_id, report, shown_source(source), is_new)
    _show_report(session_id, "conversation", source, report)
    return 0


def _stored_verdicts(manager: DatabaseManager, session_id: str) -> Iterator[Mapping[str, Any]]:
    """Yield the verdicts on single answers that a session has, in their order."""
    shapes = manager.count_shapes(session_id, SampleKind.LLM)
    if not any(map(shapes.get, _VERDICTS)):
        return
    for chunk in manager.read_samples(session_id, SampleKind.LLM):
        for stored in chunk:
            if stored.sample.shape in _VERDICTS:
                yield stored.sample.content


@contextmanager
def _progress(
    source: Source, rows: Iterable[Any]
) -> Iterator[tuple[Iterator[Any], Callable[[int], None]]]:
    """Show a bar while rows are stored; yield the rows, and what shows how many were read."""
    # The database counts samples, of which a row may become several: the bar's total is in rows.
    account = IngestAccount()
    columns = (
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    name = shown_source(source)
    total = None if is_beir_folder(name) else count_rows(source)
    # On stderr: stdout holds only the result.
    console = progress_console()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(f"ingest {printable(name, console)}", total=total)
        yield account.counted(rows), lambda _: progress.update(task, completed=account.rows)
