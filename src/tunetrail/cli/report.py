"""The short table at the end of a training: before, after, interval, decision, version."""

import math
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
    """Print one line per model type, and how to look closer."""
    steps = results["results"]["steps"]
    table = Table(
        "model",
        "metric",
        "before",
        "after",
        "improvement",
        "decision",
        "version",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for model_type, step in steps["comparison"].items():
        comparison, deployment = Comparison.from_dict(step), steps["deployment"][model_type]
        arrow = "↑" if comparison.higher_is_better else "↓"
        table.add_row(
            model_type,
            f"{metric_named(comparison.metric).label} {arrow}",
            f"{comparison.before:.4f}",
            f"{comparison.after:.4f}",
            f"{_bound(comparison.lower)} … {_bound(comparison.upper)}",
            deployment["decision"],
            deployment["version"] + (" = root" if deployment["promote"] else ""),
        )
    console = Console()
    console.print(table)
    for model_type, deployment in steps["deployment"].items():
        step = steps["comparison"][model_type]
        comparison = Comparison.from_dict(step)
        against = "the base model" if step["against"] == "base" else step["against"]
        groups = f" in {comparison.clusters} groups" if comparison.clusters else ""
        interval = (
            f"{comparison.confidence:.0%} interval over {comparison.examples} test rows{groups}"
        )
        line = f"{model_type}: before is {against}; {interval}; {deployment['reason']}"
        console.print(line, soft_wrap=True, highlight=False)
    if tracking_uri.startswith("http"):
        console.print(
            f"Compare the runs: {shown_uri(tracking_uri)}", soft_wrap=True, highlight=False
        )
        return
    uri = "" if tracking_uri == "sqlite:///mlflow.db" else f" --uri {shown_uri(tracking_uri)}"
    console.print(f"Compare the runs: {sys.argv[0]} ui{uri}", soft_wrap=True, highlight=False)


def _bound(value: float) -> str:
    return f"{value:+.4f}" if math.isfinite(value) else "unbounded"
