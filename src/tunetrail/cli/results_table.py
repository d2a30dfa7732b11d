"""Print the short table at the end of a training."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tunetrail.config import BASE
from tunetrail.evaluation.answers import answer_sentence
from tunetrail.evaluation.comparison import Comparison
from tunetrail.evaluation.metrics import metric_named
from tunetrail.evaluation.slices import EMBEDDING_CLUSTER
from tunetrail.pipeline.answers import TABLE
from tunetrail.reporting.readable import readable
from tunetrail.stores.tracking import shown_uri

_LONGEST_VALUE = 40


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

        against = "the base model" if step["against"] == BASE else step["against"]
        # Rows of one group aren't independent: the interval resamples whole groups.
        groups = f" in {comparison.clusters} groups" if comparison.clusters else ""
        confidence = 100.0 * comparison.confidence
        among = f" among {comparison.documents:,} documents" if comparison.documents else ""
        lines.append(
            f"{model_type}: before is {against}; {confidence:.3g}% interval over "
            f"{comparison.rows_in_words}{groups}{among}; {deployment['reason']}"
        )
        # Another, shorter training than the one above, as its sentence says first.
        gain = steps["cross_validation"][model_type].get("gain")
        if gain is not None:
            lines.append(f"{model_type}: cross-validation, {gain['sentence']}")
        # Steps of older runs have none of these.
        if step.get("earlier_sessions"):
            lines.append(f"{model_type}: {_worst_session_in_words(step['earlier_sessions'])}")
        if step.get("general_set"):
            lines.append(f"{model_type}: {_general_set_in_words(step['general_set'])}")
        # The base model was chosen by no test.
        if step.get("root_figure") is not None:
            lines.append(f"{model_type}: {step['against']} {step['root_figure']['in_words']}")
        if "error_analysis" in step:
            lines.append(f"{model_type}: {_errors_in_words(step['error_analysis'])}")
        answers = steps["evaluation"][model_type].get("generation")
        if answers is not None:
            lines.append(f"{model_type}: {answer_sentence(answers)} (artifact {TABLE})")

    if report is not None:
        lines.append(f"Report: {report}")
    if page is not None:
        lines.append(f"Run: {page}")
    lines.append(where_to_look(tracking_uri))

    console = Console()
    console.print(table)
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)


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


def _worst_session_in_words(changes: Mapping[str, Mapping[str, Any]]) -> str:
    """Return on which earlier session a candidate does worst against the version to beat."""
    worst = min(changes, key=lambda session: float(changes[session]["improvement"]))
    change = Comparison.from_dict(changes[worst])
    return (
        f"on the test rows of earlier sessions ({len(changes)}), the worst change is "
        f"{change.improvement:+.4f} ({change.interval_in_words}) on {worst}"
    )


def _general_set_in_words(changes: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what a candidate has gained or lost on the general set."""
    ((name, values),) = changes.items()
    change = Comparison.from_dict(values)
    left_out = ""
    if change.left_out_rows:
        left_out = f" ({change.left_out_rows} left out, as near-duplicates are learnt from)"
    return (
        f"on {change.scored_rows} of {change.side_rows} rows of the general set {name}{left_out}, "
        f"the change is {change.improvement:+.4f} ({change.interval_in_words})"
    )


def _errors_in_words(errors: Mapping[str, Any]) -> str:
    """Return what a training fixed and broke, and where the model is worst."""
    words = (
        f"{errors['fixed']} rows fixed, {errors['broken']} broken, {errors['wrong']} still wrong "
        f"(a row is right if {errors['rule']})"
    )
    worst, weakest = errors["worst_slice"], errors["weakest_slice"]
    if worst is None or weakest is None:
        return f"{words}; too few rows for slices"

    bounds = ""
    if worst["corrected_lower"] is not None:
        bounds = f" ({worst['corrected_lower']:+.4f} … {worst['corrected_upper']:+.4f})"
    return (
        f"{words}; of {errors['slices']} slices, the worst change is {worst['improvement']:+.4f}"
        f"{bounds} where {_slice_in_words(worst)}; the weakest has {weakest['after']:.4f}, "
        f"{weakest['gap']:+.4f} from all rows, where {_slice_in_words(weakest)}"
    )


def _slice_in_words(line: Mapping[str, Any]) -> str:
    if line["attribute"] == EMBEDDING_CLUSTER:
        return f"texts are near row {line['value']} ({line['rows']} rows)"
    return f"{line['attribute']} is {readable(line['value'], _LONGEST_VALUE)} ({line['rows']} rows)"
