"""How often the interval of a comparison holds the true difference: the table of experiments/README.md.

`pytest -m slow -s tests/slow/test_interval_coverage.py` prints it.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from tunetrail.evaluation.comparison import POWER, Comparison, compare
from tunetrail.evaluation.language_scores import language_scores
from tunetrail.evaluation.metric import Array, Floats
from tunetrail.evaluation.scores import Scores, scores_from

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

DATA_SETS = 2000
"""The standard error of a coverage of 95 % is then 0.5 points."""

Draw = Callable[[np.random.Generator, Array], tuple[Scores, Scores]]


def effects(generator: np.random.Generator, group_of: Array, scale: float) -> Floats:
    """Normal effects of which rows of one group share half of the variance, [rows]."""
    shared = generator.normal(size=int(group_of.max()) + 1)[group_of]
    return scale * (shared + generator.normal(size=len(group_of))) / np.sqrt(2.0)


def means(generator: np.random.Generator, group_of: Array) -> tuple[Scores, Scores]:
    """Two equal models by a mean of per-row values."""
    base = generator.uniform(size=len(group_of))
    after = base + effects(generator, group_of, 0.1)
    before, after = (scores_from({"ndcg_at_10": side}, "ndcg_at_10") for side in (base, after))
    return before, after


def ratios(generator: np.random.Generator, group_of: Array) -> tuple[Scores, Scores]:
    """Two equal models by bits per byte, texts of lengths as in the demo (sigma 0.5)."""
    sizes = np.ceil(200.0 * generator.lognormal(0.0, 0.5, len(group_of)))
    rates = generator.uniform(0.5, 1.0, len(group_of))
    changed = rates + effects(generator, group_of, 0.05)
    before, after = (language_scores(side * sizes, sizes, sizes) for side in (rates, changed))
    return before, after


def correlations(generator: np.random.Generator, group_of: Array) -> tuple[Scores, Scores]:
    """Two equal models by Spearman's correlation with gold scores in fifths."""
    truth = effects(generator, group_of, 1.0)
    gold = np.floor(5.0 * truth.argsort().argsort() / len(truth))
    sides = [truth + effects(generator, group_of, 0.7) for _ in range(2)]
    before, after = (scores_from({"cosine": side, "gold": gold}, "spearman") for side in sides)
    return before, after


def comparisons(draw: Draw, rows: int, grouped: bool, gain: float = 0.0) -> Iterator[Comparison]:
    generator = np.random.default_rng(rows)
    # Groups of one row and of two in turn: 20 of 30 rows, the fewest that the gate decides by.
    group_of = np.arange(rows) * 2 // 3 if grouped else np.arange(rows)
    for seed in range(DATA_SETS):
        before, after = draw(generator, group_of)
        if gain:
            values = after.per_example["ndcg_at_10"] + gain
            after = scores_from({"ndcg_at_10": values}, "ndcg_at_10")
        if grouped:
            clusters = list(map(str, group_of))
            before, after = (
                dataclasses.replace(scores, clusters=clusters) for scores in (before, after)
            )
        yield compare(before, after, bootstrap_samples=1000, confidence=0.95, seed=seed)


@pytest.mark.parametrize("grouped", [False, True], ids=["independent", "grouped"])
@pytest.mark.parametrize("rows", [30, 100, 300])
@pytest.mark.parametrize("draw", [means, ratios, correlations])
def test_intervals_of_equal_models_hold_no_difference_in_93_to_97_percent(
    draw: Draw, rows: int, grouped: bool
) -> None:
    covered = [
        result.lower <= 0.0 <= result.upper
        for result in comparisons(draw, rows, grouped)
        if result.lower is not None and result.upper is not None
    ]

    coverage = float(np.mean(covered))
    kind = "grouped" if grouped else "independent"
    print(f"{draw.__name__} {rows} rows, {kind}: {coverage:.1%}")
    assert len(covered) == DATA_SETS and 0.93 <= coverage <= 0.97


@pytest.mark.parametrize("grouped", [False, True])
def test_the_smallest_detectable_gain_is_found_in_four_of_five_tests(grouped: bool) -> None:
    rows = 100
    gains = [result.detectable_gain for result in comparisons(means, rows, grouped)]
    gain = float(np.mean([gain for gain in gains if gain is not None]))

    found = [
        result.lower is not None and result.lower > 0.0
        for result in comparisons(means, rows, grouped, gain)
    ]

    print(f"gain {gain:.4f} is found in {np.mean(found):.1%} of tests with {rows} rows")
    assert np.mean(found) == pytest.approx(POWER, abs=0.05)
