"""Arrays on disk that grow by appending and are read without being loaded."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


class GrowingArray:
    """An array in a file of its own; each row has `width` values, or one if `width` is 0."""

    def __init__(self, path: Path, dtype: npt.DTypeLike, width: int = 0) -> None:
        self._path = path
        self._dtype = np.dtype(dtype)
        self._width = width
        self._length = 0
        # A file from before would be appended to.
        path.write_bytes(b"")

    def __len__(self) -> int:
        return self._length

    def append(self, values: npt.NDArray[Any]) -> None:
        """Append rows of the same width."""
        with self._path.open("ab") as file:
            np.ascontiguousarray(values, dtype=self._dtype).tofile(file)
        self._length += len(values)

    def array(self) -> npt.NDArray[Any]:
        """Return all rows, mapped into memory for reading."""
        shape = (self._length, self._width) if self._width else (self._length,)
        # An empty file can't be mapped.
        if self._length == 0:
            return np.empty(shape, dtype=self._dtype)
        return np.memmap(self._path, dtype=self._dtype, mode="r", shape=shape)
