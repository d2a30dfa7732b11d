"""`tunetrail runs`: list the trainings and sweeps of an experiment."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunetrail.cli.command_parser import CommandParser
from tunetrail.cli.output import add_output_options, show
from tunetrail.cli.store_options import add_experiment, add_uri
from tunetrail.cli.terminal import least_width, new_table, print_line, printable, say_loading
from tunetrail.errors import UserError
from tunetrail.reporting.readable import shown_moment

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from tunetrail.stores.runs.listed_run import ListedRun

_ALWAYS = ("id", "name", "started", "state")
# Characters of a name before it goes on in the next line; less can't be read.
_LEAST_NAME = 16

_DESCRIPTION = """\
List the trainings and sweeps of an MLflow experiment, newest first; a sweep's jobs are among them.

a KEY is one of:
  id, name, started, seconds, state, session, model_type, decision, reason, test_rows, sweep
  a setting, such as embedding.training.batch_size, or its end: batch_size
  a metric, such as embedding/after, or its end

test_rows is a digest of the rows that a run was scored on: scores of runs with another one can't be
compared."""

_EPILOG = """\
exit code: 0, also if no run fulfils the conditions; 2 for a key that no run has

examples:
  tunetrail runs
  tunetrail runs --where session=session_123 --sort embedding/after --descending
  tunetrail runs --where 'seconds>60' --where state=failed --columns reason
  tunetrail runs --limit 0 --json"""


def runs(arguments: Sequence[str]) -> int:
    """Print the runs that fulfil the conditions."""
    options = _parse(arguments)
    say_loading("runs")
    # Imported only after parsing: --help doesn't wait for MLflow.
    from tunetrail.stores.runs.run_list import (
        existing_experiment,
        find_key,
        parse_conditions,
        read_runs,
        select_runs,
    )

    all_runs = read_runs(existing_experiment(options.uri, options.experiment))
    conditions = parse_conditions(options.where, all_runs)
    columns = [find_key("--columns", name, all_runs) for name in options.columns.split(",") if name]

    listed = select_runs(
        all_runs, where=options.where, sort=options.sort, descending=options.descending
    )
    if options.sort is not None:
        columns.append(find_key("--sort", options.sort, all_runs))
    shown = listed[: options.limit] if options.limit else listed

    columns += [condition.key for condition in conditions]
    show(
        lambda: {"runs": [run.to_dict() for run in shown], "total": len(listed)},
        lambda: _print_table(shown, list(dict.fromkeys(columns)), len(listed)),
    )
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="tunetrail runs",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where_help = "a comparison by =, !=, >, >=, < or <=; repeated options must all hold"
    parser.add_argument(
        "--where", action="append", default=[], metavar="KEY=VALUE", help=where_help
    )
    sort_help = "order by this key, smallest first (default: newest first)"
    parser.add_argument("--sort", metavar="KEY", help=sort_help)
    parser.add_argument("--descending", action="store_true", help="largest first")
    limit_help = "number of runs; 0 for all (default: %(default)s)"
    parser.add_argument("--limit", type=int, default=20, metavar="N", help=limit_help)
    columns_help = "further columns of the table"
    parser.add_argument("--columns", default="", metavar="KEY,...", help=columns_help)
    add_output_options(parser)
    add_uri(parser)
    add_experiment(parser, "name of the MLflow experiment")

    options = parser.parse_args(arguments)
    if options.limit < 0:
        raise UserError(f"--limit must be 0 or more, got {options.limit}. 0 lists all runs.")
    return options


def _print_table(runs: Sequence["ListedRun"], columns: Sequence[str], total: int) -> None:
    from rich.console import Console

    console = Console()
    further = [name for name in ("decision", "test_rows", *columns) if name not in _ALWAYS]
    # A column that is empty takes room from the names.
    known = set().union(*(run.values for run in runs))
    further = [name for name in dict.fromkeys(further) if name in known]

    # A narrow terminal shows what was asked for rather than the digest of the test rows.
    left_out = []
    by_importance = sorted(further, key="test_rows".__eq__)
    table = _table(runs, further, console)
    while by_importance and least_width(table, console) > console.width:
        left_out.append(by_importance.pop())
        table = _table(runs, [name for name in further if name not in left_out], console)

    console.print(table)
    hidden = total - len(runs)
    if hidden:
        print_line(console, f"{hidden} more; --limit 0 lists all")
    if left_out:
        missing = ", ".join(reversed(left_out))
        print_line(console, f"{console.width} columns have no room for {missing}; see --json")
    if len({run.values["test_rows"] for run in runs if "test_rows" in run.values}) > 1:
        print_line(
            console,
            "The runs were scored on different test rows: compare scores of equal test_rows only.",
        )


def _table(runs: Sequence["ListedRun"], further: Sequence[str], console: "Console") -> "Table":
    """Return the table of the runs, whose names are folded and nothing else."""
    table = new_table(*_ALWAYS, *further)
    for column in table.columns:
        column.no_wrap = column.header != "name"
        column.min_width = None if column.no_wrap else _LEAST_NAME

    for run in runs:
        cells = [run.run_id[:8], run.name, shown_moment(run.started), run.state]
        cells += [_cell(run.values.get(name)) for name in further]
        table.add_row(*(printable(cell, console) for cell in cells))
    return table


def _cell(value: str | float | None) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value or "")
