"""chrF: the F2 score of the n-grams of characters that answers share with the true ones.

Popovic, "chrF: character n-gram F-score for automatic MT evaluation" (WMT 2015); counted as
sacrebleu does.
"""

import numpy as np

from tunetrail.evaluation.metric import Floats, Values, sums_metric

CHRF_ORDER = 6
"""Length of the longest n-grams of characters that chrF counts, as in sacrebleu."""
CHRF_MATCHES = tuple(f"chrf_matches_{length}" for length in range(1, CHRF_ORDER + 1))
"""Names of per-example values: the n-grams of each length that an answer shares with the true one.
`written_characters` and `expected_characters` are the lengths of both without white space."""
_CHRF_COUNTS = ("written_characters", "expected_characters", *CHRF_MATCHES)
_CHRF_BETA = 2.0


def _chrf_columns(values: Values) -> Floats:
    """Return n-grams written, expected and shared by length, and 1 for each answer."""
    written, expected, *matches = (
        np.nan_to_num(values[name].astype(np.float64)) for name in _CHRF_COUNTS
    )
    columns = [~np.isnan(values["written_characters"].astype(np.float64))]
    for length, shared in enumerate(matches, start=1):
        # As sacrebleu counts: n-grams that the true answer is too short for can't be wrong.
        possible = np.where(expected >= length, written, 0.0)
        columns += [np.maximum(possible - length + 1, 0.0)]
        columns += [np.maximum(expected - length + 1, 0.0), shared]
    return np.stack(columns).astype(np.float64)


def _chrf_of_sums(sums: Floats) -> Floats:
    """Return chrF of all answers together: F2 of the mean precision and recall over the lengths."""
    answers, counts = sums[0], sums[1:].reshape(CHRF_ORDER, 3, -1)
    written, expected, shared = counts.swapaxes(0, 1)
    # A length that no answer reaches has neither precision nor recall.
    is_counted = (written > 0) & (expected > 0)
    zeros = np.zeros_like(shared)
    precision = np.divide(shared, written, out=zeros.copy(), where=is_counted).sum(axis=0)
    recall = np.divide(shared, expected, out=zeros, where=is_counted).sum(axis=0)

    lengths = np.maximum(is_counted.sum(axis=0), 1)
    factor = _CHRF_BETA**2
    numerators = (1.0 + factor) * precision * recall / lengths
    denominators = factor * precision + recall
    scores = np.divide(
        numerators, denominators, out=np.zeros_like(numerators), where=denominators > 0
    )
    return np.where(answers > 0, scores, np.nan)


CHRF = sums_metric(
    _chrf_columns,
    _chrf_of_sums,
    name="chrf",
    label="chrF",
    weight="expected_characters",
    reads=_CHRF_COUNTS,
)
"""chrF of the written answers."""
