"""A lock on a file, which all processes of a machine share, and how to wait for a lock."""

import contextlib
import fcntl
import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tunetrail.errors import TunetrailError

# The longest wait for a lock, unless $TUNETRAIL_LOCK_SECONDS says otherwise. Many processes that
# prepare a fresh store one after another need minutes on a slow machine.
_MOST_SECONDS = 600.0
# Shorter waits are normal when processes start together.
_SILENT_SECONDS = 1.0
_log = logging.getLogger(__name__)


class LockError(TunetrailError, TimeoutError):
    """Another process held a lock for longer than a wait may take."""


@contextlib.contextmanager
def file_lock(
    file: Path, awaited: str | None = None, most_seconds: float | None = None
) -> Iterator[None]:
    """Hold the lock of a file, after waiting for the process that holds it.

    The file is made if it doesn't exist, and stays. The kernel releases the lock when the process
    ends, even if it is killed. A symbolic link is refused: it could name somebody else's file.

    Args:
        file: The file.
        awaited: What the holder of the lock makes, for messages.
        most_seconds: How long to wait; None for $TUNETRAIL_LOCK_SECONDS, or else ten minutes.

    Raises:
        LockError: The time is over.
        OSError: The file or its folder can't be made.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    process = os.getpid()

    def try_to_lock() -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    try:
        inode = os.fstat(descriptor).st_ino
        if awaited is None:
            wait_for_lock(try_to_lock, str(file), lambda: _holder(inode), most_seconds)
        # To make something may take long, and is no fault: it is said at once, and without a file.
        elif not try_to_lock():
            _log.info("another process makes %s: waiting for it", awaited)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        # A process that was forked meanwhile has the file open as well, which would keep the lock.
        if os.getpid() == process:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def wait_for_lock(
    try_to_lock: Callable[[], bool],
    name: str,
    holder: Callable[[], str],
    most_seconds: float | None = None,
) -> None:
    """Try to lock again and again, and say after a second what is waited for.

    Args:
        try_to_lock: Returns whether the lock is held now.
        name: What is locked, for messages.
        holder: Returns who holds it, for messages.
        most_seconds: How long to wait; None for $TUNETRAIL_LOCK_SECONDS, or else ten minutes.

    Raises:
        LockError: The time is over.
    """
    if most_seconds is None:
        most_seconds = _lock_seconds()
    began, has_spoken = time.monotonic(), False
    while not try_to_lock():
        waited = time.monotonic() - began
        if waited > most_seconds:
            raise LockError(
                f"waited {waited:.0f} s for {name}, held by {holder()}. End that process, or try "
                "again after it has ended; $TUNETRAIL_LOCK_SECONDS allows a longer wait."
            )
        if waited > _SILENT_SECONDS and not has_spoken:
            _log.warning("waiting for %s, held by %s", name, holder())
            has_spoken = True
        # Not the same time for all: they would meet again.
        time.sleep(random.uniform(0.01, 0.1))


def _lock_seconds() -> float:
    """Return how long to wait for a lock: $TUNETRAIL_LOCK_SECONDS, or else ten minutes."""
    try:
        return float(os.environ["TUNETRAIL_LOCK_SECONDS"])
    except (KeyError, ValueError):
        return _MOST_SECONDS


def _holder(inode: int) -> str:
    """Return the process that holds the lock of a file, as far as the kernel tells."""
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    # Only Linux lists its locks.
    except OSError:
        return "another process"

    # 1: FLOCK  ADVISORY  WRITE 4711 08:01:5678 0 EOF
    for line in lines:
        words = line.split()
        if words[1] == "FLOCK" and words[5].endswith(f":{inode}"):
            return f"process {words[4]}"
    return "another process"
