import numpy as np
import pytest
from scipy.stats import (
    binomtest,
    friedmanchisquare,
    pearsonr,
    permutation_test,
    spearmanr,
    wilcoxon,
)

from tunetrail.evaluation.language_scores import language_scores
from tunetrail.evaluation.metric import Array
from tunetrail.evaluation.scores import Scores, scores_from
from tunetrail.evaluation.significance import (
    bonferroni_confidence,
    cohens_d,
    holm,
    mcnemar_p_value,
    permutation_p_value,
    rank_test,
)


def scored(values: Array, clusters: Array | None = None, metric: str = "ndcg_at_10") -> Scores:
    scores = scores_from({metric: np.asarray(values, dtype=np.float64)}, metric)
    names = None if clusters is None else list(map(str, clusters))
    return Scores(
        metric=metric, metrics=scores.metrics, per_example=scores.per_example, clusters=names
    )


def pairs_scored(cosine: Array, gold: Array, metric: str) -> Scores:
    return scores_from({"cosine": cosine, "gold": gold}, metric)


@pytest.mark.parametrize("rows", [2, 6, 9, 13])
def test_permutation_test_is_exact_and_equals_scipys(rows: int) -> None:
    generator = np.random.default_rng(rows)
    # Tenths, so that many permutations tie with what was observed.
    before, after = generator.integers(0, 11, size=(2, rows)) / 10.0

    own = permutation_p_value(scored(before), scored(after), permutations=2**13)

    result = permutation_test(
        (np.round(10.0 * (after - before)),),
        lambda differences, axis: differences.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    assert own == pytest.approx(result.pvalue, abs=1e-12)


def test_permutation_test_equals_scipys_with_random_swaps() -> None:
    generator = np.random.default_rng(0)
    before = generator.uniform(size=200)
    noise = generator.normal(scale=0.1, size=200)
    # A gain of 1.5 standard errors.
    after = before + noise - noise.mean() + 0.0106

    own = permutation_p_value(scored(before), scored(after), permutations=20_000)

    result = permutation_test(
        (after - before,),
        lambda differences, axis: differences.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        rng=np.random.default_rng(1),
    )
    # Both are twice the share of random swaps, whose standard error is 0.0018 at 0.067.
    assert 0.1 < result.pvalue < 0.17
    assert own == pytest.approx(result.pvalue, abs=0.02)


@pytest.mark.parametrize("metric", ["spearman", "pearson"])
def test_permutation_test_of_a_correlation_equals_scipys(metric: str) -> None:
    generator = np.random.default_rng(0)
    gold = np.repeat(np.arange(5.0), 2)
    before, after = gold + generator.normal(scale=(2.0, 1.0), size=(10, 2)).T

    own = permutation_p_value(pairs_scored(before, gold, metric), pairs_scored(after, gold, metric))

    correlation = {"spearman": spearmanr, "pearson": pearsonr}[metric]

    def difference(first: Array, second: Array) -> float:
        return float(correlation(second, gold)[0] - correlation(first, gold)[0])

    result = permutation_test(
        (before, after),
        difference,
        permutation_type="samples",
        vectorized=False,
        n_resamples=np.inf,
    )
    assert own == pytest.approx(result.pvalue, abs=1e-12)


def test_permutation_test_of_a_ratio_swaps_sums() -> None:
    generator = np.random.default_rng(0)
    tokens = generator.integers(5, 80, size=11)
    before, after = generator.uniform(1.0, 3.0, size=(2, 11)) * tokens

    own = permutation_p_value(
        language_scores(before, tokens, 4 * tokens), language_scores(after, tokens, 4 * tokens)
    )

    result = permutation_test(
        (before - after,),
        lambda differences, axis: differences.sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    assert own == pytest.approx(result.pvalue, abs=1e-12)


def test_permutation_test_swaps_whole_clusters() -> None:
    generator = np.random.default_rng(0)
    clusters = np.repeat(np.arange(8), 5)
    before = generator.uniform(size=40)
    after = before + np.repeat(generator.normal(0.1, 0.2, size=8), 5)

    by_cluster = permutation_p_value(scored(before, clusters), scored(after, clusters))
    by_row = permutation_p_value(scored(before), scored(after))

    sums = np.bincount(clusters, weights=after - before)
    result = permutation_test(
        (sums,),
        lambda differences, axis: differences.sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    assert by_cluster == pytest.approx(result.pvalue, abs=1e-12)
    # Rows of one cluster as independent evidence claim far too much.
    assert by_row < by_cluster / 2.0


def test_permutation_test_of_equal_models_is_one() -> None:
    values = np.linspace(0.0, 1.0, 50)
    assert permutation_p_value(scored(values), scored(values)) == 1.0
    assert permutation_p_value(scored([0.3]), scored([0.9])) == 1.0


def test_permutation_test_of_many_rows_finds_a_clear_gain() -> None:
    before = np.random.default_rng(0).uniform(size=3000)
    # The smallest p-value that 500 random swaps can give.
    p_value = permutation_p_value(scored(before), scored(before + 0.1), permutations=500)
    assert p_value == pytest.approx(2.0 / 501.0)


def test_permutation_test_has_its_level_under_the_null() -> None:
    generator = np.random.default_rng(0)
    clusters = np.arange(60) // 2
    p_values = []
    for seed in range(300):
        effects = np.repeat(generator.normal(size=30), 2) + generator.normal(size=60)
        before, after = scored(np.zeros(60), clusters), scored(effects, clusters)
        p_values.append(permutation_p_value(before, after, permutations=500, seed=seed))

    # 5 % of 300 with three standard errors.
    rejected = float((np.array(p_values) <= 0.05).mean())
    assert 0.01 <= rejected <= 0.09


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (6, 0), (9, 2), (30, 14)])
def test_mcnemar_equals_the_exact_binomial_test(gained: int, lost: int) -> None:
    before = np.array([0.0] * gained + [1.0] * lost + [1.0] * 5 + [0.0] * 3)
    after = np.array([1.0] * gained + [0.0] * lost + [1.0] * 5 + [0.0] * 3)

    p_value = mcnemar_p_value(
        scored(before, metric="recall_at_1"), scored(after, metric="recall_at_1")
    )

    expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert p_value == expected


def test_mcnemar_counts_a_cluster_once() -> None:
    # One group of 20 rows that all change says as much as a single row.
    clusters = np.zeros(20)
    before = scored(np.zeros(20), clusters, "recall_at_1")
    after = scored(np.ones(20), clusters, "recall_at_1")
    assert mcnemar_p_value(before, after) == 1.0


def test_mcnemar_is_only_for_right_and_wrong() -> None:
    assert mcnemar_p_value(scored([0.0, 0.5]), scored([1.0, 1.0])) is None
    gold = np.array([0.0, 1.0])
    correlations = pairs_scored(gold, gold, "spearman")
    assert mcnemar_p_value(correlations, correlations) is None


def test_cohens_d_is_the_mean_in_standard_deviations() -> None:
    differences = np.array([0.1, 0.3, -0.1, 0.2])
    assert cohens_d(differences) == pytest.approx(0.125 / np.std(differences, ddof=1))
    assert cohens_d(-differences) == pytest.approx(-0.125 / np.std(differences, ddof=1))


@pytest.mark.parametrize("differences", [[0.5], [0.0, 0.0, 0.0], [0.1 + 0.2, 0.3, 0.3]])
def test_cohens_d_of_equal_differences_is_undefined(differences: list[float]) -> None:
    assert cohens_d(np.array(differences)) is None


def test_holm_steps_down() -> None:
    # Sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2 and 0.04 x 1, which may not fall below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_rank_test_equals_scipys_friedman_and_demsars_table() -> None:
    values = np.random.default_rng(0).uniform(size=(4, 30)).round(1)

    result = rank_test(values, 0.95)

    assert result.p_value == friedmanchisquare(*values).pvalue
    assert sum(result.mean_ranks) == pytest.approx(10.0)
    # Demsar (2006), table 5: q is 2.569 for four models at 5 %.
    assert result.critical_difference == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 30)), abs=1e-3)


def test_rank_test_of_equal_models_finds_nothing() -> None:
    result = rank_test(np.tile(np.linspace(0.0, 1.0, 10), (3, 1)), 0.95)
    assert result.mean_ranks == (2.0, 2.0, 2.0) and result.p_value == 1.0


def test_permutation_test_agrees_with_wilcoxon_on_ranks() -> None:
    # Wilcoxon's signed-rank test is the permutation test of signed ranks.
    generator = np.random.default_rng(3)
    differences = generator.normal(0.5, 1.0, size=12)
    ranks = (np.argsort(np.argsort(np.abs(differences))) + 1.0) * np.sign(differences)

    own = permutation_p_value(scored(np.zeros(12)), scored(ranks))

    assert own == pytest.approx(wilcoxon(differences, method="exact").pvalue, abs=1e-12)


def test_confidence_of_an_interval_leaves_its_share_of_the_errors() -> None:
    assert bonferroni_confidence(0.95, 1.0) == pytest.approx(0.95)
    assert bonferroni_confidence(0.95, 7.0) == pytest.approx(1.0 - 0.05 / 7.0)
    assert bonferroni_confidence(0.9, 2.5) == pytest.approx(0.96)
