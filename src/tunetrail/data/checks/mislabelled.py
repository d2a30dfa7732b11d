"""Mislabelled rows: rows whose label the rest of the session contradicts, by confident learning."""

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

from tunetrail.data.checks.row_vectors import normalize_and_reduce

FEWEST_ROWS_OF_LABEL = 5
"""Labels with fewer rows aren't checked."""

_FOLDS = 5
# Of the covariance towards a diagonal one: there may be fewer rows than dimensions.
_SHRINKAGE = 0.3
# How many times as likely as its own label another label must be, whatever the counts say...
_BEYOND_DOUBT = 10.0
# ... and if the row's nearest neighbours have that label.
_CONFIRMED = 3.0
_NEIGHBORS = 10

_Floats = npt.NDArray[np.float64]
_Integers = npt.NDArray[np.int64]
_Flags = npt.NDArray[np.bool_]
_Fold = tuple[_Integers, _Integers]


@dataclass(frozen=True, kw_only=True)
class MislabelledResult:
    """What the vectors say about the labels, in the order of the rows.

    Attributes:
        flagged: Whether a row is probably mislabelled, [rows].
        suggested: The likeliest label of each flagged row, None for the other rows.
        self_confidence: Probability of a row's label by a model that hasn't seen the row, [rows]; 1
            for rows that aren't checked.
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
    """Return which rows probably have the wrong label.

    Confident learning (Northcutt, Jiang and Chuang 2021): in the confident joint, a row counts for
    the label whose probability is highest among the labels that reach their mean self-confidence.
    As many rows are flagged as lie off the joint's diagonal: the rows with the smallest
    self-confidence whose likeliest label is another one.

    This count is cautious if labels are easily told apart. So a row is flagged, too, if another
    label is likelier than all other labels together and 10 times as likely as the row's own, or 3
    times if most of its ten nearest neighbours in the training folds have that label.

    Probabilities come from five folds of a linear discriminant analysis with a shared, shrunk
    covariance, their temperature fitted to the labels (Guo et al. 2017). Everything is done twice,
    the second time without the rows that were flagged the first time. If labels overlap so much
    that they can hardly be told apart, up to a quarter of the flagged rows have the right label.

    Args:
        vectors: [rows, dimensions], finite.
        labels: The label of each row, None if it has none; a label with fewer than
            `FEWEST_ROWS_OF_LABEL` rows is neither checked nor suggested.
        groups: Rows of one group (near-duplicates) are never on both sides of a fold; None if each
            row is its own group.
        seed: For the folds.
    """
    counts = Counter(label for label in labels if label is not None)
    names = sorted(label for label, count in counts.items() if count >= FEWEST_ROWS_OF_LABEL)
    id_of = {name: label_id for label_id, name in enumerate(names)}
    rows = np.array([row for row, label in enumerate(labels) if label in id_of], dtype=np.int64)

    flagged, self_confidence = np.zeros(len(labels), dtype=np.bool_), np.ones(len(labels))
    suggested: list[str | None] = [None] * len(labels)
    if len(names) < 2:
        return MislabelledResult(
            flagged=flagged, suggested=suggested, self_confidence=self_confidence
        )

    x = normalize_and_reduce(np.asarray(vectors)[rows], seed=seed)
    label_ids = np.array([id_of[labels[row]] for row in rows], dtype=np.int64)
    row_groups = None if groups is None else [groups[row] for row in rows]
    folds = list(_folds(label_ids, row_groups, seed))

    # Rows with wrong labels teach the model wrongly, so the second round leaves them out.
    is_trusted = np.ones(len(rows), dtype=np.bool_)
    for _ in range(2):
        probabilities = _out_of_fold_probabilities(x, label_ids, folds, is_trusted)
        nearby = _labels_nearby(x, label_ids, folds, is_trusted)
        is_wrong = _wrong_labels(probabilities, label_ids, nearby)
        is_trusted = ~is_wrong

    flagged[rows] = is_wrong
    for index in np.flatnonzero(is_wrong):
        suggested[rows[index]] = names[int(probabilities[index].argmax())]
    is_scored = probabilities.sum(axis=1) > 0.0
    of_own_label = probabilities[np.arange(len(rows)), label_ids]
    self_confidence[rows[is_scored]] = of_own_label[is_scored]
    return MislabelledResult(flagged=flagged, suggested=suggested, self_confidence=self_confidence)


def _folds(label_ids: _Integers, groups: Sequence[Hashable] | None, seed: int) -> Iterator[_Fold]:
    if groups is None:
        folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
        yield from folds.split(label_ids, label_ids)
        return

    id_of = {group: group_id for group_id, group in enumerate(dict.fromkeys(groups))}
    count = min(_FOLDS, len(id_of))
    if count >= 2:
        group_ids = [id_of[group] for group in groups]
        folds = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
        yield from folds.split(label_ids, label_ids, group_ids)


def _out_of_fold_probabilities(
    x: _Floats, label_ids: _Integers, folds: Sequence[_Fold], is_trusted: _Flags
) -> _Floats:
    """Return the probability of each label, [rows, labels].

    A row has zeros if the model of its fold never saw the row's own label.
    """
    logits = np.full((len(x), int(label_ids.max()) + 1), -np.inf)
    for train, held_out in folds:
        learnt = _rows_to_learn(train[is_trusted[train]], label_ids)
        labels = np.unique(label_ids[learnt])
        # Two labels are the fewest to tell apart; their spread takes more rows than labels.
        if len(held_out) > 0 and len(labels) >= 2 and len(learnt) > len(labels):
            predicted = _discriminant_logits(x[learnt], label_ids[learnt], x[held_out])
            logits[np.ix_(held_out, labels)] = predicted

    # A row's own label has no logit if the other folds have too few rows of it.
    own_logits = logits[np.arange(len(x)), label_ids]
    is_scored = np.isfinite(own_logits)
    probabilities = np.zeros(logits.shape)
    if is_scored.any():
        probabilities[is_scored] = _calibrate(logits[is_scored], label_ids[is_scored])
    return probabilities


def _rows_to_learn(rows: _Integers, label_ids: _Integers) -> _Integers:
    """Return the rows whose label has another row: a single row doesn't show a label's spread."""
    counts = np.bincount(label_ids[rows], minlength=1)
    return rows[counts[label_ids[rows]] > 1]


def _discriminant_logits(x: _Floats, label_ids: _Integers, held_out: _Floats) -> _Floats:
    """Learn labels by linear discriminant analysis, and return their logits, [held_out, labels].

    The labels are the rows' own, ascending.
    """
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=_SHRINKAGE)
    model.fit(x, label_ids)
    logits: _Floats = model.decision_function(held_out)
    if logits.ndim == 1:
        # sklearn gives one column for two labels: how much likelier the second one is.
        logits = np.column_stack([np.zeros(len(held_out)), logits])
    return logits


def _calibrate(logits: _Floats, label_ids: _Integers) -> _Floats:
    """Return the probabilities at the temperature at which the rows' labels are likeliest."""

    # The search is over an exponent, so that the factor of the logits stays positive.
    def loss(exponent: float) -> float:
        likelihoods = log_softmax(logits * np.exp(exponent), axis=1)
        return -float(likelihoods[np.arange(len(label_ids)), label_ids].mean())

    best = minimize_scalar(loss, bounds=(-6.0, 6.0), method="bounded")
    probabilities: _Floats = softmax(logits * np.exp(best.x), axis=1)
    return probabilities


