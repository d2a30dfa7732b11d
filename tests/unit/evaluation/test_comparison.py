import dataclasses
import json
import math

import numpy as np
import pytest
from scipy.stats import norm, t

from tunetrail.evaluation.comparison import Comparison, compare
from tunetrail.evaluation.language_scores import language_scores
from tunetrail.evaluation.metric import Array
from tunetrail.evaluation.metrics import metric_named
from tunetrail.evaluation.scores import Scores, similarity_scores, vector_scores


def scored(values: Array) -> Scores:
    per_example = {"ndcg_at_10": np.asarray(values, dtype=np.float64)}
    return Scores(
        metric="ndcg_at_10",
        metrics={"ndcg_at_10": float(np.mean(values))},
        per_example=per_example,
    )


def language(nats: Array) -> Scores:
    return language_scores(nats, np.full(len(nats), 10), np.full(len(nats), 40))


OPTIONS = {"bootstrap_samples": 1000, "confidence": 0.95, "seed": 0}


def test_compare_signs_the_improvement_so_that_positive_is_better() -> None:
    generator = np.random.default_rng(0)
    values = generator.uniform(size=100)

    up = compare(scored(values), scored(values + 0.1), **OPTIONS)

    assert up.improvement == pytest.approx(0.1) and up.lower == pytest.approx(0.1) == up.upper
    assert (up.better_share, up.worse_share) == (1.0, 0.0)

    nats = generator.uniform(20, 40, size=100)
    down = compare(language(nats), language(nats * 0.9), **OPTIONS)
    assert not down.higher_is_better and down.after < down.before
    assert 0.0 < down.lower < down.improvement < down.upper
    assert (down.better_share, down.worse_share) == (1.0, 0.0)

    json.dumps(down.to_dict(), allow_nan=False)


def test_compare_of_a_model_with_itself_is_exactly_no_change() -> None:
    same = scored(np.random.default_rng(0).uniform(size=50))
    result = compare(same, same, **OPTIONS)
    assert (result.improvement, result.lower, result.upper) == (0.0, None, None)
    assert result.differing == 0 and result.interval_in_words == "no row changed"
    # 1 - 0.05^(1/50): of rows of which more change, one would have been among 50.
    assert result.change_bound == pytest.approx(1.0 - 0.05 ** (1 / 50))
    assert (result.better_share, result.worse_share) == (0.0, 0.0)


def test_compare_turned_round_mirrors_the_interval() -> None:
    generator = np.random.default_rng(0)
    a, b = scored(generator.uniform(size=60)), scored(generator.uniform(size=60))

    forth, back = compare(a, b, **OPTIONS), compare(b, a, **OPTIONS)

    assert (back.improvement, back.lower, back.upper) == pytest.approx(
        (-forth.improvement, -forth.upper, -forth.lower)
    )


def test_compare_uses_the_pairing() -> None:
    generator = np.random.default_rng(0)
    base = generator.uniform(size=200)
    after = base + 0.02 + generator.normal(scale=0.02, size=200)
    paired = compare(scored(base), scored(after), **OPTIONS)

    unpaired = compare(scored(base), scored(generator.permutation(after)), **OPTIONS)

    assert paired.lower > 0.0 > unpaired.lower


@pytest.mark.parametrize("examples", [8, 30, 200])
def test_compare_covers_the_null_about_as_often_as_it_says(examples: int) -> None:
    generator = np.random.default_rng(examples)
    covered = 0

    for seed in range(300):
        base = generator.uniform(size=examples)
        noisy = base + generator.normal(scale=0.1, size=examples)
        result = compare(
            scored(base), scored(noisy), bootstrap_samples=400, confidence=0.9, seed=seed
        )
        covered += result.lower <= 0.0 <= result.upper

    assert 0.85 <= covered / 300 <= 0.95


def test_compare_resamples_spearman_and_ratios() -> None:
    generator = np.random.default_rng(0)
    a, gold = generator.normal(size=(80, 8)), np.linspace(0, 1, 80)
    exact = np.stack([np.cos(1 - gold), np.sin(1 - gold)], axis=1)
    poor, good = (
        similarity_scores(a, a[::-1], gold),
        similarity_scores(np.tile([1.0, 0.0], (80, 1)), exact, gold),
    )

    result = compare(poor, good, **OPTIONS)

    assert result.lower > 0.0 and result.better_share is None and result.worse_share is None
    assert result.after == pytest.approx(1.0)


def test_compare_in_blocks_covers_all_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    a, b = (
        vector_scores(*generator.normal(size=(2, 40, 4))),
        vector_scores(*generator.normal(size=(2, 40, 4))),
    )

    whole = compare(a, b, **OPTIONS)

    monkeypatch.setattr("tunetrail.evaluation.resampling._CELLS_AT_ONCE", 1700)
    assert compare(a, b, **OPTIONS) == whole


