"""Compute on all cores of a CPU, each of which has a part of the rows to itself.

torch's own threads share every operation and wait for one another after each of them. The
operations on short texts are so small that they would wait longer than they compute.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from tunetrail.learning.devices import thread_count

_Part = TypeVar("_Part")


def compute_parts(compute: Callable[[_Part], Tensor], parts: Sequence[_Part]) -> list[Tensor]:
    """Return the results of `compute` for each part, in order; without gradients.

    As many parts are computed at a time as torch has threads, each by a thread of its own.
    """
    threads = torch.get_num_threads()
    if min(threads, len(parts)) < 2:
        return list(map(compute, parts))

    def compute_one(part: _Part) -> Tensor:
        # The mode of the caller's thread doesn't hold in this one.
        with torch.inference_mode():
            return compute(part)

    workers = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    # What a worker sets also holds for threads that start later, so it is undone at the end.
    with thread_count(threads), workers:
        return list(workers.map(compute_one, parts))
