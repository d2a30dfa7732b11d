"""Recognise a full memory, explain it to people, and compute batches in smaller parts."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from tunetrail.errors import TrainingError, first_line

logger = logging.getLogger(__name__)

RowIndices = npt.NDArray[np.integer[Any]]
Result = TypeVar("Result")

# What a file that can't be mapped, oneDNN and C++ report; Lightning recognises the rest.
_FULL = ("Cannot allocate memory", "could not create a primitive", "std::bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that the memory of the device or of the machine is full."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if not isinstance(error, OSError | RuntimeError):
        return False

    # Only now: whoever just applies a model does without Lightning, whose import takes seconds.
    from pytorch_lightning.utilities.memory import is_oom_error

    message = str(error)
    return is_oom_error(RuntimeError(message)) or any(phrase in message for phrase in _FULL)


@contextmanager
def explaining_full_memory(way_out: str) -> Iterator[None]:
    """Replace an out-of-memory error in the block by an error that says what to do.

    Raises:
        TrainingError: The memory is full.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(f"the memory is full. {way_out} ({first_line(error)})") from error


def compute_batches(
    batches: Iterable[npt.ArrayLike], compute: Callable[[RowIndices], Result]
) -> Iterator[tuple[RowIndices, Result]]:
    """Yield each batch of row indices with the result of `compute`, in order; without gradients.

    When the memory is full, this batch and all later ones are cut into twice as many parts, and a
    warning says so.

    Raises:
        TrainingError: A single row doesn't fit into memory.
    """
    divisor = 1
    for batch in batches:
        queue = deque(_split(np.asarray(batch), divisor))
        while queue:
            try:
                result = compute(queue[0])
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if len(queue[0]) == 1:
                    raise TrainingError(
                        "one text alone doesn't fit into memory. Lower max_length."
                    ) from error
            else:
                yield queue.popleft(), result
                continue

            # Only after the except block are the tensors free that the traceback held.
            _free_memory()
            divisor *= 2
            queue = deque(half for rows in queue for half in _split(rows, 2))
            logger.warning("out of memory: batches are computed in %d parts from now on", divisor)


def _free_memory() -> None:
    # Only now: whoever just applies a model does without Lightning, whose import takes seconds.
    from pytorch_lightning.utilities.memory import garbage_collection_cuda

    garbage_collection_cuda()


def _split(rows: RowIndices, count: int) -> list[RowIndices]:
    """Return the rows in `count` parts of about equal size, without empty ones."""
    return np.array_split(rows, min(count, len(rows))) if len(rows) else []
