"""The short table at the end of a training: before, after, interval, decision, version."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def print_results(results: Mapping[str, Any], tracking_uri: str) -> None:
    """Print one line per model type, and how to look closer."""
    steps = results["results"]["steps"]
    table = Table("model type", "metric", "before", "after", "improvement", "interval", "decision", "version")
    for model_type, comparison in steps["comparison"].items():
        deployment = steps["deployment"][model_type]
        against = comparison["against"]
        table.add_row(
            model_type,
            comparison["metric"] + (" ↑" if comparison["higher_is_better"] else " ↓"),
            f"{comparison['before']:.4f} ({against.removeprefix('models:/')})",
            f"{comparison['after']:.4f}",
            f"{comparison['improvement']:+.4f}",
            f"[{comparison['lower']:+.4f}, {comparison['upper']:+.4f}]",
            deployment["decision"],
            f"{deployment['name']} {deployment['version']}" + (" = root" if deployment["promote"] else ""),
        )
    console = Console()
    console.print(table)
    for model_type, deployment in steps["deployment"].items():
        console.print(f"{model_type}: {deployment['reason']}", soft_wrap=True, highlight=False)
    uri = "" if tracking_uri == "sqlite:///mlflow.db" else f" --uri {tracking_uri}"
    console.print(f"Compare the runs: tunetrail ui{uri}", soft_wrap=True, highlight=False)
