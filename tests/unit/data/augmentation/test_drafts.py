import pandas as pd
import pytest

from tunetrail.data.augmentation.drafts import (
    Draft,
    append_drafts,
    normalised,
    rejected_frame,
    rejections,
)
from tunetrail.data.rows import SET_ASIDE_COLUMNS, rows_frame
from tunetrail.samples import Sample, SampleKind

TEXTS = ["How do I pay?", "Where is it?", "When?"]


@pytest.fixture
def rows() -> pd.DataFrame:
    samples = [
        Sample(
            kind=SampleKind.EMBEDDING,
            shape="pair",
            content={"anchor": text, "positive": f"answer {index}"},
        )
        for index, text in enumerate(TEXTS)
    ]
    frame = rows_frame(enumerate(samples, start=10))
    frame["parent_id"] = pd.array([pd.NA] * len(frame), dtype="Int64")
    return frame


def draft(position: int, text: str, source: str = "passage") -> Draft:
    return Draft(position=position, source=source, text=text)


def test_normalised_is_blind_to_spelling_signs_and_spaces() -> None:
    assert normalised(" How do I\tPAY!? ") == normalised("how do i pay") == "howdoipay"
    assert normalised("\x00\ud800…") == ""


@pytest.mark.parametrize(
    ("text", "exact", "reason"),
    [
        ("How to pay?", False, None),
        ("how do I pay", False, "no different from its parent"),
        ("how do I pay", True, None),
        ("How do I pay?", True, "no different from its parent"),
        ("Passage!", False, "no different from its parent"),
        (" ?! ", False, "nothing was made"),
        ("", True, "nothing was made"),
        (" \n", True, "nothing was made"),
    ],
)
def test_rejections_name_what_speaks_against_a_draft(
    rows: pd.DataFrame, text: str, exact: bool, reason: str | None
) -> None:
    assert rejections([draft(0, text)], rows, set(), exact=exact) == [reason]


def test_rejections_take_each_text_once_from_each_row(rows: pd.DataFrame) -> None:
    seen: set[tuple[int, str]] = set()
    again = "made before from the same row"

    assert rejections([draft(0, "x"), draft(0, "x"), draft(1, "x")], rows, seen, exact=False) == [
        None,
        again,
        None,
    ]
    assert rejections([draft(1, "x")], rows, seen, exact=True) == [again]


def test_append_drafts_copies_the_parent_but_for_what_is_read(rows: pd.DataFrame) -> None:
    before = rows.copy()
    longer = append_drafts(rows, [draft(2, "x"), draft(0, "y"), draft(2, "z")])

    pd.testing.assert_frame_equal(rows, before)
    pd.testing.assert_frame_equal(longer.iloc[:3], rows)

    added = longer.iloc[3:]
    assert added["row_id"].tolist() == [-1, -2, -3] and added["parent_id"].tolist() == [12, 10, 12]
    assert added["anchor"].tolist() == ["x", "y", "z"]
    assert added["positive"].tolist() == ["answer 2", "answer 0", "answer 2"]
    assert (
        (longer.dtypes == rows.dtypes).all() and longer["negative"].isna().all()
        if "negative" in longer
        else True
    )
    assert append_drafts(rows, []) is rows


def test_rejected_frame_is_a_set_aside_frame(rows: pd.DataFrame) -> None:
    frame = rejected_frame(rows, [("paraphrase", draft(1, "x\ud800"), "blank")])
    assert tuple(frame.columns) == SET_ASIDE_COLUMNS
    assert frame.iloc[0].tolist() == [11, "augmentation.paraphrase", "blank", "passage", "x?"]
    assert tuple(rejected_frame(rows, []).columns) == SET_ASIDE_COLUMNS
