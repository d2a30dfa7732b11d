"""Mislabelled rows: whose label the rest of the session contradicts, by confident learning. Knows no texts."""

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.neighbors import NearestNeighbors

from tunetrail.data.checks.vectors import unit_vectors

FEWEST_ROWS_OF_LABEL = 5
"""The rows of a label with fewer aren't judged."""

_FOLDS = 5
_SHRINKAGE = 0.3
_BEYOND_DOUBT = 10.0
"""How many times as likely as the given label another one must be to be believed whatever the counts say."""
_CONFIRMED = 3.0
"""How many times as likely it must be where the row's nearest neighbours say the same."""
_NEIGHBORS = 10

_Floats = npt.NDArray[np.float64]
_Integers = npt.NDArray[np.int64]
_Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class MislabelledResult:
    """What the vectors say of the labels, in the order of the rows.

    Attributes:
        flagged: Rows that are probably mislabelled, [rows].
        suggested: The likeliest label of each flagged row, None for the others.
        self_confidence: Probability of the given label by a model that hasn't seen the row, [rows]; 1 where the row
            isn't judged.
    """

    flagged: _Flags
    suggested: list[str | None]
    self_confidence: _Floats


def mislabelled(
    vectors: npt.NDArray[np.floating[Any]],
    labels: Sequence[str | None],
    *,
    groups: Sequence[Hashable] | None = None,
    seed: int,
) -> MislabelledResult:
    """Return which rows have probably the wrong label.

    Confident learning (Northcutt, Jiang and Chuang 2021): a row counts in the confident joint for the label whose
    probability is highest among those that reach the label's mean self-confidence. As many rows as lie off the joint's
    diagonal are flagged, those with the smallest self-confidence whose likeliest label is another one. The count is
    cautious where labels are easily told apart, so each row is flagged, too, of which another label is likelier than
    all others together and 10 times as likely as the given one, or 3 times where most of the row's ten nearest
    neighbours that teach have that label. Probabilities come from five folds of a linear discriminant analysis with a
    shared, shrunk covariance, their temperature fitted to the given labels (Guo et al. 2017). All is done twice; the
    second time, the rows flagged first teach nothing. Where labels overlap so much that they can hardly be told apart,
    up to a quarter of the flagged rows are labelled right.

    Args:
        vectors: [rows, dimensions], finite.
        labels: One for each row, None where it has none; a label of fewer than `FEWEST_ROWS_OF_LABEL` rows is neither
            judged nor suggested.
        groups: Rows of one group (near-duplicates) are never on both sides of a fold; None: each row is its own.
        seed: For the folds.
    """
    counts = Counter(label for label in labels if label is not None)
    names = sorted(label for label, count in counts.items() if count >= FEWEST_ROWS_OF_LABEL)
    number_of = {name: number for number, name in enumerate(names)}
    rows = np.array([row for row, label in enumerate(labels) if label in number_of], dtype=np.int64)
    flagged, confidence = np.zeros(len(labels), dtype=np.bool_), np.ones(len(labels))
    suggested: list[str | None] = [None] * len(labels)
    if len(names) < 2:
        return MislabelledResult(flagged=flagged, suggested=suggested, self_confidence=confidence)
    x = unit_vectors(np.asarray(vectors)[rows], seed=seed)
    given = np.array([number_of[labels[row]] for row in rows], dtype=np.int64)
    folds = list(_folds(given, None if groups is None else [groups[row] for row in rows], seed))
    taught = np.ones(len(rows), dtype=np.bool_)
    for _ in range(2):
        probabilities = _out_of_fold_probabilities(x, given, folds, taught)
        wrong = _pruned(probabilities, given, _labels_nearby(x, given, folds, taught))
        taught = ~wrong
    judged = probabilities.sum(axis=1) > 0.0
    flagged[rows] = wrong
    confidence[rows[judged]] = probabilities[np.arange(len(rows)), given][judged]
    for place in np.flatnonzero(wrong):
        suggested[rows[place]] = names[int(probabilities[place].argmax())]
    return MislabelledResult(flagged=flagged, suggested=suggested, self_confidence=confidence)


