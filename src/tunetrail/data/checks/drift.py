"""Drift: how far this session is from the previous one, as distances between 0 (alike) and 1. Knows no threshold.

From every distance is taken off what two random halves of one session would show, and the rest is scaled to [0, 1]:
without that, small sessions seem to differ merely because they are small.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from tunetrail.data.checks.vectors import unit_vectors

FEWEST_ROWS = 10
"""Of fewer vectors on either side no drift can be told."""

_RANDOM_SPLITS = 5
_MOST_ROWS = 2_000
_FOLDS = 5
_INVERSE_RIDGE = 10.0
_STANDARD_ERRORS = 3.0
# The mean of Kolmogorov's distribution: sqrt(pi / 2) * log(2).
_MEAN_KOLMOGOROV = 0.8687
_WORD = re.compile(r"\w+")

_Floats = npt.NDArray[np.float64]
_Numbers = npt.NDArray[np.number[Any]]


@dataclass(frozen=True, kw_only=True)
class Drift:
    """Distances from the previous session, each between 0 (alike) and 1 (nothing in common).

    Attributes:
        length: Of the texts' lengths.
        vocabulary: Of the frequencies of words.
        embedding: Of the vectors; None where there are none.
    """

    length: float
    vocabulary: float
    embedding: float | None

    def to_dict(self) -> dict[str, float | None]:
        """Return the distances, JSON-serialisable."""
        return {"length": self.length, "vocabulary": self.vocabulary, "embedding": self.embedding}


def drift(
    before: Sequence[str],
    now: Sequence[str],
    *,
    vectors_before: _Numbers | None = None,
    vectors_now: _Numbers | None = None,
    seed: int,
) -> Drift:
    """Return all distances between two sessions' texts; lengths are in characters.

    Args:
        before: Texts of the previous session.
        now: Texts of this one.
        vectors_before: [rows, dimensions] of the previous session, or None.
        vectors_now: [rows, dimensions] of this session by the same model, or None.
        seed: For the random splits and folds.
    """
    embedding = None
    if vectors_before is not None and vectors_now is not None:
        embedding = embedding_drift(vectors_before, vectors_now, seed=seed)
    return Drift(
        length=length_drift(
            np.array([len(text) for text in before]), np.array([len(text) for text in now])
        ),
        vocabulary=vocabulary_drift(before, now, seed=seed),
        embedding=embedding,
    )


def length_drift(before: _Numbers, now: _Numbers) -> float:
    """Return the Kolmogorov-Smirnov statistic of two samples of lengths, less what chance gives; 0 if one is empty."""
    if len(before) == 0 or len(now) == 0:
        return 0.0
    points = np.concatenate([before, now])
    shares = [
        np.searchsorted(np.sort(side), points, side="right") / len(side) for side in (before, now)
    ]
    statistic = float(np.abs(shares[0] - shares[1]).max())
    return _beyond_chance(statistic, _MEAN_KOLMOGOROV * np.sqrt(1.0 / len(before) + 1.0 / len(now)))


def vocabulary_drift(before: Iterable[str], now: Iterable[str], *, seed: int = 0) -> float:
    """Return the Jensen-Shannon distance (base 2; Endres and Schindelin 2003) of the frequencies of words.

    Chance is the mean distance of five random splits of all texts into two parts of the same sizes. Words are runs of
    letters and digits whatever their case. A side without words gives 0.

    Args:
        before: Texts of the previous session.
        now: Texts of this one.
        seed: For the random splits.
    """
    texts_before = [Counter(_WORD.findall(text.casefold())) for text in before]
    texts_now = [Counter(_WORD.findall(text.casefold())) for text in now]
    if not any(texts_before) or not any(texts_now):
        return 0.0
    counts = _word_counts([*texts_before, *texts_now])
    of_before = np.arange(counts.shape[0]) < len(texts_before)
    generator = np.random.default_rng(seed)
    chance = [
        _split_distance(counts, generator.permutation(of_before)) for _ in range(_RANDOM_SPLITS)
    ]
    return _beyond_chance(_split_distance(counts, of_before), float(np.mean(chance)))


def embedding_drift(before: _Numbers, now: _Numbers, *, seed: int) -> float:
    """Return how well a classifier tells the sessions' vectors apart: 2 AUC - 1, less what chance gives.

    A classifier two-sample test (Lopez-Paz and Oquab 2017) with logistic regression in five folds, on 2,000 rows of
    each side at most. Chance is three standard errors of the AUC of alike samples (Hanley and McNeil 1982).

    Args:
        before: [rows, dimensions] of the previous session, finite.
        now: [rows, dimensions] of this session, by the same model; fewer than `FEWEST_ROWS` on a side give 0.
        seed: For the rows that are drawn and the folds.

    Raises:
        ValueError: The vectors have different dimensions.
    """
    sizes = min(len(before), _MOST_ROWS), min(len(now), _MOST_ROWS)
    if min(sizes) < FEWEST_ROWS:
        return 0.0
    if before.shape[1] != now.shape[1]:
        raise ValueError(
            f"vectors must have the same dimensions, got {before.shape[1]} and {now.shape[1]}."
        )
    generator = np.random.default_rng(seed)
    drawn = [
        side[np.sort(generator.permutation(len(side))[:size])]
        for side, size in zip((before, now), sizes, strict=True)
    ]
    x = unit_vectors(np.concatenate(drawn), seed=seed)
    side = np.repeat([0, 1], sizes)
    areas = []
    for learned, held_out in StratifiedKFold(_FOLDS, shuffle=True, random_state=seed).split(
        x, side
    ):
        model = LogisticRegression(C=_INVERSE_RIDGE, max_iter=1_000, class_weight="balanced")
        scores = model.fit(x[learned], side[learned]).decision_function(x[held_out])
        areas.append(roc_auc_score(side[held_out], scores))
    error = np.sqrt((sum(sizes) + 1) / (12.0 * sizes[0] * sizes[1]))
    return _beyond_chance(2.0 * float(np.mean(areas)) - 1.0, 2.0 * _STANDARD_ERRORS * float(error))


def _beyond_chance(distance: float, chance: float) -> float:
    if chance >= 1.0 - 1e-9:
        return 0.0
    return float(np.clip((distance - chance) / (1.0 - chance), 0.0, 1.0))


def _word_counts(texts: Sequence[Counter[str]]) -> csr_array:
    """Return how often each word is in each text, [texts, words]."""
    number_of: dict[str, int] = {}
    columns = [number_of.setdefault(word, len(number_of)) for text in texts for word in text]
    counts = np.array([count for text in texts for count in text.values()], dtype=np.float64)
    ends = np.cumsum([0, *(len(text) for text in texts)])
    return csr_array(
        (counts, np.array(columns, dtype=np.int64), ends), shape=(len(texts), len(number_of))
    )


def _split_distance(counts: csr_array, first: npt.NDArray[np.bool_]) -> float:
    one, other = counts.T @ first.astype(np.float64), counts.T @ (~first).astype(np.float64)
    if one.sum() == 0.0 or other.sum() == 0.0:
        return 0.0
    return float(np.sqrt(_divergence(one / one.sum(), other / other.sum())))


def _divergence(p: _Floats, q: _Floats) -> float:
    middle = (p + q) / 2.0

    def relative(r: _Floats) -> float:
        present = r > 0.0
        return float(np.sum(r[present] * np.log2(r[present] / middle[present])))

    return min(1.0, max(0.0, (relative(p) + relative(q)) / 2.0))
