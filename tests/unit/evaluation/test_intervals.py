import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap
from scipy.stats import t as student

from tunetrail.evaluation.health import health_values
from tunetrail.evaluation.intervals import figures_with_bounds, metric_intervals, metric_table
from tunetrail.evaluation.metric import Array
from tunetrail.evaluation.ranking import retrieval_scores
from tunetrail.evaluation.scores import Scores, scores_from, similarity_scores, unit_vectors
from tunetrail.evaluation.share_intervals import Interval, clustered_share_interval


def vectors(seed: int, rows: int, dimensions: int = 16) -> Array:
    return np.random.default_rng(seed).normal(size=(rows, dimensions))


def intervals(scores: Scores, confidence: float = 0.95) -> dict[str, Interval]:
    return metric_intervals(scores, bootstrap_samples=4000, confidence=confidence, seed=0)


def test_every_metric_has_an_interval_around_its_value() -> None:
    queries = vectors(0, 300)
    documents = queries + 1.5 * vectors(1, 300)
    scores = retrieval_scores(queries, documents, [[row] for row in range(300)])
    values = health_values(unit_vectors(queries, "queries"))
    scores = scores.extended(values, "uniformity", "effective_rank")

    bounds = intervals(scores)

    # No interval would hold these: one grows with the rows, the other is no normal variable.
    assert set(bounds) == set(scores.metrics) - {"effective_rank", "uniformity"}
    for name, (lower, upper) in bounds.items():
        assert lower < scores.metrics[name] < upper, name


def test_the_interval_of_a_mean_is_scipys_percentile_interval_of_many_rows() -> None:
    values = np.random.default_rng(0).uniform(size=2000)
    expected = bootstrap((values,), np.mean, method="percentile", rng=1).confidence_interval

    bounds = intervals(scores_from({"mse": values}, "mse"))["mse"]

    assert bounds == pytest.approx((expected.low, expected.high), abs=1e-3)


