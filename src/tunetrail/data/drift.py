"""Drift: how far the rows of a session are from those of the previous one, in lengths, words and vectors.

Every distance lies between 0 (two halves of one session) and 1 (nothing in common).
"""

import hashlib
from collections import Counter
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from scipy.stats import ks_2samp
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

_COMPARED_WORDS = 2_000
_FOLDS = 5


def length_drift(before: npt.NDArray[np.float64], now: npt.NDArray[np.float64]) -> float:
    """Return the Kolmogorov-Smirnov statistic of two samples of lengths; 0 where one is empty."""
    if not len(before) or not len(now):
        return 0.0
    return float(ks_2samp(before, now).statistic)


def vocabulary_drift(before: Iterable[str], now: Iterable[str]) -> float:
    """Return how far the word frequencies of two sets of texts are apart.

    The Jensen-Shannon distance (base 2; Endres and Schindelin 2003) over the 2,000 commonest words, less what two
    halves of all texts together are apart by chance, and rescaled so that sets without a common word are still 1 apart.
    """
    first, second = list(before), list(now)
    if not first or not second:
        return 0.0
    counted = [[_words(text) for text in texts] for texts in (first, second)]
    total: Counter[str] = Counter()
    for each in (*counted[0], *counted[1]):
        total.update(each)
    place = {word: number for number, (word, _) in enumerate(total.most_common(_COMPARED_WORDS))}
    if not place:
        return 0.0
    distance = _distance(*(_frequencies(texts, place) for texts in counted))
    # by content, so that a text and its copies are in one half whatever the order
    pooled = dict(zip([*first, *second], [*counted[0], *counted[1]], strict=True))
    halves: list[list[Counter[str]]] = [[], []]
    for text, words in pooled.items():
        halves[hashlib.sha256(text.encode()).digest()[0] % 2].append(words)
    chance = _distance(*(_frequencies(texts, place) for texts in halves)) if all(halves) else 0.0
    return float(np.clip((distance - chance) / max(1.0 - chance, 1e-9), 0.0, 1.0))


def embedding_drift(before: npt.NDArray[np.float32], now: npt.NDArray[np.float32], *, seed: int) -> float:
    """Return how well a linear classifier tells the vectors of two sessions apart: 2 AUC - 1, at least 0.

    The classifier two-sample test of Lopez-Paz and Oquab (2017), with out-of-fold scores and the area under the curve
    in place of the accuracy, so that sessions of unlike size need no balancing.
    """
    if min(len(before), len(now)) < 2 * _FOLDS:
        return 0.0
    vectors = np.concatenate([before, now])
    is_now = np.repeat([0, 1], [len(before), len(now)])
    model = LogisticRegression(C=1.0, max_iter=200, class_weight="balanced")
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    scores = cross_val_predict(model, vectors, is_now, cv=folds, method="decision_function")
    return float(np.clip(2.0 * roc_auc_score(is_now, scores) - 1.0, 0.0, 1.0))


def _words(text: str) -> Counter[str]:
    return Counter(text.casefold().split())


def _frequencies(texts: Iterable[Counter[str]], place: dict[str, int]) -> npt.NDArray[np.float64]:
    frequencies = np.zeros(len(place))
    for words in texts:
        for word, count in words.items():
            number = place.get(word)
            if number is not None:
                frequencies[number] += count
    return frequencies / max(float(frequencies.sum()), 1.0)


def _distance(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    middle = (first + second) / 2.0
    divergence = sum(
        float((side[side > 0] * np.log2(side[side > 0] / middle[side > 0])).sum()) for side in (first, second)
    )
    return float(np.sqrt(max(divergence / 2.0, 0.0)))
