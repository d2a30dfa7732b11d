"""`tunetrail sweep show`: the jobs of a sweep, the best of them, and the decision on it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tunetrail.cli.command_parser import CommandParser
from tunetrail.cli.output import add_output_options, show
from tunetrail.cli.store_options import DATABASE_URLS, add_database
from tunetrail.cli.terminal import new_table, print_line, printable
from tunetrail.errors import UserError, not_writable
from tunetrail.paths import write_private_text

if TYPE_CHECKING:
    from tunetrail.sweeps.summary import SweepSummary

_DESCRIPTION = """\
Show the jobs of a sweep from best to worst: what was swept, the objective on the validation rows
with its interval, time and state; then the best job and what the gate decided on it.

SWEEP is the id of the sweep's run in MLflow, or its beginning; `tunetrail runs` lists them."""

_EPILOG = """\
exit code: 0, also for a sweep that still runs; 2 if there is no such sweep

examples:
  tunetrail sweep show 0f8fad5b
  tunetrail sweep show 0f8fad5b --json
  tunetrail sweep show 0f8fad5b --html sweep.html"""


def sweep(arguments: Sequence[str]) -> int:
    """Print the summary of a sweep."""
    options = _parse(arguments)
    page = Path(options.html) if options.html else None
    # Imported only after parsing: --help doesn't wait for Optuna.
    from tunetrail.stores.database.manager import DatabaseManager
    from tunetrail.sweeps.page import sweep_page
    from tunetrail.sweeps.pictures import sweep_pictures
    from tunetrail.sweeps.study import SweepStudy
    from tunetrail.sweeps.summary import summarize_sweep

    with DatabaseManager(options.database) as manager:
        study = SweepStudy.open(manager, _whole_id(options.sweep, manager.study_logs.studies()))
        summary = summarize_sweep(study, manager)
        html = sweep_page(summary, sweep_pictures(summary, study)) if page else ""

    show(summary.to_dict, lambda: _print_summary(summary))
    if page is not None:
        try:
            write_private_text(page, html)
        except OSError as error:
            raise not_writable("--html", page, error) from error
        # On stderr: with --json, stdout holds nothing else.
        print(f"page: {page}", file=sys.stderr)
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="tunetrail sweep",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=("show",), help="what to do with the sweep")
    parser.add_argument("sweep", metavar="SWEEP", help="one sweep, see above")
    add_output_options(parser)
    parser.add_argument("--html", metavar="FILE", help="write a page that needs no network")

    add_database(parser, DATABASE_URLS)

    return parser.parse_args(arguments)


def _whole_id(beginning: str, sweeps: Sequence[str]) -> str:
    """Return the only sweep whose id begins in a way; raises `UserError` if there isn't one."""
    matching = [sweep_id for sweep_id in sweeps if sweep_id.startswith(beginning)]
    if len(matching) == 1:
        return matching[0]
    reason = f"the beginning of {len(matching)} ids" if matching else "which no sweep has"
    raise UserError(
        f"SWEEP must be the id of one sweep, got {beginning!r}, {reason}. "
        "`tunetrail runs` lists the sweeps."
    )


def _print_summary(summary: "SweepSummary") -> None:
    from rich.console import Console

    from tunetrail.sweeps.job_words import duration_in_words, shown_overrides, value_in_words

    console = Console()
    table = new_table("job", "what was swept", ", ".join(summary.labels), "time", "state")
    for job in summary.jobs:
        is_best = job.number == summary.best
        marks = " (best)" if is_best else " (on the front)" if job.number in summary.front else ""
        state = f"{job.state}{marks}" + (f": {job.reason}" if job.reason else "")
        cells = [str(job.number), " ".join(shown_overrides(job)), value_in_words(job)]
        cells += [duration_in_words(job.seconds), state]
        table.add_row(*(printable(cell, console) for cell in cells))

    console.print(table)
    print_line(console, f"{summary.counts_in_words}.")
    print_line(console, summary.best_in_words)
    if summary.importances:
        shares = [f"{name} {share:.0%}" for name, share in summary.importances.items()]
        print_line(console, f"Share of the variance explained: {', '.join(shares)}.")
    if summary.decision is not None:
        print_line(console, summary.decision)
