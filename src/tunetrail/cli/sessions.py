"""`tunetrail ingest` and `tunetrail sessions`: files into the database, and what the database holds."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tunetrail.data.sources import check_columns, count_rows, read_rows
from tunetrail.samples import SampleKind
from tunetrail.stores.database import DatabaseManager


def ingest(file: str, session_id: str, kind: str, database: str) -> int:
    """Store the samples of a file and say what became of its rows."""
    sample_kind = SampleKind(kind)
    check_columns(file, sample_kind)
    columns = (
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with DatabaseManager(database) as manager, Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(f"ingest {file}", total=count_rows(file))
        report = manager.ingest(
            session_id,
            read_rows(file),
            sample_kind,
            source=file,
            on_progress=lambda rows: progress.update(task, completed=rows),
        )
    print(
        f"{report.received} rows read: {report.added} added to session {session_id}, "
        f"{report.already_present} already there, {report.rejected} rejected (kept with the reason)"
    )
    if report.rejected:
        with DatabaseManager(database) as manager:
            rejected = manager.rejected_samples(session_id)
        for row in rejected[-3:]:
            print(f"  row {row.row_number} of {row.source}: {row.reason}")
    return 0


def sessions(database: str) -> int:
    """Print a table of all sessions; runs left by dead processes are marked first."""
    with DatabaseManager(database) as manager:
        manager.mark_interrupted_runs()
        summaries = manager.sessions()
    if not summaries:
        print("no sessions yet. Make one: tunetrail ingest FILE --session ID --kind embedding")
        return 0
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("session", "embedding", "llm", "rejected", "state", "last training"):
        table.add_column(name, no_wrap=True)
    for each in summaries:
        trained = each.last_training.strftime("%Y-%m-%d %H:%M") if each.last_training else "never"
        table.add_row(each.session_id, str(each.embedding), str(each.llm), str(each.rejected), str(each.state), trained)
    Console().print(table)
    return 0
