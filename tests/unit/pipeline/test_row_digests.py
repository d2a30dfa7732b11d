from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tunetrail.data.rows import rows_frame
from tunetrail.errors import TrackingError
from tunetrail.pipeline.row_digests import RowDigests, digest_rows
from tunetrail.samples import Sample, SampleKind

Change = Callable[[pd.DataFrame], pd.DataFrame]


def pairs(count: int) -> pd.DataFrame:
    samples = [
        Sample(
            kind=SampleKind.EMBEDDING,
            shape="pair",
            content={"anchor": f"question {number}", "positive": f"answer {number}"},
        )
        for number in range(count)
    ]
    return rows_frame(enumerate(samples, start=1))


def without(row_id: int) -> Change:
    return lambda rows: rows[rows["row_id"] != row_id]


def with_value(row_id: int, column: str, value: object) -> Change:
    def change(rows: pd.DataFrame) -> pd.DataFrame:
        rows = rows.copy()
        rows.loc[rows["row_id"] == row_id, column] = value
        return rows

    return change


@pytest.mark.parametrize(
    ("change", "added", "removed", "changed"),
    [
        (lambda rows: rows, [], [], []),
        (lambda rows: pairs(5), [5], [], []),
        (without(2), [], [2], []),
        (with_value(3, "positive", "another answer"), [], [], [3]),
        (with_value(1, "weight", 2.0), [], [], [1]),
        (lambda rows: with_value(5, "shape", "text")(pairs(5)), [], [], []),
        (lambda rows: without(1)(with_value(4, "group", "g")(rows)), [], [1], [4]),
    ],
)
def test_row_digests_name_the_rows_that_have_changed(
    change: Change, added: list[int], removed: list[int], changed: list[int]
) -> None:
    changes = digest_rows(pairs(4)).changes_to(digest_rows(change(pairs(4))))

    assert changes.to_dict() == {"added": added, "removed": removed, "changed": changed}
    assert changes.lost == len(removed) + len(changed)


def test_row_digests_depend_neither_on_chunks_nor_on_absent_columns(tmp_path: Path) -> None:
    rows = pairs(4)
    chunks = [rows[2:].drop(columns="weight"), rows[:2].assign(negative=None)]
    digest_rows(chunks).write(tmp_path / "rows.parquet")

    changes = digest_rows(rows).changes_to(RowDigests.read(tmp_path / "rows.parquet"))

    assert changes.to_dict() == {"added": [], "removed": [], "changed": []}


def test_a_broken_file_of_row_digests_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_text("no Parquet")
    with pytest.raises(TrackingError, match=r"session_rows.parquet of the run can't be read"):
        RowDigests.read(tmp_path / "rows.parquet")
