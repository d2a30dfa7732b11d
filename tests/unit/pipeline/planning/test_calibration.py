import pandas as pd
import pytest

from tunetrail.pipeline.planning.calibration import StepClock, calibrated_rows, evenly_spaced


def clock_of(*reports: tuple[float, float, float]) -> StepClock:
    return StepClock(begun=10.0, reports=list(reports))


def test_clock_times_the_steps_after_the_first() -> None:
    clock = clock_of((20.0, 100.0, 0.0), (22.0, 300.0, 0.0), (23.0, 400.0, 0.0))

    assert clock.token_seconds == pytest.approx(0.01)
    # Ten seconds until the end of the first step, which took one of them.
    assert clock.load_seconds == pytest.approx(9.0)


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


def test_calibrated_rows_hold_a_batch_of_the_longest() -> None:
    train = pd.DataFrame({"row_id": range(100), "token_count": list(range(100))})

    chosen = calibrated_rows(train, 40)

    assert len(chosen) == 40 and chosen["row_id"].is_unique
    assert set(range(90, 100)) <= set(chosen["row_id"])
    assert chosen["row_id"].min() == 0
    assert len(calibrated_rows(train.head(7), 40)) == 7


def test_evenly_spaced_rows_keep_their_order() -> None:
    rows = pd.DataFrame({"row_id": range(10)})
    assert evenly_spaced(rows, 4)["row_id"].tolist() == [0, 3, 6, 9]
    assert evenly_spaced(rows, 0).empty and len(evenly_spaced(rows, 20)) == 10
