import numpy as np
import pytest

from tunetrail.evaluation.mean_intervals import ClusteredMean


def skewed_values(rows: int) -> np.ndarray:
    return np.random.default_rng(0).lognormal(size=rows)


def test_t_of_independent_rows_is_that_of_the_drawn_values() -> None:
    values = skewed_values(30)
    drawn = np.random.default_rng(1).integers(30, size=(200, 30))
    counts = np.stack([np.bincount(rows, minlength=30) for rows in drawn]).astype(float)

    statistics = ClusteredMean.of(values, np.arange(30)).t_statistics(counts)

    # A resample's mean is compared with that of the sample, by the resample's own deviation.
    samples = values[drawn]
    errors = samples.std(axis=1, ddof=1) / np.sqrt(30)
    assert statistics == pytest.approx((samples.mean(axis=1) - values.mean()) / errors)


def test_rows_of_a_group_count_once() -> None:
    values = skewed_values(20)
    counts = np.random.default_rng(1).multinomial(20, np.full(20, 0.05), size=100).astype(float)

    single = ClusteredMean.of(values, np.arange(20))
    tripled = ClusteredMean.of(np.repeat(values, 3), np.repeat(np.arange(20), 3))

    assert tripled.t_statistics(counts) == pytest.approx(single.t_statistics(counts))


def test_the_bounds_are_the_outer_t_statistics_in_standard_errors() -> None:
    values = skewed_values(40)
    statistics = np.linspace(-2.0, 2.0, 1001)

    lower, upper = ClusteredMean.of(values, np.arange(40)).interval(statistics, 0.95)

    error = values.std(ddof=1) / np.sqrt(40)
    assert lower == pytest.approx(values.mean() - 1.9 * error)
    assert upper == pytest.approx(values.mean() + 1.9 * error)


def test_the_interval_of_a_skewed_mean_reaches_further_to_the_long_tail() -> None:
    values = skewed_values(40)
    counts = np.random.default_rng(1).multinomial(40, np.full(40, 0.025), size=4000).astype(float)
    mean = ClusteredMean.of(values, np.arange(40))

    lower, upper = mean.interval(mean.t_statistics(counts), 0.95)

    assert upper - mean.mean > 1.3 * (mean.mean - lower)


def test_a_resample_of_equal_clusters_is_infinitely_far() -> None:
    values = np.array([0.0, 1.0, 2.0])
    counts = np.array([[0.0, 0.0, 3.0], [3.0, 0.0, 0.0]])
    assert ClusteredMean.of(values, np.arange(3)).t_statistics(counts).tolist() == [np.inf, -np.inf]
