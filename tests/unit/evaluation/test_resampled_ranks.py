import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from tunetrail.evaluation.metrics import metric_named
from tunetrail.evaluation.resampled_ranks import rank_moments


def tied_and_untied(rows: int) -> dict[str, np.ndarray]:
    """Cosines with few ties, and gold scores in fifths that follow them."""
    generator = np.random.default_rng(rows)
    cosine = np.round(generator.normal(size=rows), 3)
    gold = np.floor(5.0 * rankdata(cosine + generator.normal(size=rows)) / (rows + 1))
    return {"cosine": cosine, "gold": gold}


@pytest.mark.parametrize("rows", [2, 3, 63, 64, 65, 130, 1000])
def test_correlations_of_resamples_equal_those_of_scipy(rows: int) -> None:
    values = tied_and_untied(rows)
    generator = np.random.default_rng(0)
    # Groups of one to three rows, in an order of their own.
    cluster_of = generator.permutation(np.arange(rows) // 2 + np.arange(rows) % 2 * (rows // 4))
    _, cluster_of = np.unique(cluster_of, return_inverse=True)
    clusters = int(cluster_of.max()) + 1
    counts = generator.multinomial(clusters, np.full(clusters, 1.0 / clusters), size=40)

    correlations = metric_named("spearman").resampler(values, cluster_of)(counts.astype(np.float64))

    for drawn, correlation in zip(counts, correlations, strict=True):
        resample = np.repeat(np.arange(rows), drawn[cluster_of])
        cosine, gold = values["cosine"][resample], values["gold"][resample]
        # scipy has no correlation of a constant side; ours is 0.
        constant = np.ptp(cosine) == 0.0 or np.ptp(gold) == 0.0
        expected = 0.0 if constant else spearmanr(cosine, gold).statistic
        assert correlation == pytest.approx(expected, abs=1e-12)


def test_blocks_of_any_height_give_the_same_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    values, cluster_of = tied_and_untied(100), np.arange(100)
    counts = np.random.default_rng(1).integers(0, 4, size=(50, 100)).astype(np.float64)
    sides = values["cosine"], values["gold"]

    whole = rank_moments(*sides, cluster_of)(counts)

    # Seven resamples at a time: the last block has one.
    monkeypatch.setattr("tunetrail.evaluation.resampled_ranks._CELLS_AT_ONCE", 700)
    blocks = rank_moments(*sides, cluster_of)(counts)
    assert all(map(np.array_equal, whole, blocks))


def test_sums_are_the_ranks_moments_without_rounding() -> None:
    generator = np.random.default_rng(2)
    first, second = generator.normal(size=3000), generator.normal(size=3000)

    products, first_squares, second_squares = rank_moments(first, second, np.arange(3000))(
        np.ones((1, 3000))
    )

    first_ranks, second_ranks = (
        (2.0 * rankdata(side) - 3001.0).astype(np.int64) for side in (first, second)
    )
    assert products[0] == (first_ranks * second_ranks).sum()
    assert first_squares[0] == second_squares[0] == (first_ranks**2).sum()


def test_resamples_of_many_pairs_follow_scipy_to_first_order() -> None:
    values = tied_and_untied(6000)
    whole = spearmanr(values["cosine"], values["gold"]).statistic
    rows = np.arange(6000)
    counts = np.random.default_rng(0).multinomial(6000, np.full(6000, 1.0 / 6000), size=30)

    resample = metric_named("spearman").resampler(values, rows)
    exact = [
        spearmanr(values["cosine"][drawn], values["gold"][drawn]).statistic
        for drawn in map(rows.repeat, counts)
    ]

    assert resample(np.ones((1, 6000)))[0] == pytest.approx(whole, abs=1e-12)
    assert np.abs(resample(counts.astype(np.float64)) - exact).max() < 0.3 * np.std(exact)
