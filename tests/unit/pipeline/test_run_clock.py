import logging
from collections.abc import Mapping

import pytest

from tunetrail.pipeline.run_clock import CROSS_VALIDATION, EVALUATION, TRAINING, RunClock

LOSS = {"train/loss": 1.0}


class Time:
    """A time that a test sets."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def clock_at(time: Time) -> RunClock:
    stages = {CROSS_VALIDATION: 20.0, TRAINING: 100.0, EVALUATION: 10.0}
    return RunClock(name="embedding", stages=stages, now=time)


def test_clock_knows_nothing_before_three_timed_steps() -> None:
    time = Time()
    clock = clock_at(time)
    report = clock.following(lambda metrics, step: None, TRAINING)
    # The second batch is the small one of its epoch.
    for step, seconds in ((1, 9.0), (2, 0.1), (3, 8.0)):
        time.seconds += seconds
        report(LOSS, step)
        assert clock.seconds_left is None and clock.in_words() == ""

    time.seconds += 8.9
    report(LOSS, 4)

    assert clock.seconds_left == pytest.approx(17.0 / 3 * (20 + 100 - 4 + 10))


def test_a_training_of_two_steps_tells_how_long_the_evaluation_takes() -> None:
    time = Time()
    clock = RunClock(name="llm", stages={TRAINING: 2.0, EVALUATION: 1.0}, now=time)
    report = clock.following(lambda metrics, step: None, TRAINING)
    report(LOSS, 1)
    time.seconds += 60.0
    report(LOSS, 2)

    clock.finish(TRAINING)

    assert clock.in_words() == "60 s"


def test_clock_counts_what_all_stages_have_left() -> None:
    time, received = Time(), []
    clock = clock_at(time)

    def sink(metrics: Mapping[str, float], step: int) -> None:
        received.append(step)

    first = clock.following(sink, CROSS_VALIDATION)
    first(LOSS, 1)
    time.seconds += 6.0
    first(LOSS, 4)
    assert clock.seconds_left == pytest.approx(2.0 * (20 - 4 + 100 + 10))

    # A second fold goes on counting, and its loading is no step.
    second = clock.following(sink, CROSS_VALIDATION)
    time.seconds += 50.0
    second(LOSS, 1)
    assert clock.seconds_left == pytest.approx(2.0 * (20 - 5 + 100 + 10))
    second({"val/loss": 1.0}, 1)
    assert received == [1, 4, 1, 1]

    clock.finish(CROSS_VALIDATION)
    assert clock.in_words() == "4 min"


def test_clock_logs_the_estimate_once_and_after_each_stage(
    caplog: pytest.LogCaptureFixture,
) -> None:
    time = Time()
    clock = clock_at(time)
    report = clock.following(lambda metrics, step: None, TRAINING)
    with caplog.at_level(logging.INFO, logger="tunetrail"):
        for step in (1, 2, 3, 4):
            report(LOSS, step)
            time.seconds += 1.0
        clock.finish(TRAINING)

    first, second = caplog.messages
    assert first.startswith("embedding: about 2 min left, until ")
    assert first.endswith(" (cross-validation 20 s, training 2 min, evaluation 10 s)")
    assert second.startswith("embedding: training done, about 30 s left, until ")


def test_clock_without_stages_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    time = Time()
    clock = RunClock(now=time)
    report = clock.following(lambda metrics, step: None, TRAINING)
    with caplog.at_level(logging.INFO, logger="tunetrail"):
        report(LOSS, 1)
        time.seconds += 1.0
        report(LOSS, 2)
        clock.finish(TRAINING)
    assert caplog.messages == [] and clock.in_words() == ""
