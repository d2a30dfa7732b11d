import pytest

from tunetrail.pipeline.planning.timed_training import StepClock, TimedTraining


def clock_of(*reports: tuple[float, float, float]) -> StepClock:
    return StepClock(begun=10.0, reports=list(reports))


def test_clock_times_the_steps_after_the_first() -> None:
    clock = clock_of((20.0, 100.0, 0.0), (22.0, 300.0, 0.0), (23.0, 400.0, 0.0))

    assert clock.token_seconds == pytest.approx(0.01)
    # Ten seconds until the end of the first step, which took one of them.
    assert clock.load_seconds == pytest.approx(9.0)


def test_clock_takes_the_fastest_step() -> None:
    reports = [(20.0, 100.0, 0.0), (24.0, 300.0, 0.0), (25.0, 400.0, 0.0), (28.0, 600.0, 0.0)]
    assert clock_of(*reports).token_seconds == pytest.approx(0.01)


def test_clock_takes_a_single_step_with_its_loading() -> None:
    clock = clock_of((20.0, 100.0, 0.0))
    assert clock.token_seconds == pytest.approx(0.1)
    assert clock.load_seconds == pytest.approx(0.0)


def test_clock_weighs_padding_by_the_computed_tokens() -> None:
    clock = clock_of((1.0, 100.0, 0.5), (2.0, 200.0, 0.0))
    assert clock.padding_share == pytest.approx(1.0 - 200.0 / 300.0)


def test_clock_notices_the_validation() -> None:
    clock = StepClock()
    clock({"train/tokens": 5.0, "train/padding_share": 0.0}, 1)
    assert clock.validated is None
    clock({"val/loss": 1.0}, 1)
    assert clock.validated is not None and len(clock.reports) == 1


def test_training_is_timed_in_tokens_as_the_preparation_counts_them() -> None:
    clock = clock_of((20.0, 100.0, 0.0), (22.0, 300.0, 0.0))
    clock.validated = 25.0
    timed = TimedTraining(
        clock=clock, ended=26.5, counted_tokens=150, validated_tokens=60, checkpoint_bytes=9
    )

    # Two texts of each row are read, the longer of which is counted.
    assert timed.read_tokens == 2.0
    assert timed.train_seconds == pytest.approx(0.02)
    assert timed.validation_seconds == pytest.approx(3.0 / 60)
    assert timed.checkpoint_seconds == pytest.approx(1.5)

    # Without a validation, nothing else is known of its time.
    clock.validated = None
    assert timed.validation_seconds == 0.0 and timed.checkpoint_seconds == pytest.approx(4.5)
