"""Forgetting: what a candidate has lost on rows of other sessions than its own."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from tunetrail.evaluation.comparison import Comparison, compare
from tunetrail.evaluation.scores import Scores
from tunetrail.evaluation.significance import bonferroni_confidence


def compare_by_session(
    before: Scores,
    after: Scores,
    session_of_row: Mapping[int, str],
    *,
    left_out: Collection[int] = (),
    bootstrap_samples: int,
    confidence: float,
    seed: int,
) -> dict[str, Comparison]:
    """Compare two models on the rows of each session.

    Each of n intervals has the confidence 1 - (1 - confidence) / n, so that a
    candidate that has lost nothing seldom seems to have lost on one session of many.

    Args:
        before: Scores of the version to beat on the rows of all sessions.
        after: Scores of the candidate on the same rows.
        session_of_row: The session of each row, also of those that weren't scored.
        left_out: Rows that weren't to be scored, as a model has learnt from their near-duplicates.
        bootstrap_samples: Resamples drawn for each interval.
        confidence: Confidence with which all intervals hold together.
        seed: Decides the resamples.

    Returns:
        The comparison of each session, in the order in which the sessions first appear.

    Raises:
        ValueError: The scores don't name their rows, or are of different rows.
    """
    if after.row_ids is None:
        raise ValueError("scores must name the row of each example, got scores without rows.")
    sessions = np.array([session_of_row[row_id] for row_id in after.row_ids])
    names = list(dict.fromkeys(sessions.tolist()))
    side_rows = Counter(session_of_row.values())
    left_out_rows = Counter(session_of_row[row_id] for row_id in left_out)
    is_whole = after.scored_rows == side_rows.total() - left_out_rows.total()

    comparisons = {}
    for name in names:
        indices = np.flatnonzero(sessions == name)
        comparison = compare(
            before.at(indices),
            after.at(indices),
            bootstrap_samples=bootstrap_samples,
            confidence=bonferroni_confidence(confidence, len(names)),
            seed=seed,
        )
        # Rows with equal anchors are one example, so examples count rows only if some are missing.
        scored_rows = side_rows[name] - left_out_rows[name] if is_whole else len(indices)
        comparisons[name] = replace(
            comparison,
            scored_rows=scored_rows,
            side_rows=side_rows[name],
            left_out_rows=left_out_rows[name],
        )
    return comparisons


def worst_loss(comparisons: Mapping[str, Comparison], margin: float) -> str | None:
    """Return the session or set on which a candidate measurably loses most, or None.

    A loss is measurable if its whole interval lies below 0, and it counts if it is above the
    margin: rows that are too few for an interval can't show one.

    Args:
        comparisons: The comparison on each session or set of rows, by its name.
        margin: Loss that is accepted, in the metric's unit.
    """
    losing = [name for name, comparison in comparisons.items() if _loses(comparison, margin)]
    return min(losing, key=lambda name: comparisons[name].improvement, default=None)


def _loses(comparison: Comparison, margin: float) -> bool:
    is_measurable = comparison.upper is not None and comparison.upper < 0.0
    return is_measurable and comparison.improvement < -margin
