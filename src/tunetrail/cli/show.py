"""`tunetrail show`: what a run was asked for, what came of it, and where its results are."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tunetrail.cli.command_parser import CommandParser
from tunetrail.cli.output import add_output_options
from tunetrail.cli.output import show as show_result
from tunetrail.cli.store_options import add_uri
from tunetrail.cli.terminal import new_table, print_line, printable
from tunetrail.config import BASE
from tunetrail.paths import shown_uri
from tunetrail.reporting.readable import duration, readable, shown_interval

if TYPE_CHECKING:
    from rich.console import Console

    from tunetrail.run_summary import FamilySummary, MetricChange, RunSummary

_DESCRIPTION = """\
Show a run: the settings that differ from the defaults, the metrics with their intervals, the
decision and its reason, the worst test rows, the gain by session, and where everything lies. Of a
sweep, it names the command that lists the jobs. No model is loaded.

RUN is one of:
  the id of a run, or its beginning if no other run's id begins like that
  the name of a run
  a version: embedding/3 or models:/embedding/3
  an alias: embedding@root"""

_EPILOG = """\
exit code: 0, also for a run that failed or still runs; 2 if there is no such run

examples:
  tunetrail show 0f8fad5b
  tunetrail show embedding@root --worst 10
  tunetrail show 0f8fad5b --json"""

_SHOWN_METRICS = 8
# Characters of each column of a row that are shown.
_SHOWN_CHARACTERS = 100


def show(arguments: list[str]) -> int:
    """Print the summary of a run."""
    options = _parse(arguments)
    # Imported only after parsing: --help doesn't wait for the schema.
    from tunetrail.run_summary import summarize_run
    from tunetrail.stores.runs.shown_runs import open_reader
    from tunetrail.stores.tracking.mlflow_pages import LOCAL_PAGES

    is_server = options.uri.startswith("http")
    pages = shown_uri(options.uri).rstrip("/") if is_server else LOCAL_PAGES
    summary = summarize_run(open_reader(options.uri), options.run, page_address=pages)
    page = summary.page if is_server else f"{summary.page} (after `tunetrail ui`)"
    show_result(summary.to_dict, lambda: _print_summary(summary, page, options.worst))
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="tunetrail show",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="one run, see above")
    worst_help = "number of worst rows; 0 for none, 20 at most (default: %(default)s)"
    parser.add_argument("--worst", type=int, default=3, metavar="N", help=worst_help)
    add_output_options(parser)
    add_uri(parser)
    return parser.parse_args(arguments)


def _print_summary(summary: "RunSummary", page: str, most_rows: int) -> None:
    from rich.console import Console

    console = Console()
    for line in _head(summary):
        print_line(console, line)
    _print_configuration(summary, console)
    for family in summary.families.values():
        _print_family(family, most_rows, console)

    print_line(console, "")
    locations = [("run page", page), ("report", summary.report), ("artifacts", summary.artifacts)]
    for family in summary.families.values():
        locations += [
            (f"{family.model_type} version", family.version and f"models:/{family.version}"),
            (f"{family.model_type} folder", family.exported_to),
            (f"{family.model_type} checkpoint", family.checkpoint),
        ]
    for name, location in locations:
        if location:
            print_line(console, f"{name}: {location}")
    if summary.next_command is not None:
        purpose = "jobs" if summary.kind == "sweep" else "continue it"
        print_line(console, f"{purpose}: {summary.next_command}")


def _head(summary: "RunSummary") -> Iterator[str]:
    """Yield the lines about the whole run."""
    yield f"{summary.kind} {summary.run_id}: {summary.name}"
    state = f"{summary.state}: {summary.reason}" if summary.reason else summary.state
    took = "" if summary.seconds is None else f", took {duration(summary.seconds)}"
    yield f"{state} (started {summary.started[:19].replace('T', ' ')} UTC{took})"

    if summary.session is not None:
        yield f"session: {summary.session}; model type: {summary.model_type}"
    if summary.sweep is not None:
        yield f"job of the sweep {summary.sweep[:8]}: tunetrail sweep show {summary.sweep[:8]}"


def _print_configuration(summary: "RunSummary", console: "Console") -> None:
    from tunetrail.config.keys import typed

    if not summary.configuration:
        return
    table = new_table("setting", "value", "default")
    for key, setting in summary.configuration.items():
        cells = (key, typed(setting.value), typed(setting.default))
        table.add_row(*(printable(cell, console) for cell in cells))
    console.print(table)


def _print_family(family: "FamilySummary", most_rows: int, console: "Console") -> None:
    print_line(console, "")
    for line in _decision(family):
        print_line(console, line)
    _print_metrics(family.metrics, console)

    for session, change in family.sessions.items():
        interval = _bounds(_interval(change))
        print_line(console, f"on session {session}: {change['improvement']:+.4f}{interval}")

    worst = family.worst_rows[: max(most_rows, 0)]
    if worst:
        print_line(console, "worst test rows, with their quality before and after:")
    for row in worst:
        number = "-" if row.row_id is None else row.row_id
        content = _shortened(row.content)
        print_line(console, f"  row {number}: {row.before:.4f} -> {row.after:.4f}  {content}")


def _decision(family: "FamilySummary") -> Iterator[str]:
    """Yield what was decided on a model type, on which evidence and why."""
    from tunetrail.reporting.readable import counted

    if family.comparison is None:
        yield f"{family.model_type}: not evaluated"
        return

    other = f"root is {family.root}" if family.root else "no root yet"
    role = "root now" if family.is_root else other
    named = f" ({family.version}, {role})" if family.version else ""
    yield f"{family.model_type}: {family.decision or 'not decided'}{named}"

    comparison = family.comparison
    against = comparison["against"].removeprefix("models:/")
    interval = _bounds(_interval(comparison), confidence=comparison["confidence"])
    # Of how many rows the score is; runs of older versions only say on how many examples.
    evidence = comparison.get("evidence", counted(comparison["examples"], "test row"))
    label = family.metrics[0].label if family.metrics else comparison["metric"]
    yield (
        f"{label} {comparison['before']:.4f} -> {comparison['after']:.4f}, "
        f"{comparison['improvement']:+.4f}{interval or ' (no interval)'} over "
        f"{evidence}, against "
        f"{'the base model' if against == BASE else against}"
    )
    if family.reason:
        yield f"reason: {family.reason}"


def _print_metrics(metrics: Sequence["MetricChange"], console: "Console") -> None:
    if not metrics:
        return
    table = new_table("metric", "before", "after", "improvement")
    for metric in metrics[:_SHOWN_METRICS]:
        improvement = "" if metric.improvement is None else f"{metric.improvement:+.4f}"
        cells = (
            metric.label,
            _value(metric.before),
            _value(metric.after) + _bounds(metric.after_interval, sign=""),
            improvement + _bounds(metric.improvement_interval),
        )
        table.add_row(*(printable(cell, console) for cell in cells))
    console.print(table)

    hidden = len(metrics) - _SHOWN_METRICS
    if hidden > 0:
        print_line(console, f"{hidden} more with --json, and in the report")


def _interval(change: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the bounds of a comparison; None if too few rows have changed for them."""
    lower, upper = change["lower"], change["upper"]
    return None if lower is None or upper is None else (lower, upper)


def _value(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _bounds(
    interval: tuple[float, float] | None, *, confidence: float | None = None, sign: str = "+"
) -> str:
    """Return ` (+0.0101 … +0.0702)` with the level if it is given; empty without an interval."""
    if interval is None:
        return ""
    level = "" if confidence is None else f"{100.0 * confidence:.3g} % interval "
    return f" ({level}{shown_interval(*interval, f'{sign}.4f')})"


def _shortened(content: str) -> str:
    """Return the columns of a row, each one shortened."""
    try:
        columns = json.loads(content)
    except ValueError:
        columns = content
    if not isinstance(columns, dict):
        return readable(content, _SHOWN_CHARACTERS)
    cells = []
    for name, value in columns.items():
        in_one_line = " ".join(str(value).split())
        cells.append(f"{name}: {readable(in_one_line, _SHOWN_CHARACTERS)}")
    return " | ".join(cells)
