"""How often intervals hold the true value: what the simulations of this folder share."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np
from scipy.interpolate import CubicSpline

from tunetrail.evaluation.intervals import metric_intervals
from tunetrail.evaluation.metric import Array
from tunetrail.evaluation.scores import Scores

Draw = Callable[[np.random.Generator, Array, float], Scores]
"""Takes a generator, the group of each row, and how good the model is, from 0 to 1; returns its
scores on drawn rows."""

LEVELS = np.linspace(0.0, 1.0, 9)
ROWS_OF_TRUTH = 100_000


def groups_of(rows: int, grouped: bool) -> Array:
    """Return groups of two rows and of one in turn, or each row for itself.

    30 rows are 20 groups, the fewest that the gate decides by.
    """
    return np.arange(rows) * 2 // 3 if grouped else np.arange(rows)


def normal(generator: np.random.Generator, group_of: Array, columns: int) -> Array:
    """Return standard normal values [rows, columns]; rows of a group share half of the variance."""
    shared = generator.normal(size=(int(group_of.max()) + 1, columns))[group_of]
    own = generator.normal(size=(len(group_of), columns))
    is_alone = np.bincount(group_of)[group_of] == 1
    return np.where(is_alone[:, np.newaxis], own, (shared + own) / np.sqrt(2.0))


@functools.cache
def true_metrics(draw: Draw) -> Mapping[str, CubicSpline]:
    """Return each metric as a function of how good the model is, from many rows."""
    alone = np.arange(ROWS_OF_TRUTH)
    # The same rows at each level, so that chance doesn't bend the curve.
    metrics = [draw(np.random.default_rng(99), alone, level).metrics for level in LEVELS]
    return {name: CubicSpline(LEVELS, [values[name] for values in metrics]) for name in metrics[0]}


def check_metrics(draw: Draw, rows: int, grouped: bool, data_sets: int) -> None:
    """Draw data sets, print how often the interval of each metric holds its true value, and check.

    Each data set has a model of its own, better or worse. With a single one, the coverage of a
    share would be that of this very share: with 30 rows, Wilson's interval holds 0.882 in 91.6 %
    and 0.9 in 97.5 %, as any interval of a count jumps from one share to the next (Brown, Cai and
    DasGupta 2001, who therefore compare intervals by the mean over shares).

    Args:
        draw: Draws the scores of a data set.
        rows: Rows of a data set.
        grouped: Whether rows come in groups.
        data_sets: Number of data sets.
    """
    truth = true_metrics(draw)
    # Another seed for each cell, so that cells don't err together.
    generator = np.random.default_rng([rows, grouped])
    group_of = groups_of(rows, grouped)
    covered: dict[str, list[bool]] = {}

    for seed in range(data_sets):
        level = generator.random()
        scores = draw(generator, group_of, level)
        if grouped:
            scores = dataclasses.replace(scores, clusters=list(map(str, group_of)))
        intervals = metric_intervals(scores, bootstrap_samples=1000, confidence=0.95, seed=seed)
        for name, (lower, upper) in intervals.items():
            covered.setdefault(name, []).append(bool(lower <= truth[name](level) <= upper))
    check_coverage(covered, rows, grouped)


def check_coverage(covered: Mapping[str, list[bool]], rows: int, grouped: bool) -> None:
    """Print the coverage of each metric with its standard error, and check it: 93 to 97 %.

    A simulated coverage is off by its Monte Carlo error, of which two standard errors are allowed:
    1 point of 2,000 data sets.
    """
    kind = "grouped" if grouped else "independent"
    failed = []
    for name, holds in covered.items():
        coverage, error = float(np.mean(holds)), float(np.sqrt(0.95 * 0.05 / len(holds)))
        line = f"{name}, {rows} rows, {kind}: {coverage:.1%} +- {error:.1%} of {len(holds)}"
        print(f"\n{line}", end="")
        # Of a few data sets that happen to have an interval, the share says nothing.
        if len(holds) >= 200 and not 0.93 - 2.0 * error <= coverage <= 0.97 + 2.0 * error:
            failed.append(line)
    assert not failed
