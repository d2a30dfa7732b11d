"""A lock that all processes of this machine share, by a file. Knows nothing of what it protects."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def file_lock(file: Path) -> Iterator[None]:
    """Hold the lock of `file`, which is made if it's absent and stays; waits for whoever holds it.

    The kernel lets go of it when the process ends, however that happens.

    Raises:
        OSError: The file or its folder can't be made.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
