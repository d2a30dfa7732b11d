"""A lock on a file, which all processes of a machine share."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def file_lock(file: Path) -> Iterator[None]:
    """Hold the lock of a file, after waiting for the process that holds it.

    The file is made if it doesn't exist, and stays. The kernel releases the lock when the process
    ends, even if it is killed.

    Raises:
        OSError: The file or its folder can't be made.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
