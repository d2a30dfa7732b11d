"""Pairs as a classification: how well cosines tell positive pairs from negative ones.

Gold is 1 for positive pairs and 0 for negative ones. Pairs of equal cosine can't be told apart by
any threshold, so they are always on the same side of it, as in scikit-learn.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Goal = Callable[[Floats, Floats, Any, Any], Floats]
"""Takes the true and false positives of every threshold, then the numbers of positive and of
negative pairs; returns what the best threshold has the most of."""


def is_binary(gold: npt.NDArray[Any]) -> bool:
    """Tell whether gold scores are classes: 0 and 1, both of them."""
    return bool(np.array_equal(np.unique(gold), [0.0, 1.0]))


def f1_of_counts(true: Floats, false: Floats, positives: float, negatives: float) -> Floats:
    """Return F1, the harmonic mean of precision and recall; 0 if there is no positive pair."""
    return 2.0 * true / np.maximum(true + false + positives, 1.0)


def accuracy_of_counts(true: Floats, false: Floats, positives: float, negatives: float) -> Floats:
    """Return the share of the pairs on the right side of the threshold."""
    return (true + negatives - false) / (positives + negatives)


def best_threshold(cosine: Floats, gold: Floats, goal: Goal) -> float:
    """Return the cosine from which pairs count as positive, so that `goal` is the highest.

    It lies halfway between two cosines that occur, and above 1 if no pair should be positive.
    """
    from sklearn.metrics import roc_curve

    # scikit-learn gives shares; the counts are exact again after rounding.
    false_shares, true_shares, cosines = roc_curve(gold, cosine, drop_intermediate=False)
    positives = float(gold.sum())
    negatives = len(gold) - positives
    counts = np.rint(true_shares * positives), np.rint(false_shares * negatives)
    best = int(np.argmax(goal(*counts, positives, negatives)))

    # The first threshold of the curve, infinity, has no positive pair.
    if best == 0:
        return float(np.nextafter(cosines[1], np.inf))
    if best == len(cosines) - 1:
        return float(cosines[best])
    return float((cosines[best] + cosines[best + 1]) / 2.0)


def _sorted_by_cosine(cosine: Floats) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Return the order of the pairs, highest cosine first, and which of them are thresholds."""
    order = np.argsort(-cosine, kind="stable")
    # The last pair of each run of equal cosines stands for its threshold.
    is_last = np.append(np.diff(cosine[order]) != 0.0, True)
    return order, is_last


def _threshold_counts(cosine: Floats, gold: Floats) -> Callable[[Floats], tuple[Floats, Floats]]:
    """Return how many pairs lie at or above each threshold, as a function of the pairs' counts.

    Returns:
        A function that takes counts [resamples, pairs], and returns the number of all pairs and of
        the positive ones, both [resamples, thresholds].
    """
    order, is_last = _sorted_by_cosine(cosine)
    is_positive = gold[order]

    def counts_at_thresholds(counts: Floats) -> tuple[Floats, Floats]:
        sorted_counts = counts[:, order]
        retrieved = sorted_counts.cumsum(axis=1)[:, is_last]
        true = (sorted_counts * is_positive).cumsum(axis=1)[:, is_last]
        return retrieved, true

    return counts_at_thresholds


def optimism_of_counts(cosine: Floats, gold: Floats, goal: Goal) -> Callable[[Floats], Floats]:
    """Return how much the choice of a threshold flatters, as a function of the pairs' counts.

    A threshold that is the best for some pairs is worse for others. How much worse is seen on
    resamples: the best threshold of each is scored on the resample and on all pairs, and the mean
    difference is the optimism (Efron 1983, https://doi.org/10.1080/01621459.1983.10477973; Harrell,
    "Regression Modeling Strategies", 2015, section 5.3.5).

    Returns:
        A function that takes counts [resamples, pairs], and returns the optimism, [resamples].
    """
    counts_at_thresholds = _threshold_counts(cosine, gold)

    def values(counts: Floats) -> Floats:
        """Return the goal at each threshold, the first one above all pairs."""
        retrieved, true = counts_at_thresholds(counts)
        positives = true[:, -1:]
        negatives = retrieved[:, -1:] - positives
        none = np.zeros_like(positives)
        true = np.concatenate([none, true], axis=1)
        false = np.concatenate([none, retrieved], axis=1) - true
        return goal(true, false, positives, negatives)

    of_all_pairs = values(np.ones((1, len(gold))))[0]

    def optimism(counts: Floats) -> Floats:
        resampled = values(counts)
        flattery: Floats = resampled.max(axis=1) - of_all_pairs[resampled.argmax(axis=1)]
        return flattery

    return optimism


def average_precision_of_counts(cosine: Floats, gold: Floats) -> Callable[[Floats], Floats]:
    """Return average precision as a function of how often each pair counts.

    The mean of the precision at each positive pair, pairs of equal cosine taken together: the sum
    over all thresholds of the precision times the gain in recall (scikit-learn's definition).

    Returns:
        A function that takes counts [resamples, pairs], and returns the average precision,
        [resamples]; NaN if no positive pair counts.
    """
    counts_at_thresholds = _threshold_counts(cosine, gold)

    def average_precision(counts: Floats) -> Floats:
        retrieved, true = counts_at_thresholds(counts)
        # A threshold above every pair that counts retrieves nothing and adds nothing.
        precision = true / np.maximum(retrieved, 1.0)
        gains = np.diff(true, axis=1, prepend=0.0)
        positives = true[:, -1]
        precisions = np.full_like(positives, np.nan)
        sums = (precision * gains).sum(axis=1)
        np.divide(sums, positives, out=precisions, where=positives > 0.0)
        return precisions

    return average_precision


def average_precision_shares(cosine: Floats, gold: Floats) -> Floats:
    """Return values [pairs] whose mean is the average precision.

    A pair's value is the average precision plus the pair's influence: how the average precision
    changes, to first order, as the pair gains weight. So the mean over a resample is the resample's
    own average precision, to first order, without a sum over thresholds for each.
    """
    order, is_last = _sorted_by_cosine(cosine)
    threshold_of = np.append(0, is_last.cumsum()[:-1])
    is_positive = gold[order]

    retrieved = np.arange(1.0, len(gold) + 1.0)[is_last]
    true = is_positive.cumsum()[is_last]
    precision, gains = true / retrieved, np.diff(true, prepend=0.0)
    average_precision = float((precision * gains).sum() / true[-1])

    # More weight changes the precision of the pair's own threshold and of all lower ones.
    as_positive = (gains / retrieved)[::-1].cumsum()[::-1][threshold_of]
    as_retrieved = (gains * true / retrieved**2)[::-1].cumsum()[::-1][threshold_of]
    own_gain = precision[threshold_of] - average_precision + as_positive
    influences = (is_positive * own_gain - as_retrieved) / true[-1]

    shares = np.empty(len(gold))
    shares[order] = average_precision + len(gold) * influences
    return shares
