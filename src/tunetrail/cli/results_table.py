"""Print the short table at the end of a training."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tunetrail.cli.output import show
from tunetrail.cli.terminal import least_width, new_table, plain_text
from tunetrail.pipeline.result_table import COLUMNS, result_lines, result_rows
from tunetrail.pipeline.training_result import TrainingResult
from tunetrail.plain_values import plain_values
from tunetrail.stores.tracking.tracker import shown_uri


def show_results(result: TrainingResult, tracking_uri: str) -> None:
    """Print what a training came to: as a table, or with `--json` as one object."""
    show(
        lambda: _as_json(result),
        lambda: print_results(
            result, tracking_uri, result.report, result.page, run_id=result.run_id
        ),
    )


def _as_json(result: TrainingResult) -> dict[str, Any]:
    """Return the documented mapping with what the attributes of the result say."""
    families = {}
    for model_type, family in result.families.items():
        values = plain_values(family)
        # They are under "results" already.
        del values["steps"]
        families[model_type] = values
    own = {"run_id": result.run_id, "report": result.report, "page": result.page}
    return {**result, **own, "families": families}


def print_results(
    results: Mapping[str, Any],
    tracking_uri: str,
    report: str | None = None,
    page: str | None = None,
    *,
    run_id: str | None = None,
) -> None:
    """Print a row for each model type, what it was compared with, and how to look closer.

    Args:
        results: The results of a node.
        tracking_uri: The MLflow store.
        report: Where the run's report is, if it has one.
        page: The address of the run in MLflow's pages, if it is known.
        run_id: The run with the report.
    """
    console = Console()
    console.print(_table(result_rows(results), console))
    lines = result_lines(results, report, page)
    # A page on a server needs a browser that reaches it, which a terminal far away may not have.
    if run_id is not None and report is not None and report.startswith("http"):
        command = f"tunetrail report {run_id[:8]} --uri {shown_uri(tracking_uri)}"
        lines.append(f"Report as a file in this folder: {command}")
    for line in [*lines, where_to_look(tracking_uri)]:
        # Whole lines can be copied and searched; brackets of a reason are no markup.
        console.print(plain_text(line), soft_wrap=True, highlight=False, markup=False)


def _table(rows: Sequence[Sequence[str]], console: Console) -> Table:
    """Return a table with a row for each model type, or with a column if the rows are too wide."""
    table = new_table(*COLUMNS)
    for column in table.columns:
        column.no_wrap = True
    for cells in rows:
        table.add_row(*cells)
    if least_width(table, console) <= console.width:
        return table

    names, *lines = zip(COLUMNS, *rows, strict=True)
    narrow = new_table(*names)
    for cells in lines:
        narrow.add_row(*cells)
    return narrow


def where_to_look(tracking_uri: str) -> str:
    """Return the line that says where the runs of a store are compared."""
    # A server's URI is its page already; a local store needs `tunetrail ui`.
    look_closer = shown_uri(tracking_uri)
    if not tracking_uri.startswith("http"):
        option = "" if tracking_uri == "sqlite:///mlflow.db" else f" --uri {look_closer}"
        # As `python -m tunetrail`, the command's name is that of a file in the package.
        as_module = Path(sys.argv[0]).name == "__main__.py"
        command = "python -m tunetrail" if as_module else sys.argv[0]
        look_closer = f"{command} ui{option}"
    return f"Compare the runs: {look_closer}"
