import pandas as pd

from tunetrail.data.report.report_data import rows_by_reason
from tunetrail.data.rows import set_aside_frame


def test_rows_by_reason_finds_the_commonest_first() -> None:
    lines = [(1, "empty", "", None), (2, "duplicate", "a", None), (3, "duplicate", "b", None)]
    frame = pd.concat(
        [set_aside_frame("cleaning", lines), set_aside_frame("validation", lines[:1])]
    )

    assert list(rows_by_reason(frame).items()) == [
        (("cleaning", "duplicate"), [1, 2]),
        (("cleaning", "empty"), [0]),
        (("validation", "empty"), [3]),
    ]
    assert rows_by_reason(set_aside_frame("cleaning")) == {}


def test_rows_by_reason_takes_any_text() -> None:
    assert rows_by_reason(set_aside_frame("step", [(1, "\ud800", None, None)])) == {
        ("step", "\ud800"): [0]
    }