@pytest.mark.parametrize(
    ("examples", "confidence", "bounded"),
    [(1, 0.95, False), (5, 0.95, False), (6, 0.95, True), (5, 0.9, True)],
)
def test_compare_gives_no_interval_that_chance_could_reach(
    examples: int, confidence: float, bounded: bool
) -> None:
    values = np.linspace(0, 1, examples)
    result = compare(
        scored(values), scored(values + 0.5), bootstrap_samples=100, confidence=confidence, seed=0
    )

    assert (result.lower is not None) == (result.upper is not None) == bounded
    assert (result.to_dict()["lower"] is not None) == bounded
    assert Comparison.from_dict({**result.to_dict(), "against": "base"}) == result

    json.dumps(result.to_dict(), allow_nan=False)


def test_compare_refuses_scores_that_do_not_pair() -> None:
    with pytest.raises(ValueError, match="examples must be the same before and after, got 3 and 4"):
        compare(scored(np.ones(3)), scored(np.ones(4)), **OPTIONS)
    with pytest.raises(
        ValueError,
        match="metric must be the same before and after, got ndcg_at_10 and bits_per_byte",
    ):
        compare(scored(np.ones(3)), language(np.ones(3)), **OPTIONS)


def test_compare_refuses_scores_of_other_rows() -> None:
    first = scored(np.ones(2)).identified([{"row_id": 1}, {"row_id": 2}])
    second = scored(np.ones(2)).identified([{"row_id": 1}, {"row_id": 3}])

    assert compare(first, first, **OPTIONS).examples == 2
    with pytest.raises(ValueError, match="row_ids must be the same before and after"):
        compare(first, second, **OPTIONS)