def test_whole_clusters_are_drawn() -> None:
    # Ten equal rows in each cluster are as much evidence as one.
    values = np.random.default_rng(0).uniform(size=50)
    single = scores_from({"mse": values}, "mse")
    clustered = scores_from({"mse": np.repeat(values, 10)}, "mse").identified(
        [{"cluster": str(row // 10)} for row in range(500)]
    )
    widths = [
        bounds["mse"].upper - bounds["mse"].lower for bounds in map(intervals, (single, clustered))
    ]
    assert widths[1] == pytest.approx(widths[0], rel=0.05)


def test_one_cluster_has_no_interval_unless_it_is_one_example_that_is_right_or_wrong() -> None:
    for values in ([0.0, 1.0, 1.0], [1.0, 1.0, 1.0], [0.5]):
        numerators, cluster_of = np.array(values), np.zeros(len(values), dtype=int)
        denominators = np.ones(len(values))
        assert clustered_share_interval(numerators, denominators, cluster_of, 0.95) is None

    alone = np.ones(1)
    bounds = clustered_share_interval(alone, alone, np.zeros(1, dtype=int), 0.95)
    assert bounds is not None
    assert bounds == pytest.approx(tuple(binomtest(1, 1).proportion_ci(method="wilson")))


def test_random_groups_of_many_clusters_give_the_same_width(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores = scores_from({"mse": np.random.default_rng(0).uniform(size=4000)}, "mse")
    single = intervals(scores)["mse"]
    monkeypatch.setattr("tunetrail.evaluation.intervals._MOST_CLUSTERS", 1000)
    grouped = intervals(scores)["mse"]
    assert grouped.upper - grouped.lower == pytest.approx(single.upper - single.lower, rel=0.1)


@pytest.mark.parametrize("wrong", [0, 3, 50])
def test_a_share_of_independent_rows_has_wilsons_interval(wrong: int) -> None:
    values = np.ones(100)
    values[:wrong] = 0.0
    bounds = intervals(scores_from({"recall_at_1": values}, "recall_at_1"))["recall_at_1"]

    # Resamples without any error would say that it is never wrong.
    wilson = binomtest(100 - wrong, 100).proportion_ci(method="wilson")
    assert bounds == pytest.approx((wilson.low, wilson.high))


def test_groups_of_equal_rows_count_as_one_row_each() -> None:
    right = (np.arange(40) < 28).astype(float)
    single = scores_from({"recall_at_1": right}, "recall_at_1")
    grouped = scores_from({"recall_at_1": np.repeat(right, 5)}, "recall_at_1").identified(
        [{"cluster": str(row // 5)} for row in range(200)]
    )

    alone, together = (intervals(scores)["recall_at_1"] for scores in (single, grouped))

    # A little wider, for the t quantile and the divisor of 39 clusters.
    assert together == pytest.approx(alone, abs=0.01)
    assert together.lower < alone.lower and together.upper > alone.upper


def test_a_mean_of_values_in_between_has_the_interval_of_students_t() -> None:
    values = np.random.default_rng(0).uniform(0.2, 0.8, size=400)
    bounds = intervals(scores_from({"ndcg_at_10": values}, "ndcg_at_10"))["ndcg_at_10"]
    expected = student.interval(0.95, 399, values.mean(), values.std(ddof=1) / 20.0)
    assert bounds == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("hits", [20, 27, 30])
def test_precision_is_measured_by_the_best_that_occurs(hits: int) -> None:
    right = (np.arange(30) < hits).astype(float)
    name = "precision_at_10"
    # One right document each, so a tenth of the first ten at best.
    bounds = intervals(scores_from({name: right / 10.0}, name))[name]
    assert bounds.lower < hits / 300.0 <= bounds.upper <= 0.1 + 1e-12
    recall = intervals(scores_from({"recall_at_10": right}, "recall_at_10"))["recall_at_10"]
    assert bounds == pytest.approx((recall.lower / 10.0, recall.upper / 10.0))


@pytest.mark.parametrize("value", [0.3, 0.63])
def test_a_constant_between_0_and_1_has_no_interval(value: float) -> None:
    assert intervals(scores_from({"ndcg_at_10": np.full(50, value)}, "ndcg_at_10")) == {}


def test_a_constant_that_is_no_share_has_no_interval() -> None:
    assert intervals(scores_from({"mse": np.full(50, 0.3)}, "mse")) == {}


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_too_few_rows_have_no_interval(rows: int) -> None:
    scores = retrieval_scores(vectors(0, rows), vectors(1, 20), [[row] for row in range(rows)])
    assert intervals(scores) == {}


def test_all_ties_have_no_interval() -> None:
    same = np.tile(vectors(0, 1), (50, 1))
    scores = similarity_scores(same, same, np.arange(50.0))
    assert scores.metrics == {"spearman": 0.0, "pearson": 0.0}
    # All resamples agree that the correlation is 0: [0, 0] would sound certain.
    assert intervals(scores) == {}


def test_too_few_positive_pairs_have_no_interval_of_precision() -> None:
    gold = np.zeros(60)
    gold[:2] = 1.0
    scores = similarity_scores(vectors(0, 60), vectors(1, 60), gold)
    # Of 60 pairs, 2 are positive: one resample in seven has none of them.
    assert "average_precision" in scores.metrics
    assert "average_precision" not in intervals(scores)


def test_metrics_at_a_chosen_threshold_have_an_interval_for_new_pairs() -> None:
    gold = (np.arange(60) % 2).astype(float)
    # Nothing tells the pairs apart, so whatever a threshold seems to gain is chance.
    scores = similarity_scores(vectors(0, 60), vectors(1, 60), gold)

    bounds = intervals(scores)

    lower, upper = bounds["best_accuracy"]
    assert scores.metrics["best_accuracy"] > 0.55
    assert lower < 0.5 < upper and (lower + upper) / 2.0 < scores.metrics["best_accuracy"]
    assert bounds["best_f1"].upper < 1.0 and 0.0 < bounds["average_precision"].lower < 0.5


@pytest.mark.parametrize("positives", [4, 9, 19])
def test_classes_of_few_pairs_have_no_interval(positives: int) -> None:
    gold = (np.arange(60) < positives).astype(float)
    scores = similarity_scores(vectors(0, 60), vectors(1, 60), gold)
    assert {"average_precision", "best_f1", "best_accuracy"}.isdisjoint(intervals(scores))


def test_pairs_that_are_told_apart_perfectly_have_no_interval() -> None:
    gold = (np.arange(60) % 2).astype(float)
    first = np.eye(1, 2).repeat(60, axis=0)
    scores = similarity_scores(first, np.stack([gold, 1.0 - gold], axis=1), gold)
    assert scores.metrics["best_f1"] == 1.0
    assert "best_f1" not in intervals(scores) and "average_precision" not in intervals(scores)


def test_figures_name_bounds_and_thresholds_after_their_metric() -> None:
    gold = (np.arange(60) % 2).astype(float)
    scores = similarity_scores(vectors(0, 60), vectors(1, 60), gold)
    bounds = {"best_f1": Interval(0.5, 0.75)}

    figures = figures_with_bounds(scores, bounds)
    table = metric_table({"candidate": (scores, bounds), "reference": (scores, {})})

    assert (figures["best_f1/lower"], figures["best_f1/upper"]) == (0.5, 0.75)
    assert figures["best_f1/threshold"] == scores.thresholds["best_f1"]
    line = table[(table["metric"] == "best_f1") & (table["model"] == "candidate")].iloc[0]
    assert (line["label"], line["value"], line["lower"]) == ("best F1", figures["best_f1"], 0.5)
    assert len(table) == 2 * len(scores.metrics)
