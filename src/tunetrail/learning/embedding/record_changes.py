"""What changed in records, as values that a checkpoint can hold without pickling. Knows nothing of their columns."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

Record = Mapping[str, Any]


def record_changes(before: Sequence[Record], after: Sequence[Record]) -> list[dict[str, Any]]:
    """Return per record its columns that are new or other than before; those that it no longer has are None.

    NumPy arrays become tensors.
    """
    return [
        {
            **{
                name: _plain(value)
                for name, value in new.items()
                if not _same(old.get(name), value)
            },
            **{name: None for name in old if name not in new},
        }
        for old, new in zip(before, after, strict=True)
    ]


def changed_records(before: Sequence[Record], changes: Sequence[Mapping[str, Any]]) -> list[Record]:
    """Return the records that `record_changes` was given as `after`, without the columns that are None now."""
    return [
        {
            name: _as_it_was(value)
            for name, value in {**old, **changed}.items()
            if changed.get(name, value) is not None
        }
        if changed
        else old
        for old, changed in zip(before, changes, strict=True)
    ]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    return bool(one == other)


def _plain(value: Any) -> Any:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def _as_it_was(value: Any) -> Any:
    return value.numpy() if isinstance(value, torch.Tensor) else value