def test_compare_resamples_whole_clusters() -> None:
    generator = np.random.default_rng(0)
    effects = np.repeat(
        generator.normal(0.05, 0.2, size=12), 20
    )  # 12 groups of 20 rows that move together
    before = language_scores(np.full(240, 2.0), np.full(240, 1), np.full(240, 1))
    after = language_scores(2.0 - effects, np.full(240, 1), np.full(240, 1))
    clusters = [str(index // 20) for index in range(240)]
    settings = {"bootstrap_samples": 1000, "confidence": 0.95, "seed": 0}
    plain = compare(before, after, **settings)

    clustered = compare(before, dataclasses.replace(after, clusters=clusters), **settings)

    assert clustered.improvement == plain.improvement
    assert clustered.upper - clustered.lower > 3 * (plain.upper - plain.lower)


def loop_over_draws(before: Scores, after: Scores, samples: int, seed: int) -> list[float]:
    """Return the differences on resamples of whole clusters, one after the other."""
    generator = np.random.default_rng(seed)
    names, cluster_of = np.unique(np.asarray(after.clusters), return_inverse=True)
    members = [np.flatnonzero(cluster_of == cluster) for cluster in range(len(names))]
    drawn = generator.integers(len(names), size=(samples, len(names)), dtype=np.uint32)

    differences = []
    for clusters in drawn:
        indices = np.concatenate([members[cluster] for cluster in clusters])
        differences.append(after.statistic(indices) - before.statistic(indices))
    return differences


def pairs_of_scores() -> dict[str, tuple[Scores, Scores]]:
    generator = np.random.default_rng(3)
    values = generator.uniform(size=90)
    vectors, gold = generator.normal(size=(90, 8)), np.round(generator.uniform(size=90), 1)
    tokens = generator.integers(1, 30, size=90)
    nats = generator.uniform(1.0, 40.0, size=90)

    def correlated(noise: float) -> Scores:
        moved = vectors + noise * generator.normal(size=vectors.shape)
        return similarity_scores(vectors, moved, gold)

    spearman = correlated(1.0), correlated(0.2)
    return {
        "mean": (scored(values), scored(values + generator.normal(scale=0.1, size=90))),
        "ratio": (
            language_scores(nats, tokens, 4 * tokens),
            language_scores(nats * 0.9, tokens, 4 * tokens),
        ),
        "spearman": spearman,
        "pearson": tuple(dataclasses.replace(scores, metric="pearson") for scores in spearman),
    }


@pytest.mark.parametrize("kind", ["mean", "ratio", "spearman", "pearson"])
@pytest.mark.parametrize("clusters", [90, 14])
def test_bounds_equal_those_of_a_loop_over_the_same_draws(kind: str, clusters: int) -> None:
    before, after = pairs_of_scores()[kind]
    names = [str(row % clusters) for row in range(90)]
    after = dataclasses.replace(after, clusters=names)

    result = compare(before, after, bootstrap_samples=400, confidence=0.95, seed=5)

    sign = 1.0 if after.higher_is_better else -1.0
    differences = sign * np.array(loop_over_draws(before, after, 400, 5))
    tail = float(norm.cdf(math.sqrt(clusters / (clusters - 1)) * t.ppf(0.025, clusters - 1)))
    expected = np.quantile(differences, (tail, 1.0 - tail))
    assert (result.lower, result.upper) == pytest.approx(tuple(expected), abs=1e-12)


def test_clusters_that_do_not_differ_are_no_evidence() -> None:
    """Four wins and no loss are promoted at no number of rows: McNemar's exact p is 0.0625."""
    for rows in (20, 300, 3000):
        values = np.zeros(rows)
        won = values.copy()
        won[:4] = 1.0

        result = compare(scored(values), scored(won), **OPTIONS)

        assert result.lower is None and result.differing == 4
        assert result.interval_in_words == "4 rows changed"


def test_detectable_gain_is_found_in_four_of_five_tests() -> None:
    generator = np.random.default_rng(0)
    base = generator.uniform(size=100)

    noise = generator.normal(scale=0.1, size=100)
    gain = compare(scored(base), scored(base + noise), **OPTIONS).detectable_gain
    assert gain is not None

    found = 0
    for seed in range(200):
        after = base + gain + generator.normal(scale=0.1, size=100)
        options = {**OPTIONS, "bootstrap_samples": 400, "seed": seed}
        result = compare(scored(base), scored(after), **options)
        found += result.lower is not None and result.lower > 0.0
    assert 0.7 <= found / 200 <= 0.9


def test_a_row_that_holds_a_tenth_of_the_bytes_is_warned_of() -> None:
    sizes = np.full(20, 40)
    sizes[3] = 400

    before = language_scores(np.full(20, 9.0), np.full(20, 10), sizes)
    after = language_scores(np.full(20, 8.0), np.full(20, 10), sizes)

    warning = compare(before, after, **OPTIONS).warning
    assert warning is not None and "one of 20 test rows holds 34% of the bytes" in warning
    even = language(np.full(20, 9.0)), language(np.full(20, 8.0))
    assert compare(*even, **OPTIONS).warning is None


def test_many_clusters_take_no_loop() -> None:
    generator = np.random.default_rng(0)
    values = generator.uniform(size=20_000)
    clusters = [str(row % 15_000) for row in range(20_000)]
    after = scored(values + generator.normal(scale=0.1, size=20_000))

    result = compare(
        scored(values),
        dataclasses.replace(after, clusters=clusters),
        bootstrap_samples=1_000,
        confidence=0.95,
        seed=0,
    )

    assert result.lower is not None and result.upper is not None
    assert result.lower < result.improvement < result.upper


@pytest.mark.parametrize("name", ["spearman", "pearson"])
def test_a_correlation_of_a_resample_with_one_value_only_is_zero(name: str) -> None:
    cosine, gold = np.array([0.1, 0.7, 0.7 + 1e-7]), np.array([0.0, 1.0, 2.0])
    counts = np.array([[3.0, 0.0, 0.0], [1.0, 2.0, 0.0]])

    function = metric_named(name).resampler({"cosine": cosine, "gold": gold}, np.arange(3))

    assert function(counts) == pytest.approx([0.0, 1.0])


def test_compare_counts_no_group_whose_changes_cancel_out() -> None:
    before, after = np.full(60, 0.3), np.full(60, 0.3)
    # 20 groups of three rows: ten win, ten win and lose as much.
    after[0:30:3] += 0.1
    after[30:60:3] += 0.1
    after[31:60:3] -= 0.1
    clusters = [str(row // 3) for row in range(60)]
    first, second = (
        dataclasses.replace(scored(values), clusters=clusters) for values in (before, after)
    )

    result = compare(first, second, **OPTIONS)

    assert (result.differing, result.clusters, result.unit) == (10, 20, "group")


def test_comparisons_of_older_versions_can_be_read() -> None:
    older = {
        "metric": "ndcg_at_10",
        "before": 0.5,
        "after": 0.6,
        "improvement": 0.1,
        "lower": None,
        "upper": None,
        "confidence": 0.95,
        "examples": 4,
        "bootstrap_samples": 2000,
        "better_share": 0.5,
        "worse_share": 0.0,
        "clusters": None,
        "higher_is_better": True,
        "against": "base",
    }

    comparison = Comparison.from_dict(older)

    assert (comparison.lower, comparison.differing, comparison.change_bound) == (None, None, None)
    assert comparison.interval_in_words == "too few rows"
    assert comparison.why_no_interval == "too few examples for an interval"
    figures = {"before", "after", "improvement", "confidence", "look"}
    assert set(comparison.figures) == figures


def test_a_reason_without_an_interval_names_the_confidence_of_a_later_look() -> None:
    same = scored(np.linspace(0.0, 1.0, 50))
    result = compare(same, same, bootstrap_samples=100, confidence=1.0 - 0.05 / 7, seed=0)
    assert str(result.why_no_interval).endswith("(99.3% bound)")
