import numpy as np
import pytest

from tunetrail.config import GateConfig
from tunetrail.deployment.gate import decide
from tunetrail.evaluation.comparison import compare
from tunetrail.evaluation.looks import (
    SKETCH_SIZE,
    rows_sketch,
    shared_share,
)
from tunetrail.evaluation.scores import Scores
from tunetrail.evaluation.significance import bonferroni_confidence


def sketch_of(rows: range) -> list[str]:
    return rows_sketch([f"question {row}", f"answer {row}"] for row in rows)


def test_sketch_depends_on_the_texts_and_not_on_their_order() -> None:
    assert sketch_of(range(50)) == sketch_of(range(50)[::-1])
    assert rows_sketch([["a", "b"]]) != rows_sketch([["ab"]]) != rows_sketch([["b", "a"]])


def test_shared_share_of_small_sides_is_exact() -> None:
    today = sketch_of(range(100))

    assert shared_share(today, today) == 1.0
    assert shared_share(today, sketch_of(range(75, 300))) == 0.25
    assert shared_share(today, sketch_of(range(100, 200))) == 0.0


@pytest.mark.parametrize(
    ("today", "earlier", "share"),
    [
        (range(40_000), range(20_000, 60_000), 0.5),
        # Today's side is far larger, or far smaller, than the earlier one.
        (range(40_000), range(2_000), 0.05),
        (range(1_000), range(500, 10_000), 0.5),
    ],
)
def test_shared_share_of_large_sides_is_near_the_truth(
    today: range, earlier: range, share: float
) -> None:
    estimate = shared_share(sketch_of(today), sketch_of(earlier))
    assert estimate == pytest.approx(share, abs=0.12)


def test_sketch_is_bounded() -> None:
    assert len(sketch_of(range(5_000))) == SKETCH_SIZE


def test_shared_share_of_nothing_is_nothing() -> None:
    assert shared_share([], sketch_of(range(3))) == shared_share(sketch_of(range(3)), []) == 0.0


def trainings_move_root(generator: np.random.Generator, trainings: int, *, corrected: bool) -> bool:
    """Judge equal candidates by the same 200 rows, and tell whether one becomes root."""

    def scores_of(values: np.ndarray) -> Scores:
        values = np.clip(values, 0.0, 1.0)
        return Scores(
            metric="ndcg_at_10",
            metrics={"ndcg_at_10": float(values.mean())},
            per_example={"ndcg_at_10": values},
        )

    # Root without luck of its own: a lucky one would be hard to beat, and hide the fault.
    difficulty = generator.uniform(0.3, 0.7, size=200)
    root = scores_of(difficulty)
    for look in range(1, trainings + 1):
        candidate = scores_of(difficulty + generator.normal(0.0, 0.12, size=200))
        confidence = bonferroni_confidence(0.95, look if corrected else 1.0)
        seed = int(generator.integers(2**31))
        comparison = compare(
            root, candidate, bootstrap_samples=2000, confidence=confidence, seed=seed
        )
        if decide(comparison, GateConfig()).promote:
            return True
    return False


@pytest.mark.slow
def test_fifty_equal_trainings_move_root_in_at_most_a_tenth_of_the_cases() -> None:
    generator = np.random.default_rng(0)
    repetitions = 150

    moved = {}
    for corrected in (True, False):
        outcomes = [
            trainings_move_root(generator, 50, corrected=corrected) for _ in range(repetitions)
        ]
        moved[corrected] = sum(outcomes) / repetitions

    # Two standard errors of a share of a tenth: 5 points.
    assert moved[True] <= 0.10 + 0.05
    # What the correction is for.
    assert moved[False] >= 0.4
