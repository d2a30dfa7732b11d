"""A candidate's change on each earlier session: its rows, its confidence, and which loss counts."""

from dataclasses import replace

import numpy as np
import pytest

from tunetrail.evaluation.comparison import compare
from tunetrail.evaluation.forgetting import compare_by_session, worst_loss
from tunetrail.evaluation.scores import Scores, scores_from

ROWS = 300
SESSIONS = ("a", "b", "c")
SESSION_OF_ROW = {row: SESSIONS[row % 3] for row in range(ROWS)}


def scores(losses: dict[str, float] | None = None, seed: int = 0) -> Scores:
    """Scores of a model that is worse by that much on the rows of some sessions."""
    drawn = np.random.default_rng(seed).normal(0.6, 0.1, ROWS)
    for row, session in SESSION_OF_ROW.items():
        drawn[row] -= (losses or {}).get(session, 0.0)
    per_example = {"cosine_to_target": drawn, "mse": 1.0 - drawn}
    records = [{"row_id": row, "cluster": f"cluster {row // 2}"} for row in range(ROWS)]
    return scores_from(per_example, "cosine_to_target", "mse").identified(records)


def by_session(losses: dict[str, float], noise_seed: int = 1) -> dict:
    after = scores(losses)
    noise = np.random.default_rng(noise_seed).normal(0.0, 0.02, ROWS)
    after.per_example["cosine_to_target"] += noise
    return compare_by_session(
        scores(), after, SESSION_OF_ROW, bootstrap_samples=500, confidence=0.95, seed=0
    )


def test_each_session_is_compared_on_its_own_rows() -> None:
    comparisons = by_session({"b": 0.1, "c": -0.05})

    assert list(comparisons) == list(SESSIONS)
    changes = [comparison.improvement for comparison in comparisons.values()]
    assert changes == pytest.approx([0.0, -0.1, 0.05], abs=0.01)
    assert [comparison.rows_in_words for comparison in comparisons.values()] == [
        "100 of 100 test rows"
    ] * 3
    assert {comparison.confidence for comparison in comparisons.values()} == {1 - 0.05 / 3}


def test_one_session_is_compared_like_any_rows() -> None:
    before, after = scores(), scores({"a": 0.2, "c": 0.1})
    sessions = dict.fromkeys(range(ROWS), "only")

    comparisons = compare_by_session(
        before, after, sessions, bootstrap_samples=500, confidence=0.95, seed=3
    )

    expected = compare(before, after, bootstrap_samples=500, confidence=0.95, seed=3)
    assert comparisons == {"only": replace(expected, scored_rows=ROWS, side_rows=ROWS)}


def test_each_session_says_of_how_many_rows_its_scores_are() -> None:
    before, after = (scores(seed=seed).of_side(ROWS) for seed in (0, 1))
    # Five rows of the first session can't be scored, and three of the second one were learnt.
    sessions = SESSION_OF_ROW | dict.fromkeys(range(ROWS, ROWS + 5), "a")
    sessions |= dict.fromkeys(range(ROWS + 5, ROWS + 8), "b")

    comparisons = compare_by_session(
        before,
        after,
        sessions,
        left_out=range(ROWS + 5, ROWS + 8),
        bootstrap_samples=100,
        confidence=0.95,
        seed=0,
    )

    assert {name: comparison.rows_in_words for name, comparison in comparisons.items()} == {
        "a": "100 of 105 test rows",
        "b": "100 of 103 test rows (3 left out, as root knows near-duplicates)",
        "c": "100 of 100 test rows",
    }


def test_rows_with_equal_anchors_are_all_counted() -> None:
    # Each example of the scores stands for two rows.
    before, after = (replace(scores(seed=seed), scored_rows=2 * ROWS) for seed in (0, 1))
    further = {row + ROWS: session for row, session in SESSION_OF_ROW.items()}

    comparisons = compare_by_session(
        before, after, SESSION_OF_ROW | further, bootstrap_samples=100, confidence=0.95, seed=0
    )

    assert [comparison.rows_in_words for comparison in comparisons.values()] == [
        "200 of 200 test rows (100 queries)"
    ] * 3


@pytest.mark.parametrize(
    ("losses", "margin", "session"),
    [
        ({"b": 0.1, "c": 0.05}, 0.02, "b"),
        ({"b": 0.05, "c": 0.1}, 0.02, "c"),
        ({"b": 0.1}, 0.2, None),
        ({"a": -0.3}, 0.02, None),
        ({}, 0.02, None),
    ],
)
def test_the_worst_measurable_loss_above_the_margin_counts(
    losses: dict[str, float], margin: float, session: str | None
) -> None:
    assert worst_loss(by_session(losses), margin) == session


def test_rows_too_few_for_an_interval_show_no_loss() -> None:
    before, after = scores(), scores({"b": 0.5})
    few = [row for row in range(15) if SESSION_OF_ROW[row] == "b"]

    comparisons = compare_by_session(
        before.at(np.array(few)),
        after.at(np.array(few)),
        SESSION_OF_ROW,
        bootstrap_samples=500,
        confidence=0.95,
        seed=0,
    )

    assert comparisons["b"].improvement == pytest.approx(-0.5)
    assert worst_loss(comparisons, 0.02) is None


def test_scores_without_rows_are_refused() -> None:
    unknown = scores_from({"cosine_to_target": np.ones(3), "mse": np.zeros(3)}, "cosine_to_target")

    with pytest.raises(ValueError, match=r"^scores must name the row of each example"):
        compare_by_session(unknown, unknown, {}, bootstrap_samples=100, confidence=0.95, seed=0)


def test_few_equal_candidates_seem_to_forget() -> None:
    """Of 200 candidates that are no worse, about 5 % would lose on a session without the margin."""
    seeming = [worst_loss(by_session({}, seed), 0.0) for seed in range(200)]

    assert sum(session is not None for session in seeming) <= 20
