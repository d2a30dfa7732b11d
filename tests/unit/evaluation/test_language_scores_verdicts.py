import numpy as np
import pytest

from tunetrail.errors import SampleError
from tunetrail.evaluation.comparison import compare
from tunetrail.evaluation.intervals import metric_intervals
from tunetrail.evaluation.language_scores import (
    language_scores,
    verdict_scores,
    with_reward_accuracy,
)
from tunetrail.evaluation.scores import Scores


def judged(nats: list[float], accepted: list[bool]) -> Scores:
    counts = np.full(len(nats), 2)
    return verdict_scores(language_scores(np.array(nats), counts, counts), np.array(accepted))


def test_verdict_scores_are_those_of_the_accepted_answers() -> None:
    scores = judged([2.0, 9.0, 4.0], [True, False, True])
    alone = language_scores(np.array([2.0, 4.0]), np.array([2, 2]), np.array([2, 2]))
    assert (scores.metric, scores.higher_is_better) == ("bits_per_byte", False)
    assert scores.value == pytest.approx(alone.value)


def test_reward_accuracy_is_the_share_of_rewards_with_the_sign_of_the_verdict() -> None:
    accepted = [True, True, False, False, True]
    before = judged([5.0, 5.0, 5.0, 5.0, 5.0], accepted)
    after = judged([4.0, 6.0, 6.0, 4.0, 5.0], accepted)

    after, before = with_reward_accuracy(after, before)

    assert after.per_example["reward_accuracy"].tolist() == [1.0, 0.0, 1.0, 0.0, 0.5]
    assert after.metrics["reward_accuracy"] == 0.5 == before.metrics["reward_accuracy"]


def test_both_metrics_of_verdicts_have_intervals_and_can_be_compared() -> None:
    accepted = [index % 4 == 0 for index in range(80)]
    before = judged([4.0] * 80, accepted)
    nats = [3.0 if is_accepted else 5.0 for is_accepted in accepted[:72]] + [4.5] * 8
    after, before = with_reward_accuracy(judged(nats, accepted), before)

    intervals = metric_intervals(after, bootstrap_samples=200, confidence=0.95, seed=0)
    assert intervals["reward_accuracy"].lower > 0.8
    assert intervals["bits_per_byte"].lower < after.value < intervals["bits_per_byte"].upper
    comparison = compare(before, after, bootstrap_samples=200, confidence=0.95, seed=0)
    assert comparison.improvement > 0.0


def test_resamples_without_an_accepted_answer_have_no_value() -> None:
    scores = judged([2.0, 3.0], [True, False])
    values = scores.statistics(np.array([[0, 1], [1, 1]]))
    assert values[0] == scores.value and np.isnan(values[1])


def test_scores_without_verdicts_have_no_rewards() -> None:
    scores = language_scores(np.array([1.0]), np.array([1]), np.array([1]))
    assert with_reward_accuracy(scores, scores) == (scores, scores)


def test_verdict_scores_need_an_accepted_answer() -> None:
    with pytest.raises(SampleError, match=r"accepted must be true in at least one .* got 2 rej"):
        judged([1.0, 2.0], [False, False])
