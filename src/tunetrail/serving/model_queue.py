"""ModelQueue: one computation after the other, off the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tunetrail.serving.refusals import RefusedError

_Result = TypeVar("_Result")


class ModelQueue:
    """Lets requests wait for the model, of which one computation takes all processors.

    Args:
        waiting: Requests that may wait; a further one is refused.
    """

    def __init__(self, waiting: int) -> None:
        self._waiting = waiting
        self._pending = 0
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")

    async def run(self, compute: Callable[[], _Result]) -> _Result:
        """Return what a function computes, once it is its turn.

        Raises:
            RefusedError: Too many requests are waiting.
        """
        if self._pending > self._waiting:
            raise RefusedError(
                503, f"{self._pending} requests are waiting for the model. Try again later."
            )
        self._pending += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._executor, compute)
        finally:
            self._pending -= 1

    def close(self) -> None:
        """Let go of requests that are still waiting."""
        self._executor.shutdown(wait=False, cancel_futures=True)
