"""What a training learns from: its records, and how they are made again between epochs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tunetrail.learning.tokens.prompts import QUERY

NDArray = np.ndarray[Any, np.dtype[Any]]

Record = Mapping[str, Any]
"""A sample as plain values, by column."""


class Encode(Protocol):
    """Encodes texts as unit vectors, float32 [texts, dimensions], in the texts' order."""

    def __call__(self, texts: Sequence[str], role: str = QUERY) -> NDArray:
        """Return the vectors of texts in the role of a `query` or a `document`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refresh:
    """How the training records follow the model.

    Attributes:
        every_epochs: Number of epochs after which the records are made again.
        records: Takes a function that encodes with the model as it is, and the number of the epoch
            that is about to begin; returns the same number of records.
    """

    every_epochs: int
    records: Callable[[Encode, int], Sequence[Record]]
