import numpy as np
import pytest

from tunetrail.evaluation.comparison import compare
from tunetrail.evaluation.language_scores import language_scores, preference_scores
from tunetrail.evaluation.scores import Scores


def scored(nats: list[float], tokens: list[int] | None = None) -> Scores:
    counts = np.array(tokens or [1] * len(nats))
    return language_scores(np.array(nats), counts, 2 * counts)


def test_preference_scores_follow_their_formulas() -> None:
    # for each token: 1.0 against 2.0, 3.0 against 1.0, and two ties
    chosen, rejected = (
        scored([4.0, 6.0, 5.0, 2.0], [4, 2, 5, 1]),
        scored([6.0, 4.0, 3.0, 2.0 + 1e-9], [3, 4, 3, 1]),
    )

    scores = preference_scores(chosen, rejected)

    assert (scores.metric, scores.higher_is_better, scores.examples) == (
        "preference_accuracy",
        True,
        4,
    )
    assert scores.per_example["preference_accuracy"].tolist() == [1.0, 0.0, 0.5, 0.5]
    assert scores.metrics["preference_accuracy"] == scores.statistic() == 0.5
    assert scores.metrics["preference_margin"] == pytest.approx((1.0 - 2.0) / 4)
    assert scores.metrics["bits_per_byte"] == chosen.metrics["bits_per_byte"]


def test_preference_scores_do_not_favour_short_answers() -> None:
    scores = preference_scores(scored([20.0], [40]), scored([3.0], [2]))
    assert scores.value == 1.0


def test_preference_scores_of_a_better_model_pass_a_comparison() -> None:
    rejected = scored([2.0] * 40)
    before = preference_scores(scored([1.0] * 20 + [3.0] * 20), rejected)
    after = preference_scores(scored([1.0] * 36 + [3.0] * 4), rejected)

    comparison = compare(before, after, bootstrap_samples=200, confidence=0.95, seed=0)

    assert comparison.improvement == pytest.approx(0.4) and comparison.lower > 0.0
    assert (comparison.better_share, comparison.worse_share) == (0.4, 0.0)
    assert before.statistics(np.array([[0, 0], [39, 39], [0, 39]])).tolist() == [1.0, 0.0, 0.5]


def test_preference_scores_want_as_many_chosen_as_rejected() -> None:
    with pytest.raises(ValueError, match="as many chosen as rejected, got 1 and 2"):
        preference_scores(scored([1.0]), scored([1.0, 2.0]))
