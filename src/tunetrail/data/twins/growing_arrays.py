"""Growing arrays: arrays on disk, appended to, then read without being loaded. Knows nothing of what they hold."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


class GrowingArray:
    """One array in one file of its own; each row has `width` values, or the array is flat with `width` 0."""

    def __init__(self, path: Path, dtype: npt.DTypeLike, width: int = 0) -> None:
        self._path = path
        self._dtype = np.dtype(dtype)
        self._width = width
        self._length = 0
        path.write_bytes(b"")

    def __len__(self) -> int:
        return self._length

    def append(self, values: npt.NDArray[Any]) -> None:
        """Add rows of the same width behind the others."""
        with self._path.open("ab") as file:
            np.ascontiguousarray(values, dtype=self._dtype).tofile(file)
        self._length += len(values)

    def array(self) -> npt.NDArray[Any]:
        """Return all rows, mapped into memory for reading."""
        shape = (self._length, self._width) if self._width else (self._length,)
        if self._length == 0:
            return np.empty(shape, dtype=self._dtype)
        return np.memmap(self._path, dtype=self._dtype, mode="r", shape=shape)
