"""Print the short table at the end of a training."""

import sys
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tunetrail.evaluation.comparison import Comparison
from tunetrail.evaluation.metrics import metric_named
from tunetrail.stores.tracking import shown_uri


def print_results(results: Mapping[str, Any], tracking_uri: str) -> None:
    """Print a row for each model type, what it was compared with, and how to look closer."""
    steps = results["results"]["steps"]
    columns = ("model", "metric", "before", "after", "improvement", "decision", "version")
    table = Table(*columns, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    lines = []

    for model_type, step in steps["comparison"].items():
        comparison, deployment = Comparison.from_dict(step), steps["deployment"][model_type]
        arrow = "↑" if comparison.higher_is_better else "↓"
        table.add_row(
            model_type,
            f"{metric_named(comparison.metric).label} {arrow}",
            f"{comparison.before:.4f}",
            f"{comparison.after:.4f}",
            comparison.interval_in_words,
            deployment["decision"],
            deployment["version"] + (" = root" if deployment["promote"] else ""),
        )

        against = "the base model" if step["against"] == "base" else step["against"]
        # Rows of one group aren't independent: the interval resamples whole groups.
        groups = f" in {comparison.clusters} groups" if comparison.clusters else ""
        confidence = 100.0 * comparison.confidence
        among = f" among {comparison.documents:,} documents" if comparison.documents else ""
        lines.append(
            f"{model_type}: before is {against}; {confidence:.3g}% interval over "
            f"{comparison.rows_in_words}{groups}{among}; {deployment['reason']}"
        )

    # A server's URI is its page already; a local store needs `tunetrail ui`.
    look_closer = shown_uri(tracking_uri)
    if not tracking_uri.startswith("http"):
        option = "" if tracking_uri == "sqlite:///mlflow.db" else f" --uri {look_closer}"
        look_closer = f"{sys.argv[0]} ui{option}"
    lines.append(f"Compare the runs: {look_closer}")

    console = Console()
    console.print(table)
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)
