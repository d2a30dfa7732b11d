"""Batches in parts: what doesn't fit into memory at once is computed in smaller ones. For work without gradients."""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from pytorch_lightning.utilities.memory import garbage_collection_cuda

from tunetrail.errors import TrainingError
from tunetrail.learning.training.memory import is_out_of_memory

logger = logging.getLogger(__name__)

Numbers = npt.NDArray[np.integer[Any]]
Result = TypeVar("Result")


def in_parts(
    batches: Iterable[npt.ArrayLike], compute: Callable[[Numbers], Result]
) -> Iterator[tuple[Numbers, Result]]:
    """Yield each batch of numbers, in order, with what `compute` returns for it.

    Where memory doesn't suffice, it and all later ones are cut into twice as many parts, which is logged.

    Raises:
        TrainingError: Not even a single number's part fits.
    """
    parts = 1
    for batch in batches:
        waiting = _cut(np.asarray(batch), parts)
        while waiting:
            try:
                result = compute(waiting[0])
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if len(waiting[0]) == 1:
                    raise TrainingError(
                        "one text alone doesn't fit into memory. Lower max_length."
                    ) from error
            else:
                yield waiting.pop(0), result
                continue
            garbage_collection_cuda()  # only here are the tensors gone that the error's traceback held
            parts *= 2
            waiting = [part for each in waiting for part in _cut(each, 2)]
            logger.warning("out of memory: batches are computed in %d parts from now on", parts)


def _cut(numbers: Numbers, parts: int) -> list[Numbers]:
    return [part for part in np.array_split(numbers, parts) if len(part)]
