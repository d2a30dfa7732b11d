import io
from typing import Any

import numpy as np
import torch

from tunetrail.learning.embedding.record_differences import (
    differing_columns,
    with_differing_columns,
)

BEFORE: list[dict[str, Any]] = [
    {"anchor": "a", "positive": "b", "negative": "c", "row_id": 1},
    {"anchor": "d", "positive": "e", "negative": None},
    {"anchor": "f", "positive": "g", "guide": np.array([1.0, 2.0])},
    {"anchor": "h", "positive": "i", "negative": "j"},
    {"anchor": "k", "positive": "l", "negative": None},
]
AFTER: list[dict[str, Any]] = [
    {"anchor": "a", "positive": "b", "negative": "other", "row_id": 1},
    {
        "anchor": "d",
        "positive": "e",
        "negative": "new",
        "guide": np.array([0.5, 1.5], dtype=np.float32),
    },
    {"anchor": "f", "positive": "g", "guide": np.array([1.0, 3.0])},
    {"anchor": "h", "positive": "i"},
    {"anchor": "k", "positive": "m"},
]


def test_records_come_back_from_their_changes_through_a_file_without_pickling() -> None:
    file = io.BytesIO()
    torch.save(differing_columns(BEFORE, AFTER), file)
    file.seek(0)
    found = with_differing_columns(BEFORE, torch.load(file, weights_only=True))
    for record, expected in zip(found, AFTER, strict=True):
        assert record.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(record[name], value)
            assert type(record[name]) is type(value)


def test_only_what_changed_is_kept() -> None:
    changes = differing_columns(BEFORE, AFTER)
    assert changes[0] == {"negative": "other"} and changes[3] == {"negative": None}
    same = [{**record} for record in BEFORE]
    assert differing_columns(BEFORE, same) == [{}] * 5
    assert all(
        one is other
        for one, other in zip(with_differing_columns(BEFORE, [{}] * 5), BEFORE, strict=True)
    )
