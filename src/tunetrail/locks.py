"""A lock on a file, which all processes of a machine share."""

import contextlib
import fcntl
import logging
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def file_lock(file: Path, awaited: str | None = None) -> Iterator[None]:
    """Hold the lock of a file, after waiting for the process that holds it.

    The file is made if it doesn't exist, and stays. The kernel releases the lock when the process
    ends, even if it is killed.

    Args:
        file: The file.
        awaited: What the holder of the lock makes; a line of the log says that it is waited for.

    Raises:
        OSError: The file or its folder can't be made.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as stream:
        if awaited:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info("another process makes %s: waiting for it", awaited)
        # Does nothing if the lock is held already.
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
