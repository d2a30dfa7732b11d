"""Folders for unfinished files, whose names tell which process made them.

A process that is killed can't remove its folder. The next one finds it by its name, asks whether
the process is still alive, and removes it if it isn't.
"""

import contextlib
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

PREFIXES = (".writing-", ".removing-", ".converting-", ".scratch-", ".parts-", "tunetrail-")
"""How the names of such folders begin."""
_NAME = re.compile(r"(?P<prefix>.*?-)(?P<host>.+)-(?P<pid>\d+)-(?P<started>\d+)-[^-]+")
# Earlier versions gave no process in the name, but none of them wrote for a day.
_NAMELESS = re.compile(r"\.(writing|converting)-[a-z0-9_]{8}")
_NAMELESS_SECONDS = 24 * 60 * 60
# Seconds; a corrected system clock shifts the start times that the kernel reports.
_CLOCK_TOLERANCE = 2.0


def scratch_prefix(prefix: str) -> str:
    """Return a prefix for `tempfile` that names this process; `prefix` ends with a hyphen."""
    process = psutil.Process()
    return f"{prefix}{socket.gethostname()}-{process.pid}-{int(process.create_time())}-"


@contextlib.contextmanager
def scratch_folder(prefix: str = "tunetrail-", parent: Path | None = None) -> Iterator[Path]:
    """Make a folder and remove it at the end of the block, if it is still there.

    Args:
        prefix: One of `PREFIXES`.
        parent: The folder to make it in; None for the system's temporary folder.
    """
    folder = Path(tempfile.mkdtemp(prefix=scratch_prefix(prefix), dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def abandoned_folders(parent: Path) -> list[Path]:
    """Return the scratch folders in a folder whose processes ran on this host and are dead."""
    try:
        children = sorted(parent.iterdir())
    # Nothing was ever written there, or it belongs to somebody else.
    except OSError:
        return []
    return list(filter(_is_abandoned, children))


def sweep(parent: Path) -> list[Path]:
    """Remove the scratch folders of dead processes from a folder, and return what was removed."""
    folders = abandoned_folders(parent)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    return [folder for folder in folders if not folder.exists()]


def _is_abandoned(folder: Path) -> bool:
    """Tell whether a folder is a scratch folder whose process is dead."""
    if not folder.name.startswith(PREFIXES) or folder.is_symlink() or not folder.is_dir():
        return False

    match = _NAME.fullmatch(folder.name)
    if match is None:
        return _NAMELESS.fullmatch(folder.name) is not None and _is_old(folder)
    # The process ids of another host mean nothing here.
    is_of_this_host = match["host"] == socket.gethostname()
    return is_of_this_host and not _is_alive(int(match["pid"]), int(match["started"]))


def _is_old(folder: Path) -> bool:
    try:
        return time.time() - folder.stat().st_mtime > _NAMELESS_SECONDS
    # Another process has just removed it.
    except OSError:
        return False


def _is_alive(pid: int, started: int) -> bool:
    """Tell whether the process with this id is the one that started at that second."""
    try:
        process = psutil.Process(pid)
        # The kernel reuses process ids; a later process started at another time.
        is_the_same = abs(process.create_time() - started) <= _CLOCK_TOLERANCE
        return bool(is_the_same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
