"""Recognise that the memory is full, explain it, and compute batches in smaller parts."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from pytorch_lightning.utilities.memory import garbage_collection_cuda, is_oom_error

from tunetrail.errors import TrainingError

logger = logging.getLogger(__name__)

RowIndices = npt.NDArray[np.integer[Any]]
Result = TypeVar("Result")

_FULL = ("Cannot allocate memory", "could not create a primitive", "std::bad_alloc")
"""What a file that isn't mapped, oneDNN and C++ say of it, beside what Lightning recognises."""


def compute_batches(
    batches: Iterable[npt.ArrayLike], compute: Callable[[RowIndices], Result]
) -> Iterator[tuple[RowIndices, Result]]:
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


def _cut(numbers: RowIndices, parts: int) -> list[RowIndices]:
    return [part for part in np.array_split(numbers, parts) if len(part)]


@contextmanager
def explaining_full_memory(way_out: str) -> Iterator[None]:
    """Let an error within the block that says that the memory is full say what to do as well.

    Raises:
        TrainingError: In its place.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise TrainingError(f"the memory is full. {way_out} ({said})") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that the device's or the machine's memory is full."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if not isinstance(error, OSError | RuntimeError):
        return False
    says = str(error)
    return is_oom_error(RuntimeError(says)) or any(each in says for each in _FULL)