def _folds(
    given: _Integers, groups: Sequence[Hashable] | None, seed: int
) -> Iterator[tuple[_Integers, _Integers]]:
    if groups is None:
        yield from StratifiedKFold(_FOLDS, shuffle=True, random_state=seed).split(given, given)
        return
    number_of = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    count = min(_FOLDS, len(number_of))
    if count >= 2:
        numbers = [number_of[group] for group in groups]
        yield from StratifiedGroupKFold(count, shuffle=True, random_state=seed).split(
            given, given, numbers
        )


def _out_of_fold_probabilities(
    x: _Floats, given: _Integers, folds: Sequence[tuple[_Integers, _Integers]], taught: _Flags
) -> _Floats:
    """Return the probability of each label, [rows, labels]; zeros where the model never saw the row's own label."""
    logits = np.full((len(x), int(given.max()) + 1), -np.inf)
    for learned, held_out in folds:
        learned = learned[taught[learned]]
        present = np.unique(given[learned])
        if len(held_out) == 0 or len(present) < 2 or len(learned) <= len(present):
            continue
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=_SHRINKAGE)
        model.fit(x[learned], given[learned])
        decision = model.decision_function(x[held_out])
        if len(present) == 2:
            decision = np.column_stack([np.zeros(len(held_out)), decision])
        logits[np.ix_(held_out, present)] = decision
    judged = np.isfinite(logits[np.arange(len(x)), given])
    probabilities = np.zeros(logits.shape)
    if judged.any():
        probabilities[judged] = _calibrated(logits[judged], given[judged])
    return probabilities


def _calibrated(logits: _Floats, given: _Integers) -> _Floats:
    """Return probabilities at the temperature at which the given labels are likeliest."""

    def loss(exponent: float) -> float:
        likelihoods = log_softmax(logits * np.exp(exponent), axis=1)
        return -float(likelihoods[np.arange(len(given)), given].mean())

    found = minimize_scalar(loss, bounds=(-6.0, 6.0), method="bounded")
    probabilities: _Floats = softmax(logits * np.exp(found.x), axis=1)
    return probabilities


def _labels_nearby(
    x: _Floats, given: _Integers, folds: Sequence[tuple[_Integers, _Integers]], taught: _Flags
) -> _Integers:
    """Return the label that more than half of a row's nearest neighbours beyond its fold have, [rows]; -1 for none."""
    nearby = np.full(len(x), -1, dtype=np.int64)
    for learned, held_out in folds:
        learned = learned[taught[learned]]
        if len(held_out) == 0 or len(learned) < _NEIGHBORS:
            continue
        search = NearestNeighbors(n_neighbors=_NEIGHBORS, algorithm="brute").fit(x[learned])
        labels = given[learned][search.kneighbors(x[held_out], return_distance=False)]
        votes = (labels[:, :, None] == np.arange(int(given.max()) + 1)).sum(axis=1)
        nearby[held_out] = np.where(votes.max(axis=1) > _NEIGHBORS / 2, votes.argmax(axis=1), -1)
    return nearby


def _pruned(probabilities: _Floats, given: _Integers, nearby: _Integers) -> _Flags:
    judged = np.flatnonzero(probabilities.sum(axis=1) > 0.0)
    wrong = np.zeros(len(given), dtype=np.bool_)
    likely, labels = probabilities[judged], given[judged]
    confidence = likely[np.arange(len(judged)), labels]
    thresholds = np.full(probabilities.shape[1], np.inf)
    for label in np.unique(labels):
        thresholds[label] = confidence[labels == label].mean()
    confident = np.where(likely >= thresholds, likely, -1.0)
    off_diagonal = int(
        ((confident.max(axis=1, initial=-1.0) >= 0.0) & (confident.argmax(axis=1) != labels)).sum()
    )
    lowest = np.argsort(confidence, kind="stable")[:off_diagonal]
    best = likely.max(axis=1, initial=0.0)
    likeliest = likely.argmax(axis=1)
    needed = np.where(nearby[judged] == likeliest, _CONFIRMED, _BEYOND_DOUBT)
    doubted = (best > 0.5) & (best > needed * confidence)
    doubted[lowest] = True
    wrong[judged] = doubted & (likeliest != labels)
    return wrong
