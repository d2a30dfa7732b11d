"""What the nodes of a training tell one another, in a `TCPStore` that node 0 keeps.

joined/NODE   the host name of a node that has come
job/JOB       the job's folder, and how its ranks find one another
alive/NODE    a number that changes every second while the node runs ranks of a job
stop/JOB      asks the nodes to stop the ranks of a job
done/JOB/NODE how the ranks of a node ended: the exit codes of those that failed, or the signal
end           node 0 has done its work
left/NODE     a node has seen that, and doesn't look at the store any more
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

# How often a node says that it is alive.
_SIGN_SECONDS = 1.0

T = TypeVar("T")


class FirstNodeLostError(Exception):
    """Node 0 has ended or doesn't answer; the message continues "node 0"."""


class FirstNodeStore:
    """The store of node 0, as the other nodes use it: every call ends, even if node 0 hangs.

    Args:
        store: The store; its own calls wait for the answer of a hanging process for ever.
        silence_seconds: How long node 0 may take to answer.
    """

    def __init__(self, store: TCPStore, silence_seconds: float) -> None:
        self._store = store
        self._silence_seconds = silence_seconds

    def set(self, key: str, value: str = "") -> None:
        """Write a value.

        Raises:
            FirstNodeLostError: Node 0 has ended, or doesn't answer.
        """
        self._answer(lambda: self._store.set(key, value))

    def has(self, key: str) -> bool:
        """Tell whether there is a value.

        Raises:
            FirstNodeLostError: Node 0 has ended, or doesn't answer.
        """
        return bool(self._answer(lambda: self._store.check([key])))

    def get(self, key: str) -> bytes:
        """Return a value that is there.

        Raises:
            FirstNodeLostError: Node 0 has ended, or doesn't answer.
        """
        return bytes(self._answer(lambda: self._store.get(key)))

    @contextmanager
    def signs_of_life(self, node: int) -> Iterator[None]:
        """Say every second in the block that a node is alive."""
        ended = threading.Event()

        def say() -> None:
            count = 0
            while not ended.wait(_SIGN_SECONDS):
                count += 1
                try:
                    self.set(f"alive/{node}", str(count))
                except FirstNodeLostError:
                    # The main thread, which asks as often, ends the ranks.
                    return

        threading.Thread(target=say, daemon=True).start()
        try:
            yield
        finally:
            ended.set()

    def _answer(self, ask: Callable[[], T]) -> T:
        """Return what node 0 answers; a thread of its own waits for it."""
        answer: Future[T] = Future()

        def wait() -> None:
            try:
                answer.set_result(ask())
            except Exception as error:
                answer.set_exception(error)

        threading.Thread(target=wait, daemon=True).start()
        try:
            return answer.result(timeout=self._silence_seconds)
        except TimeoutError as error:
            raise FirstNodeLostError(
                f"has not answered for {self._silence_seconds:g} seconds"
            ) from error
        except DistError as error:
            raise FirstNodeLostError("has ended") from error
