"""How records differ, as values that a checkpoint can hold without pickling."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tunetrail.learning.training.records import Record


def differing_columns(before: Sequence[Record], after: Sequence[Record]) -> list[dict[str, Any]]:
    """Return the columns of each record that are new or differ, as values to save without pickling.

    Columns that a record no longer has are None; NumPy arrays become tensors.
    """
    differences = []
    for old, new in zip(before, after, strict=True):
        # A column of None counts as missing, here and in `with_differing_columns`.
        dropped = [column for column in old if column not in new]
        record_difference: dict[str, Any] = dict.fromkeys(dropped)
        for column, value in new.items():
            if not _are_equal(old.get(column), value):
                is_array = isinstance(value, np.ndarray)
                record_difference[column] = torch.from_numpy(value) if is_array else value
        differences.append(record_difference)
    return differences


def with_differing_columns(
    before: Sequence[Record], differences: Sequence[Mapping[str, Any]]
) -> list[Record]:
    """Return the records `after` that gave these `differing_columns`."""
    after = []
    for old, record_difference in zip(before, differences, strict=True):
        new = dict(old)
        for column, value in record_difference.items():
            # Arrays were saved as tensors, which load without unpickling.
            new[column] = value.numpy() if isinstance(value, torch.Tensor) else value
            if value is None:
                del new[column]
        after.append(new if record_difference else old)
    return after


def _are_equal(first: Any, second: Any) -> bool:
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        return np.array_equal(first, second)
    return bool(first == second)
