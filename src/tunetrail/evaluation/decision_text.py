"""The decision on a candidate in two sentences, for its page, its run and its version."""

from tunetrail.config import BASE
from tunetrail.evaluation.comparison import Comparison
from tunetrail.evaluation.metrics import metric_named
from tunetrail.reporting.readable import counted


def decision_text(
    comparison: Comparison, *, against: str, promoted: bool, reason: str, waiting: bool = False
) -> str:
    """Return in two sentences what was decided on which evidence, and why.

    Args:
        comparison: The candidate compared with the version to beat.
        against: The URI of that version, or `base`.
        promoted: Whether the candidate became root.
        reason: The gate's reason.
        waiting: Whether the candidate waits for an approval.
    """
    decision = "Promoted to root" if promoted else "Refused, root stays"
    if waiting:
        decision = "Waiting for an approval, root stays"
    label = metric_named(comparison.metric).label
    gain = "an improvement" if comparison.improvement > 0.0 else "a change"
    return (
        f"{decision}: {label} is {comparison.after:.4f} against {comparison.before:.4f} of "
        f"{model_in_words(against)}, {gain} of {comparison.improvement:+.4f} "
        f"({interval_with_level(comparison)}) over {evidence_in_words(comparison)}. "
        f"Reason: {reason}."
    )


def model_in_words(against: str) -> str:
    """Return what a candidate was compared with, as people call it."""
    return "the base model" if against == BASE else against.removeprefix("models:/")


def interval_with_level(comparison: Comparison) -> str:
    """Return the interval of the improvement with its level, or why there is none."""
    if comparison.why_no_interval is not None:
        return f"no interval: {comparison.why_no_interval}"
    return f"{100.0 * comparison.confidence:.3g} % interval {comparison.interval_in_words}"


def evidence_in_words(comparison: Comparison) -> str:
    """Return on how many rows, groups and documents a comparison rests."""
    groups = ""
    # Groups of one row each would say nothing new.
    if comparison.clusters is not None and comparison.clusters < comparison.examples:
        groups = f" in {counted(comparison.clusters, 'group')}"
    among = ""
    if comparison.documents:
        among = f", ranked among {counted(comparison.documents, 'document')}"
    return f"{comparison.rows_in_words}{groups}{among}"
