"""Drift: how far a session is from the previous one, from 0 (the same) to 1 (nothing in common).

From each distance, the distance that two random halves of one session would show is subtracted, and
the remainder is scaled to [0, 1]. Otherwise small sessions would seem to differ merely because they
are small.
"""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from tunetrail.data.checks.row_vectors import normalize_and_reduce

FEWEST_ROWS = 10
"""Drift can't be measured with fewer vectors than this in either session."""

MOST_ROWS = 1_000
"""Vectors of each session at most: more of them would take longer to compute than to compare, and
chance would give hardly less."""

_RANDOM_SPLITS = 5
_FOLDS = 5
_INVERSE_RIDGE = 10.0
_STANDARD_ERRORS = 3.0
# The mean of Kolmogorov's distribution: sqrt(pi / 2) * log(2).
_MEAN_KOLMOGOROV = 0.8687
_WORD = re.compile(r"\w+")

_Floats = npt.NDArray[np.float64]
_Numbers = npt.NDArray[np.number[Any]]


def length_drift(before: _Numbers, now: _Numbers) -> float:
    """Return the Kolmogorov-Smirnov statistic of two samples of lengths, less what chance gives.

    A sample without lengths gives 0.
    """
    if len(before) == 0 or len(now) == 0:
        return 0.0

    lengths = np.concatenate([before, now])
    share_before = np.searchsorted(np.sort(before), lengths, side="right") / len(before)
    share_now = np.searchsorted(np.sort(now), lengths, side="right") / len(now)
    # The largest difference between the two cumulative distributions.
    statistic = float(np.abs(share_before - share_now).max())

    by_chance = _MEAN_KOLMOGOROV * np.sqrt(1.0 / len(before) + 1.0 / len(now))
    return _beyond_chance(statistic, by_chance)


def vocabulary_drift(before: Iterable[str], now: Iterable[str], *, seed: int = 0) -> float:
    """Return the Jensen-Shannon distance of the frequencies of words, less what chance gives.

    The distance has base 2 (Endres and Schindelin 2003). What chance gives is the mean distance of
    five random splits of all texts into two parts of the same sizes. Words are runs of letters and
    digits, whatever their case. A session without words gives 0.

    Args:
        before: Texts of the previous session.
        now: Texts of this session.
        seed: For the random splits.
    """
    words_before = list(map(_count_words, before))
    words_now = list(map(_count_words, now))
    if not any(words_before) or not any(words_now):
        return 0.0

    # [texts, words]; unsorted, a word's column follows from the first text that has the word.
    counts = DictVectorizer(sort=False).fit_transform([*words_before, *words_now])
    is_before = np.arange(counts.shape[0]) < len(words_before)
    distance = _distance_of_split(counts, is_before)

    # Texts are shuffled between the sessions, whole: words of one text aren't independent.
    generator = np.random.default_rng(seed)
    by_chance = [
        _distance_of_split(counts, generator.permutation(is_before)) for _ in range(_RANDOM_SPLITS)
    ]
    return _beyond_chance(distance, float(np.mean(by_chance)))


def embedding_drift(before: _Numbers, now: _Numbers, *, seed: int) -> float:
    """Return how well a classifier tells the sessions' vectors apart: 2 AUC - 1, less chance.

    A classifier two-sample test (Lopez-Paz and Oquab 2017) with logistic regression in five folds,
    on at most 1,000 rows of each session. What chance gives is three standard errors of the AUC of
    two samples of one distribution (Hanley and McNeil 1982).

    Args:
        before: [rows, dimensions] of the previous session, finite.
        now: [rows, dimensions] of this session, by the same model; fewer than `FEWEST_ROWS` in
            either session give 0.
        seed: For the rows that are drawn and the folds.

    Raises:
        ValueError: The vectors have different dimensions.
    """
    sizes = min(len(before), MOST_ROWS), min(len(now), MOST_ROWS)
    if min(sizes) < FEWEST_ROWS:
        return 0.0
    if before.shape[1] != now.shape[1]:
        raise ValueError(
            f"vectors must have the same dimensions, got {before.shape[1]} and {now.shape[1]}."
        )

    generator = np.random.default_rng(seed)
    samples = []
    for vectors, size in zip((before, now), sizes, strict=True):
        rows = np.sort(generator.permutation(len(vectors))[:size])
        samples.append(vectors[rows])
    vectors = normalize_and_reduce(np.concatenate(samples), seed=seed)
    session = np.repeat([0, 1], sizes)

    areas = []
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    for train, held_out in folds.split(vectors, session):
        model = LogisticRegression(C=_INVERSE_RIDGE, max_iter=1_000, class_weight="balanced")
        model.fit(vectors[train], session[train])
        scores = model.decision_function(vectors[held_out])
        areas.append(roc_auc_score(session[held_out], scores))

    # 2 AUC - 1 is 0 for the same distribution, and 1 if the sessions can be told apart always.
    error = float(np.sqrt((sum(sizes) + 1) / (12.0 * sizes[0] * sizes[1])))
    return _beyond_chance(2.0 * float(np.mean(areas)) - 1.0, 2.0 * _STANDARD_ERRORS * error)


def _beyond_chance(distance: float, by_chance: float) -> float:
    if by_chance >= 1.0 - 1e-9:
        return 0.0
    return float(np.clip((distance - by_chance) / (1.0 - by_chance), 0.0, 1.0))


def _count_words(text: str) -> Counter[str]:
    return Counter(_WORD.findall(text.casefold()))


def _distance_of_split(counts: csr_matrix, is_first: npt.NDArray[np.bool_]) -> float:
    """Return the Jensen-Shannon distance between the words of the first texts and of the others."""
    first = counts.T @ is_first.astype(np.float64)
    second = counts.T @ (~is_first).astype(np.float64)
    if first.sum() == 0.0 or second.sum() == 0.0:
        return 0.0

    p, q = first / first.sum(), second / second.sum()
    middle = (p + q) / 2.0
    divergence = (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2.0
    return float(np.sqrt(np.clip(divergence, 0.0, 1.0)))


def _relative_entropy(p: _Floats, q: _Floats) -> float:
    present = p > 0.0
    return float(np.sum(p[present] * np.log2(p[present] / q[present])))