def _labels_nearby(
    x: _Floats, label_ids: _Integers, folds: Sequence[_Fold], is_trusted: _Flags
) -> _Integers:
    """Return the label of most of a row's nearest neighbours in the other folds, [rows].

    It is -1 if no label is that of more than half of them.
    """
    nearby = np.full(len(x), -1, dtype=np.int64)
    for train, held_out in folds:
        train = train[is_trusted[train]]
        if len(held_out) == 0 or len(train) < _NEIGHBORS:
            continue

        search = NearestNeighbors(n_neighbors=_NEIGHBORS, algorithm="brute").fit(x[train])
        labels = label_ids[train][search.kneighbors(x[held_out], return_distance=False)]
        votes = (labels[:, :, None] == np.arange(int(label_ids.max()) + 1)).sum(axis=1)
        is_majority = votes.max(axis=1) > _NEIGHBORS / 2
        nearby[held_out] = np.where(is_majority, votes.argmax(axis=1), -1)
    return nearby


def _wrong_labels(probabilities: _Floats, label_ids: _Integers, nearby: _Integers) -> _Flags:
    """Return which rows are flagged, [rows]; see `mislabelled` for the rules."""
    scored = np.flatnonzero(probabilities.sum(axis=1) > 0.0)
    likely, labels = probabilities[scored], label_ids[scored]
    confidence = likely[np.arange(len(scored)), labels]

    # The confident joint: which label a row counts for, if any reaches its mean self-confidence.
    thresholds = np.full(probabilities.shape[1], np.inf)
    for label in np.unique(labels):
        thresholds[label] = confidence[labels == label].mean()
    confident = np.where(likely >= thresholds, likely, -1.0)
    is_counted = confident.max(axis=1, initial=-1.0) >= 0.0
    off_diagonal = int((is_counted & (confident.argmax(axis=1) != labels)).sum())

    # Rows that are beyond doubt whatever the joint says.
    likeliest = likely.argmax(axis=1)
    best = likely.max(axis=1, initial=0.0)
    needed = np.where(nearby[scored] == likeliest, _CONFIRMED, _BEYOND_DOUBT)
    is_doubtful = (best > 0.5) & (best > needed * confidence)

    is_doubtful[np.argsort(confidence, kind="stable")[:off_diagonal]] = True
    is_wrong = np.zeros(len(label_ids), dtype=np.bool_)
    is_wrong[scored] = is_doubtful & (likeliest != labels)
    return is_wrong
