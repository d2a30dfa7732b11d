"""`tunetrail sessions`: list what the database holds."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from tunetrail.cli.ingest_account import collection_line
from tunetrail.cli.output import show as show_result
from tunetrail.cli.terminal import new_table, printable, say
from tunetrail.collecting import collect
from tunetrail.plain_values import plain_moment
from tunetrail.reporting.readable import shown_moment
from tunetrail.samples import sample_kinds
from tunetrail.stores.database.manager import DatabaseManager, SessionSummary


def sessions(database: str) -> int:
    """Print a table of all sessions, after marking the runs of dead processes as interrupted.

    What applications have logged since the last time becomes samples first.
    """
    with DatabaseManager(database) as manager:
        manager.mark_interrupted_runs()
        for session_id in manager.application_log.count_uncollected():
            collection = collect(manager, session_id)
            if collection is not None:
                say(collection_line(session_id, collection))
        summaries = manager.sessions()

    listed = {
        "database": manager.shown_url,
        "sessions": [_session_as_json(summary) for summary in summaries],
    }
    show_result(lambda: listed, lambda: _print_sessions(summaries, manager))
    return 0


def _kinds_of(summaries: Sequence[SessionSummary]) -> list[str]:
    """Return the kinds of samples, and the kinds of packages of which a session has samples."""
    names = list(map(str, sample_kinds()))
    for summary in summaries:
        names += summary.samples
    return list(dict.fromkeys(names))


def _session_as_json(summary: SessionSummary) -> dict[str, Any]:
    trained = summary.last_training
    return {
        "session_id": summary.session_id,
        "samples": {kind: summary.samples.get(kind, 0) for kind in _kinds_of([summary])},
        "rejected": summary.rejected,
        "state": str(summary.state),
        "reason": summary.reason,
        "last_training": plain_moment(trained) if trained else None,
    }


def _print_sessions(summaries: Sequence[SessionSummary], manager: DatabaseManager) -> None:
    if not summaries:
        print("no sessions yet. Make one: tunetrail ingest FILE --session ID --kind embedding")
        state = "doesn't exist" if manager.is_missing() else "is empty"
        # Perhaps the command was called in the wrong folder.
        print(f"The database {manager.shown_url} {state}.")
        return

    console = Console()
    kinds = _kinds_of(summaries)
    reasons = any(summary.reason for summary in summaries)
    columns = ["session", *kinds, "rejected", "state", "last training"]
    table = new_table(*columns, *(["reason"] if reasons else []))
    for column in table.columns[: len(columns)]:
        column.no_wrap = True
    for summary in summaries:
        trained = summary.last_training
        table.add_row(
            printable(summary.session_id, console),
            *(str(summary.samples.get(kind, 0)) for kind in kinds),
            str(summary.rejected),
            printable(str(summary.state), console),
            shown_moment(trained) if trained else "never",
            *([printable(summary.reason or "", console)] if reasons else []),
        )
    console.print(table)
