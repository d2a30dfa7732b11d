"""Refreshing: training records made anew between two epochs, from the vectors that the model gives by then.

Knows not how they are made: that comes in as a function.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from pytorch_lightning.utilities.seed import isolate_rng
from torch import nn

from tunetrail.learning.embedding.data import Record
from tunetrail.learning.embedding.prompts import QUERY
from tunetrail.learning.engine.modes import evaluating

NDArray = np.ndarray[Any, np.dtype[Any]]


class Encode(Protocol):
    """Texts to unit vectors, float32 [texts, dimensions]; `role` is `query` or `document`."""

    def __call__(self, texts: Sequence[str], role: str = QUERY) -> NDArray:
        """Return the vectors in the texts' order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refresh:
    """How training records follow the model.

    Attributes:
        every_epochs: After so many epochs each they are made anew.
        records: Takes a function that encodes with the model as it is, and the number of the epoch that is to begin;
            returns as many records as there are.
    """

    every_epochs: int
    records: Callable[[Encode, int], Sequence[Record]]


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode; afterwards each part's mode and the random generators are as they were."""
    with isolate_rng(), evaluating(module):
        yield
