"""How often the interval of an embedding metric holds its true value, at 30, 100 and 300 rows.

`pytest -m slow -s tests/slow/test_embedding_coverage.py` prints the table.
"""

import dataclasses

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import norm
from tests.slow.coverage import Draw, check_coverage, check_metrics, groups_of, normal

from tunetrail.evaluation.health import health_values, pair_alignments, triplet_values
from tunetrail.evaluation.intervals import metric_intervals
from tunetrail.evaluation.metric import Array
from tunetrail.evaluation.ranking import labelled_document_scores, retrieval_scores
from tunetrail.evaluation.scores import Scores, similarity_scores, unit_vectors, vector_scores

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

DATA_SETS = 1000
"""The standard error of a coverage of 95 % is then 0.7 points."""
THRESHOLDED = ("best_f1", "best_accuracy")
DIMENSIONS = 8


def pair_scores(
    generator: np.random.Generator, group_of: Array, distance: float, positives: float
) -> Scores:
    """Pairs whose cosines are normal, those of the positive ones higher by `distance` deviations."""
    gold = (generator.random(len(group_of)) < positives).astype(float)
    value = normal(generator, group_of, 1)[:, 0] + distance * gold
    return similarity_scores(*plane_vectors(value), gold)


def plane_vectors(value: Array) -> tuple[Array, Array]:
    """Return two vectors in the plane for each row, whose cosines have the order of the values."""
    angle = np.pi * ndtr(-value / 2.0)
    second = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.eye(1, 2).repeat(len(value), axis=0), second


def true_value(metric: str, threshold: float, distance: float, positives: float) -> float:
    """Return F1 or accuracy at a threshold, on all pairs that there are."""
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
    generator = np.random.default_rng([rows, grouped, int(10 * distance)])
    group_of = groups_of(rows, grouped)
    average_precision = true_average_precision(distance, positives)
    covered: dict[str, list[bool]] = {}

    for seed in range(DATA_SETS):
        scores = pair_scores(generator, group_of, distance, positives)
        if grouped:
            scores = dataclasses.replace(scores, clusters=list(map(str, group_of)))
        intervals = metric_intervals(scores, bootstrap_samples=1000, confidence=0.95, seed=seed)
        for name in ("average_precision", *THRESHOLDED):
            if name not in intervals:
                continue
            truth = average_precision
            if name in THRESHOLDED:
                # Each data set has a threshold of its own, at which new pairs will be judged.
                truth = true_value(name, scores.thresholds[name], distance, positives)
            lower, upper = intervals[name]
            covered.setdefault(name, []).append(lower <= truth <= upper)

    # 15 pairs of each class have no honest interval.
    assert rows > 30 or not covered
    check_coverage(covered, rows, grouped)


def ranking_scores(generator: np.random.Generator, group_of: Array, level: float) -> Scores:
    """Queries near to one of 50 documents each, which are the same in all data sets."""
    noise = 1.5 - level
    documents = np.random.default_rng(0).normal(size=(50, DIMENSIONS))
    right = generator.integers(50, size=len(group_of))
    queries = documents[right] + noise * normal(generator, group_of, DIMENSIONS)
    relevant = right[:, np.newaxis].tolist()
    scores = retrieval_scores(queries, documents, relevant)

    # No, one or two triplets for each query.
    units = unit_vectors(queries, "queries"), unit_vectors(documents, "documents")
    query_of = np.repeat(np.arange(len(right)), np.arange(len(right)) % 3)
    wrong = (right[query_of] + 1 + generator.integers(49, size=len(query_of))) % 50
    triplets = triplet_values(*units, query_of.tolist(), right[query_of].tolist(), wrong.tolist())
    scores = scores.extended(triplets, "triplet_accuracy")
    alignments = pair_alignments(*units, relevant)
    return scores.extended({"alignment": alignments}, "alignment")


def label_scores(generator: np.random.Generator, group_of: Array, level: float) -> Scores:
    """Queries of five labels among 50 labelled documents, which are the same in all data sets."""
    fixed = np.random.default_rng(0)
    centers = fixed.normal(size=(5, DIMENSIONS))
    document_labels = np.arange(50) % 5
    documents = centers[document_labels] + fixed.normal(size=(50, DIMENSIONS))
    labels = generator.integers(5, size=len(group_of))
    queries = centers[labels] + (2.0 - 1.5 * level) * normal(generator, group_of, DIMENSIONS)
    return labelled_document_scores(
        queries, list(map(str, labels)), documents, list(map(str, document_labels))
    )


def target_scores(generator: np.random.Generator, group_of: Array, level: float) -> Scores:
    targets = generator.normal(size=(len(group_of), DIMENSIONS))
    noise = (1.0 - 0.7 * level) * normal(generator, group_of, DIMENSIONS)
    return vector_scores(targets + noise, targets)


def correlation_scores(generator: np.random.Generator, group_of: Array, level: float) -> Scores:
    gold, noise = normal(generator, group_of, 2).T
    return similarity_scores(*plane_vectors(gold + (2.0 - 1.5 * level) * noise), gold)


@pytest.mark.parametrize("grouped", [False, True], ids=["independent", "grouped"])
@pytest.mark.parametrize("rows", [30, 100, 300])
@pytest.mark.parametrize("draw", [ranking_scores, label_scores, target_scores, correlation_scores])
def test_metrics_of_rankings_labels_targets_and_correlations(
    draw: Draw, rows: int, grouped: bool
) -> None:
    check_metrics(draw, rows, grouped, 2 * DATA_SETS)


def test_health_has_no_interval() -> None:
    scores = ranking_scores(np.random.default_rng(0), np.arange(300), 0.5)
    vectors = np.random.default_rng(1).normal(size=(300, DIMENSIONS))
    health = health_values(unit_vectors(vectors, "vectors"))
    scores = scores.extended(health, "uniformity", "effective_rank")
    intervals = metric_intervals(scores, bootstrap_samples=1000, confidence=0.95, seed=0)
    assert {"uniformity", "effective_rank"}.isdisjoint(intervals)
