"""The file in which log entries wait until the database has them."""

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tunetrail.stores.database.connection import parse_url
from tunetrail.stores.database.failures import shown
from tunetrail.stores.database.log_entries import LogEntry
from tunetrail.stores.database.manager import DatabaseManager
from tunetrail.stores.spools import deliver_left_spools, open_spool

_SUFFIX = ".entries"
# Bytes of one delivery.
_MOST_BYTES = 4_000_000


def spool_folder(database_url: str) -> Path:
    """Return the folder of entries that a database doesn't have yet.

    It is next to a SQLite file; for a server, it is a folder of the user's own on this machine,
    below $XDG_STATE_HOME or else ~/.local/state.
    """
    url = parse_url(database_url)
    if url.get_backend_name() == "sqlite":
        return Path(f"{url.database}.spool")
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    # Two databases have two folders, whose names say nothing about them.
    digest = hashlib.sha256(shown(url).encode()).hexdigest()
    return home / "tunetrail" / f"spool-{digest[:12]}"


class LogSpool:
    """The file of the entries that the database doesn't have yet; its process holds its lock.

    Args:
        folder: Its folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path: Path | None = None
        self._file: IO[str] | None = None
        self._written = self._delivered = 0
        self._lock = threading.Lock()

    @property
    def has_entries(self) -> bool:
        """Whether there are entries in it that weren't delivered."""
        return self._delivered < self._written

    def append(self, lines: str) -> None:
        """Append all of the lines or none; the kernel has them when this returns.

        Raises:
            OSError: They can't be written.
        """
        data = lines.encode("ascii")
        with self._lock:
            if self._file is None:
                self.path, self._file = open_spool(self.folder, _SUFFIX)
                self._written = self._delivered = 0
            descriptor = self._file.fileno()
            try:
                if os.write(descriptor, data) < len(data):
                    raise OSError("only a part of the lines could be written")
            except OSError:
                # A line that was cut off would spoil the next one.
                os.ftruncate(descriptor, self._written)
                raise
            self._written += len(data)

    def sync(self) -> None:
        """Wait until the disk has what was appended, so that a power failure loses none of it."""
        with self._lock:
            if self._file is not None:
                os.fsync(self._file.fileno())

    def next_lines(self) -> bytes:
        """Return whole lines that weren't delivered yet, up to some megabytes."""
        with self._lock:
            path, start, end = self.path, self._delivered, self._written
        if path is None or start == end:
            return b""
        return _read_lines(path, start, end)

    def mark_delivered(self, size: int) -> None:
        """Note the delivery of `size` bytes; remove the file if nothing else is in it."""
        with self._lock:
            self._delivered += size
            if self.has_entries or self._file is None or self.path is None:
                return
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
            self._close()
            with contextlib.suppress(OSError):
                # Fails if other processes have a file in it.
                self.folder.rmdir()

    def abandon(self) -> None:
        """Close a forked process's copy of the file, which its parent goes on with."""
        # Without the lock: a thread that the fork has not copied may hold it.
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = self.path = None
        self._written = self._delivered = 0


def _read_lines(path: Path, start: int, end: int) -> bytes:
    """Return the whole lines of a part of a file, at least one and not many more than needed."""
    with path.open("rb") as file:
        file.seek(start)
        data = file.read(min(end - start, _MOST_BYTES))
        # A line may be longer than one delivery.
        if b"\n" not in data:
            data += file.readline()
    return data[: data.rfind(b"\n") + 1]


def entries_of(data: bytes) -> Iterator[LogEntry]:
    """Yield the entries of the lines of a spool."""
    for line in data.decode("ascii", "replace").splitlines(keepends=True):
        # A kill may have cut off the last line.
        with contextlib.suppress(ValueError):
            yield LogEntry.from_line(line)


def deliver_left_entries(database: DatabaseManager, folder: Path) -> int:
    """Deliver what dead processes left in a folder of spools; return the number of new entries.

    Raises:
        DatabaseError: The database can't be reached or written; the spools stay.
    """
    added = 0

    def deliver(path: Path) -> bool:
        nonlocal added
        size, start = path.stat().st_size, 0
        while data := _read_lines(path, start, size):
            added += database.application_log.add(list(entries_of(data)))
            start += len(data)
        return True

    deliver_left_spools(folder, _SUFFIX, deliver)
    return added
