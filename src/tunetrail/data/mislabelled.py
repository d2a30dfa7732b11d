"""Mislabelled rows, by confident learning: labels that a model trained on the other rows is sure to be wrong.

Follows Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels" (2021). Knows
vectors and labels, no texts.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

_FOLDS = 5
_FEWEST_ROWS = 5
"""Labels with fewer rows aren't judged: a fold would have none to learn from."""
_MARGIN = 0.25
"""By how much another label must be likelier than the given one."""


@dataclass(frozen=True, kw_only=True)
class MislabelledResult:
    """What is thought of each row's label.

    Attributes:
        flagged: Whether the label is most likely wrong, [rows].
        suggested: The label that fits instead, None where nothing is flagged.
        self_confidence: Probability of the given label by a model that didn't see the row, NaN where it isn't judged.
    """

    flagged: npt.NDArray[np.bool_]
    suggested: tuple[str | None, ...]
    self_confidence: npt.NDArray[np.float64]


def mislabelled(
    vectors: npt.NDArray[np.float32],
    labels: Sequence[str],
    *,
    groups: Sequence[Hashable] | None = None,
    seed: int,
) -> MislabelledResult:
    """Flag labels that are most likely wrong.

    Out-of-fold probabilities come from a logistic regression on the vectors. A label's threshold is the mean
    probability that its own rows have of it; a row counts for the label that is likeliest among those whose threshold
    it reaches, and is flagged where that is another one, and by a margin likelier than the given one.

    Args:
        vectors: Unit vectors, [rows, dimensions].
        labels: The label of each row.
        groups: Rows of one group, such as twins, are never on two sides of a fold.
        seed: Decides the folds.
    """
    counts = Counter(labels)
    names = sorted(label for label, count in counts.items() if count >= _FEWEST_ROWS)
    judged = np.array([label in set(names) for label in labels], dtype=bool)
    nothing = MislabelledResult(
        flagged=np.zeros(len(labels), dtype=bool),
        suggested=(None,) * len(labels),
        self_confidence=np.full(len(labels), np.nan),
    )
    if len(names) < 2:
        return nothing
    number_of = {name: number for number, name in enumerate(names)}
    rows = np.flatnonzero(judged)
    given = np.array([number_of[labels[int(row)]] for row in rows])
    group = np.arange(len(rows))
    if groups is not None:
        group = np.unique([str(groups[int(row)]) for row in rows], return_inverse=True)[1]
    if len(np.unique(group)) < _FOLDS:
        return nothing
    probabilities = _out_of_fold(vectors[rows], given, group, len(names), seed)
    own = probabilities[np.arange(len(rows)), given]
    thresholds = np.array([own[given == number].mean() for number in range(len(names))])
    reached = np.where(probabilities >= thresholds, probabilities, -1.0)
    likeliest = reached.argmax(axis=1)
    sure = reached.max(axis=1) > own + _MARGIN
    wrong = sure & (likeliest != given)
    confidence, flagged = nothing.self_confidence.copy(), nothing.flagged.copy()
    confidence[rows], flagged[rows] = own, wrong
    suggested: list[str | None] = [None] * len(labels)
    for row, number in zip(rows[wrong], likeliest[wrong], strict=True):
        suggested[row] = names[number]
    return MislabelledResult(flagged=flagged, suggested=tuple(suggested), self_confidence=confidence)


def _out_of_fold(
    vectors: npt.NDArray[np.float32],
    given: npt.NDArray[np.int64],
    group: npt.NDArray[np.int64],
    classes: int,
    seed: int,
) -> npt.NDArray[np.float64]:
    import warnings

    probabilities = np.full((len(given), classes), 1.0 / classes)
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # a label whose rows are all twins is in fewer folds than there are
        warnings.simplefilter("ignore")
        for train, test in folds.split(vectors, given, group):
            if len(np.unique(given[train])) < 2 or not len(test):
                continue
            model = LogisticRegression(C=10.0, max_iter=300, class_weight="balanced").fit(vectors[train], given[train])
            part = np.zeros((len(test), classes))
            part[:, model.classes_] = model.predict_proba(vectors[test])
            probabilities[test] = part
    return probabilities
