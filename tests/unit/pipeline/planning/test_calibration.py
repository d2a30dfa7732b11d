import pandas as pd

from tunetrail.pipeline.planning.calibration import calibrated_rows, evenly_spaced


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
