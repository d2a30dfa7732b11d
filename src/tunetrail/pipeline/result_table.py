"""The short account of a training: a row for each model type, and a line for each finding.

The terminal, Python's `repr` and Jupyter show the same rows and lines.
"""

from collections.abc import Mapping
from typing import Any

from tunetrail.config import BASE
from tunetrail.evaluation.answers import answer_sentence
from tunetrail.evaluation.comparison import Comparison
from tunetrail.evaluation.decision_text import evidence_in_words
from tunetrail.evaluation.metrics import metric_named
from tunetrail.evaluation.slices import EMBEDDING_CLUSTER
from tunetrail.pipeline.answers import TABLE
from tunetrail.reporting.readable import counted, readable, shown_interval

COLUMNS = ("model", "metric", "before", "after", "improvement", "decision", "version")
_LONGEST_VALUE = 40


def result_rows(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the cells of each model type under `COLUMNS`.

    Args:
        results: The results of a node.
    """
    steps = results["results"]["steps"]
    rows: list[tuple[str, ...]] = []

    for model_type, step in steps["comparison"].items():
        comparison, deployment = Comparison.from_dict(step), steps["deployment"][model_type]
        arrow = "↑" if comparison.higher_is_better else "↓"
        cells = (
            model_type,
            f"{metric_named(comparison.metric).label} {arrow}",
            f"{comparison.before:.4f}",
            f"{comparison.after:.4f}",
            comparison.interval_in_words,
            deployment["decision"],
            deployment["version"] + (" = root" if deployment["promote"] else ""),
        )
        rows.append(cells)
    return rows


def result_lines(
    results: Mapping[str, Any], report: str | None = None, page: str | None = None
) -> list[str]:
    """Return what each model was compared with and what came of it, then where to look closer.

    Args:
        results: The results of a node.
        report: Where the run's report is, if it has one.
        page: The address of the run in MLflow's pages, if it is known.
    """
    steps, lines = results["results"]["steps"], []
    for model_type in steps["comparison"]:
        sentences = _sentences({name: step.get(model_type, {}) for name, step in steps.items()})
        lines += [f"{model_type}: {sentence}" for sentence in sentences]

    if report is not None:
        lines.append(f"Report: {report}")
    if page is not None:
        lines.append(f"Run: {page}")
    return lines


def _sentences(steps: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what became of one model type, whose results are given by step."""
    step = steps["comparison"]
    comparison = Comparison.from_dict(step)
    against = "the base model" if step["against"] == BASE else step["against"]
    # Rows of one group aren't independent: the interval resamples whole groups.
    groups = f" in {counted(comparison.clusters, 'group')}" if comparison.clusters else ""
    confidence = 100.0 * comparison.confidence
    documents = comparison.documents
    among = f" among {counted(documents, 'document')}" if documents else ""
    sentences = [
        f"before is {against}; {confidence:.3g}% interval over "
        f"{comparison.rows_in_words}{groups}{among}; {steps['deployment']['reason']}"
    ]

    # Another, shorter training than the one above, as its sentence says first.
    gain = steps["cross_validation"].get("gain")
    if gain is not None:
        sentences.append(f"cross-validation, {gain['sentence']}")
    # Steps of older runs have none of these.
    replayed = steps.get("training", {}).get("replayed")
    if replayed:
        sentences.append(_replay_in_words(replayed))
    if step.get("sessions"):
        sentences.append(_worst_session_in_words(step["sessions"], "the sessions"))
    if step.get("earlier_sessions"):
        sentences.append(_worst_session_in_words(step["earlier_sessions"], "earlier sessions"))
    if step.get("general_set"):
        sentences.append(_general_set_in_words(step["general_set"]))
    # The base model was chosen by no test.
    if step.get("root_figure") is not None:
        sentences.append(f"{step['against']} {step['root_figure']['in_words']}")
    if "error_analysis" in step:
        sentences.append(_errors_in_words(step["error_analysis"]))

    answers = steps["evaluation"].get("generation")
    if answers is not None:
        sentences.append(f"{answer_sentence(answers)} (artifact {TABLE})")
    return sentences


def _replay_in_words(replayed: Mapping[str, Any]) -> str:
    """Return how many rows of which earlier sessions were learnt again."""
    counts = [f"{session} {entry['rows']}" for session, entry in replayed["sessions"].items()]
    rows = counted(replayed["rows"], "row")
    return f"learnt again: {rows} of earlier sessions ({', '.join(counts)})"


def _worst_session_in_words(changes: Mapping[str, Mapping[str, Any]], which: str) -> str:
    """Return on which of some sessions a candidate does worst against the version to beat."""
    worst = min(changes, key=lambda session: float(changes[session]["improvement"]))
    change = Comparison.from_dict(changes[worst])
    return (
        f"on the test rows of {which} ({len(changes)}), the worst change is "
        f"{change.improvement:+.4f} ({change.interval_in_words}) on {worst}, over "
        f"{evidence_in_words(change)}"
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
        f"{counted(errors['fixed'], 'row')} fixed, {errors['broken']} broken, "
        f"{errors['wrong']} still wrong (a row is right if {errors['rule']})"
    )
    worst, weakest = errors["worst_slice"], errors["weakest_slice"]
    if worst is None or weakest is None:
        return f"{words}; too few rows for slices"

    interval = shown_interval(worst["corrected_lower"], worst["corrected_upper"])
    change = f"{worst['improvement']:+.4f}" + (f" ({interval})" if interval else "")
    return (
        f"{words}; of {counted(errors['slices'], 'slice')}, the worst change is {change} where "
        f"{_slice_in_words(worst)}; the weakest has {weakest['after']:.4f}, "
        f"{weakest['gap']:+.4f} from all rows, where {_slice_in_words(weakest)}"
    )


def _slice_in_words(line: Mapping[str, Any]) -> str:
    rows = counted(line["rows"], "row")
    if line["attribute"] == EMBEDDING_CLUSTER:
        return f"texts are near row {line['value']} ({rows})"
    return f"{line['attribute']} is {readable(line['value'], _LONGEST_VALUE)} ({rows})"
