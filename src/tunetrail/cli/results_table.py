"""Print the short table at the end of a training."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tunetrail.cli.terminal import print_line
from tunetrail.pipeline.result_table import COLUMNS, result_lines, result_rows
from tunetrail.stores.tracking import shown_uri


def print_results(
    results: Mapping[str, Any],
    tracking_uri: str,
    report: str | None = None,
    page: str | None = None,
) -> None:
    """Print a row for each model type, what it was compared with, and how to look closer.

    Args:
        results: The results of a node.
        tracking_uri: The MLflow store.
        report: Where the run's report is, if it has one.
        page: The address of the run in MLflow's pages, if it is known.
    """
    table = Table(*COLUMNS, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for cells in result_rows(results):
        table.add_row(*cells)

    console = Console()
    console.print(table)
    for line in [*result_lines(results, report, page), where_to_look(tracking_uri)]:
        print_line(console, line)


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
