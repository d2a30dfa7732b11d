from pathlib import Path

import numpy as np

from tunetrail.data.twins.growing_arrays import GrowingArray


def test_growing_array_returns_all_that_was_appended(tmp_path: Path) -> None:
    flat = GrowingArray(tmp_path / "flat.bin", np.uint64)
    wide = GrowingArray(tmp_path / "wide.bin", np.int32, width=2)

    assert flat.array().shape == (0,) and wide.array().shape == (0, 2)

    for index in range(3):
        flat.append(np.array([index, 2**64 - 1], dtype=np.uint64))
        wide.append(np.array([[index, -index]]))
    assert flat.array().tolist() == [0, 2**64 - 1, 1, 2**64 - 1, 2, 2**64 - 1] and len(flat) == 6
    assert wide.array().tolist() == [[0, 0], [1, -1], [2, -2]] and len(wide) == 3


def test_growing_array_begins_empty_where_an_older_file_lies(tmp_path: Path) -> None:
    GrowingArray(tmp_path / "a.bin", np.int32).append(np.arange(5))
    again = GrowingArray(tmp_path / "a.bin", np.int32)
    again.append(np.arange(2))
    assert again.array().tolist() == [0, 1]
