"""How often the interval of an embedding metric holds its true value, at 30, 100 and 300 rows.

`pytest -m slow -s tests/slow/test_embedding_coverage.py` prints the table.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import norm

from tunetrail.evaluation.health import health_values
from tunetrail.evaluation.intervals import metric_intervals
from tunetrail.evaluation.metrics import Array
from tunetrail.evaluation.ranking import retrieval_scores
from tunetrail.evaluation.scores import Scores, similarity_scores, unit_vectors

pytestmark = pytest.mark.slow

DATA_SETS = 500
"""The standard error of a coverage of 95 % is then 1 point."""
THRESHOLDED = ("best_f1", "best_accuracy")
RANKED = ("ndcg_at_10", "mrr_at_10", "map_at_10", "recall_at_1", "recall_at_10", "precision_at_10")
DIMENSIONS = 8


def groups_of(rows: int, grouped: bool) -> Array:
    """Groups of one to three rows, or rows for themselves."""
    sizes = np.tile([1, 2, 3], rows) if grouped else np.ones(rows, dtype=int)
    return np.repeat(np.arange(len(sizes)), sizes)[:rows]


def normal(generator: np.random.Generator, group_of: Array, columns: int) -> Array:
    """Standard normal values, [rows, columns]; rows of a group share half of their variance."""
    shared = generator.normal(size=(int(group_of.max()) + 1, columns))[group_of]
    own = generator.normal(size=(len(group_of), columns))
    is_alone = np.bincount(group_of)[group_of] == 1
    mixed = (shared + own) / np.sqrt(2.0)
    return np.where(is_alone[:, np.newaxis], own, mixed)


def clustered(scores: Scores, group_of: Array) -> Scores:
    return dataclasses.replace(scores, clusters=list(map(str, group_of)))


def pair_scores(
    generator: np.random.Generator, group_of: Array, distance: float, positives: float
) -> Scores:
    """Pairs whose cosines are normal, those of the positive ones higher by `distance` deviations."""
    gold = (generator.random(len(group_of)) < positives).astype(float)
    value = normal(generator, group_of, 1)[:, 0] + distance * gold
    # The angle of two vectors in the plane gives them a cosine in the order of the values.
    angle = np.pi * ndtr(-value / 2.0)
    second = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return clustered(
        similarity_scores(np.eye(1, 2).repeat(len(gold), axis=0), second, gold), group_of
    )


def true_value(metric: str, threshold: float, distance: float, positives: float) -> float:
    """Return a metric on all pairs that there are, for those of `best_` at a threshold."""
    cosine = np.clip(threshold, -1.0, 1.0)
    value = -2.0 * norm.ppf(np.arccos(cosine) / np.pi)
    true = positives * norm.sf(value - distance)
    false = (1.0 - positives) * norm.sf(value)
    if metric == "best_f1":
        return float(2.0 * true / (true + false + positives))
    return float(true + 1.0 - positives - false)


def true_average_precision(distance: float, positives: float) -> float:
    value = np.linspace(-8.0, 8.0 + distance, 200_001)
    recall, false = norm.sf(value - distance), norm.sf(value)
    precision = positives * recall / (positives * recall + (1.0 - positives) * false)
    return float(-np.trapezoid(precision, recall))


@pytest.mark.parametrize("grouped", [False, True], ids=["independent", "grouped"])
@pytest.mark.parametrize("rows", [30, 100, 300])
@pytest.mark.parametrize(("distance", "positives"), [(1.0, 0.5), (2.0, 0.5), (1.5, 0.3)])
def test_metrics_of_positive_and_negative_pairs(
    rows: int, grouped: bool, distance: float, positives: float
) -> None:
    generator = np.random.default_rng(rows)
    group_of = groups_of(rows, grouped)
    average_precision = true_average_precision(distance, positives)
    covered: dict[str, list[bool]] = {}

    for seed in range(DATA_SETS):
        scores = pair_scores(generator, group_of, distance, positives)
        intervals = metric_intervals(scores, bootstrap_samples=1000, confidence=0.95, seed=seed)
        for name in ("average_precision", *THRESHOLDED):
            if name not in intervals:
                continue
            truth = average_precision
            if name in THRESHOLDED:
                truth = true_value(name, scores.thresholds[name], distance, positives)
            lower, upper = intervals[name]
            covered.setdefault(name, []).append(lower <= truth <= upper)

    check_coverage(covered, rows, grouped, f"distance {distance}, {positives:.0%} positive")


def ranking_scores(generator: np.random.Generator, group_of: Array) -> Scores:
    """Queries near to one of 50 documents each, which are the same in all data sets."""
    documents = np.random.default_rng(0).normal(size=(50, DIMENSIONS))
    right = generator.integers(50, size=len(group_of))
    queries = documents[right] + 1.2 * normal(generator, group_of, DIMENSIONS)
    scores = retrieval_scores(queries, documents, right[:, np.newaxis].tolist())
    values = health_values(unit_vectors(queries, "queries"))
    return clustered(scores.extended(values, "uniformity", "effective_rank"), group_of)


def correlation_scores(generator: np.random.Generator, group_of: Array) -> Scores:
    gold, noise = normal(generator, group_of, 2).T
    angle = np.pi * ndtr(-(gold + noise) / 2.0)
    second = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    first = np.eye(1, 2).repeat(len(gold), axis=0)
    return clustered(similarity_scores(first, second, gold), group_of)


@pytest.mark.parametrize("grouped", [False, True], ids=["independent", "grouped"])
@pytest.mark.parametrize("rows", [30, 100, 300])
@pytest.mark.parametrize("draw", [ranking_scores, correlation_scores])
def test_metrics_of_rankings_health_and_correlations(
    draw: Callable[[np.random.Generator, Array], Scores], rows: int, grouped: bool
) -> None:
    truth = draw(np.random.default_rng(99), np.arange(200_000)).metrics
    generator = np.random.default_rng(rows)
    group_of = groups_of(rows, grouped)
    covered: dict[str, list[bool]] = {}

    for seed in range(DATA_SETS):
        scores = draw(generator, group_of)
        intervals = metric_intervals(scores, bootstrap_samples=1000, confidence=0.95, seed=seed)
        for name, (lower, upper) in intervals.items():
            covered.setdefault(name, []).append(lower <= truth[name] <= upper)

    check_coverage(covered, rows, grouped, str(draw))


def check_coverage(covered: dict[str, list[bool]], rows: int, grouped: bool, kind: str) -> None:
    """Print the shares of data sets whose interval holds the truth, and check them."""
    shares = {name: float(np.mean(holds)) for name, holds in covered.items()}
    counts = [f"{name} {share:.1%} of {len(covered[name])}" for name, share in shares.items()]
    print(f"\n{rows} rows, {'grouped' if grouped else 'independent'}, {kind}: {', '.join(counts)}")
    # Four standard errors below 95 %. Of 20 groups, intervals may be wide, which misleads nobody.
    for name, share in shares.items():
        standard_error = np.sqrt(0.95 * 0.05 / len(covered[name]))
        assert share >= 0.95 - 4.0 * standard_error, name
