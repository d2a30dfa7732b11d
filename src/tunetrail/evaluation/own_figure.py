"""Root's own figure: its score on rows that it was not chosen by.

A version becomes root because it did well on certain test rows, by skill and by luck. On these
rows, its score is too high: by 0.02 nDCG where many equal candidates were tried.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunetrail.evaluation.scores import Scores
from tunetrail.plain_values import plain_values


@dataclass(frozen=True, kw_only=True)
class OwnFigure:
    """A version's score on the test rows that came after its promotion.

    Attributes:
        metric: The metric.
        value: Its value; None if there are too few such rows.
        rows: Number of these rows, or of queries.
        clusters: Number of clusters that they form; that of the rows if these are independent.
        needed: Number of clusters from which the figure is told.
    """

    metric: str
    value: float | None
    rows: int
    clusters: int
    needed: int

    @property
    def in_words(self) -> str:
        """Return the figure, or why there is none yet, to follow the name of the version."""
        if self.value is not None:
            return (
                f"has {self.metric} {self.value:.4f} on the {self.rows} test rows that came after "
                "its promotion"
            )
        return (
            "has no figure of its own yet: independent test rows that came after its promotion "
            f"must be at least {self.needed}, and there are {self.clusters}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the words as plain values."""
        return plain_values(self, "in_words")


def own_figure(scores: Scores, new_rows: Sequence[bool], needed: int) -> OwnFigure:
    """Return the figure of a version on the examples that it was not chosen by.

    Args:
        scores: Its scores.
        new_rows: For each example, whether it surely didn't decide on the version's promotion.
        needed: Number of clusters from which the figure is told.
    """
    clusters = np.arange(scores.examples) if scores.clusters is None else scores.clusters
    cluster_names = np.asarray(clusters)
    # A row with a relative among the old ones is no independent evidence either.
    old_clusters = cluster_names[~np.asarray(new_rows, dtype=bool)]
    chosen = np.flatnonzero(~np.isin(cluster_names, old_clusters))
    independent = len(np.unique(cluster_names[chosen]))

    enough = independent >= max(1, needed)
    return OwnFigure(
        metric=scores.metric,
        value=scores.statistic(chosen) if enough else None,
        rows=len(chosen),
        clusters=independent,
        needed=needed,
    )
