"""Log entries on their way to the database: collected, spooled to a file, delivered by a thread.

An application never waits for the disk or the database, and never fails because of them. Entries
wait in memory for a moment, then lie in a file, the spool, until the database has them. So a kill
loses nothing that is in the spool: the next process that uses its folder delivers it. The id of an
entry keeps it from being stored twice.

Memory is bounded. Entries stay in it only while the disk can't be written: then they go to the
database directly. If that is away as well, the entries that come after the bound are dropped and
counted; those that wait already are kept.
"""

import atexit
import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

from tunetrail.stores.database.log_entries import LogEntry
from tunetrail.stores.database.log_spool import LogSpool, deliver_left_entries, entries_of
from tunetrail.stores.database.manager import DatabaseManager

_SECONDS_BETWEEN_BATCHES = 0.2
_SECONDS_BETWEEN_ATTEMPTS = 2.0
_SECONDS_BETWEEN_LEFTOVERS = 60.0
# After that long without entries the thread ends; the next entry starts another one.
_IDLE_SECONDS = 30.0
_SECONDS_AT_EXIT = 5.0
# How long a fork waits for a delivery, since SQLite's own locks would stay held in the child.
_SECONDS_BEFORE_FORK = 1.0
_log = logging.getLogger("tunetrail.session")


class LogWriter:
    """Takes entries from any number of threads, and brings them to the database.

    Args:
        database_url: The database.
        folder: Folder of the spool.
        most_characters: The bound of what waits in memory.
        durable: Whether each entry is in the spool when `write` returns.

    Attributes:
        written: Number of entries that were taken.
        delivered: Number of entries that this process brought to the database.
        dropped: Number of entries that were given up, as memory was full.
    """

    def __init__(
        self, database_url: str, folder: Path, most_characters: int, *, durable: bool
    ) -> None:
        self.written = self.delivered = self.dropped = 0
        self._durable = durable
        self._most_characters = most_characters
        self._database_url = database_url
        self._folder = folder
        self._begin()
        _writers.add(self)

    def _begin(self) -> None:
        """Make what a process can't share with the one that it was forked from."""
        self._database = DatabaseManager(self._database_url)
        self._spool = LogSpool(self._folder)
        self._waiting: list[str] = []
        self._characters = 0
        self._changed = threading.Condition()
        # Held while entries leave memory, so that they stay in order.
        self._moving = threading.Lock()
        # Held while the database is at work, so that no fork comes in between.
        self._delivering = threading.Lock()
        self._is_held_for_fork = False
        self._thread: threading.Thread | None = None
        self._is_hurried = False
        self._is_away = self._is_disk_away = self._has_dropped = False
        self._dropped_before = 0

    def hold_for_fork(self) -> None:
        """Wait for the end of a delivery, and let no other begin until the fork is done."""
        self._is_held_for_fork = self._delivering.acquire(timeout=_SECONDS_BEFORE_FORK)

    def go_on_after_fork(self) -> None:
        """Deliver again, in the process that has forked."""
        if self._is_held_for_fork:
            self._is_held_for_fork = False
            self._delivering.release()

    def begin_after_fork(self) -> None:
        """Begin in a new process; what waited in the old one is delivered there."""
        self.written = self.delivered = self.dropped = 0
        self._spool.abandon()
        self._begin()

    def write(self, line: str) -> None:
        """Take the line of an entry. Nothing is raised, whatever the disk or the database do."""
        is_spooled = self._durable and self._try_to_spool(line)
        with self._changed:
            self.written += 1
            if not is_spooled:
                self._keep(line)
            if self._thread is None:
                # A daemon: a database that hangs must not keep the process alive.
                self._thread = threading.Thread(
                    target=self._work, name="tunetrail-session", daemon=True
                )
                self._thread.start()

    def _keep(self, line: str) -> None:
        if self._characters + len(line) <= self._most_characters:
            self._waiting.append(line)
            self._characters += len(line)
            return
        self.dropped += 1
        if not self._has_dropped:
            self._has_dropped = True
            _log.warning(
                "entries are dropped: %d characters wait in memory for the disk %s and the "
                "database %s",
                self._characters,
                self._folder,
                self._database.shown_url,
            )

    def flush(self, seconds: float) -> bool:
        """Return whether all entries since the last flush are on disk or in the database."""
        with self._changed:
            has_dropped = self.dropped > self._dropped_before
            self._dropped_before = self.dropped
        if not self._spool_waiting():
            return self.deliver(seconds) and not has_dropped
        with contextlib.suppress(OSError):
            self._spool.sync()
        return not has_dropped

    def deliver(self, seconds: float) -> bool:
        """Return whether the database has everything, after waiting for that."""
        with self._changed:
            self._is_hurried = True
            self._changed.notify_all()
            is_done = self._changed.wait_for(lambda: not self._has_work(), seconds)
            self._is_hurried = False
        return is_done

    def close(self, seconds: float) -> bool:
        """Spool what waits and deliver it as far as the time allows; return whether all was."""
        is_safe = self.flush(seconds)
        is_delivered = self.deliver(seconds)
        if not is_delivered and self._spool.has_entries:
            _log.warning(
                "entries that %s doesn't have yet are kept in %s: the next Session that uses the "
                "folder delivers them",
                self._database.shown_url,
                self._folder,
            )
        return is_safe and is_delivered

    @property
    def waiting(self) -> int:
        """Number of entries that this process has taken and the database doesn't have."""
        return max(0, self.written - self.delivered - self.dropped)

    def _has_work(self) -> bool:
        return bool(self._waiting) or self._spool.has_entries

    def _try_to_spool(self, lines: str) -> bool:
        try:
            self._spool.append(lines)
        except OSError as error:
            if not self._is_disk_away:
                self._is_disk_away = True
                _log.warning("entries can't be kept in %s: %s", self._folder, error)
            return False
        self._is_disk_away = False
        return True

    def _spool_waiting(self) -> bool:
        """Move what waits in memory to the spool; return whether nothing waits any more."""
        with self._moving:
            with self._changed:
                lines = list(self._waiting)
            if not lines:
                return True
            if not self._try_to_spool("".join(lines)):
                return False
            self._forget(lines)
        return True

    def _forget(self, lines: Sequence[str]) -> None:
        with self._changed:
            del self._waiting[: len(lines)]
            self._characters -= sum(map(len, lines))
            self._has_dropped = False

    def _work(self) -> None:
        last_leftovers = -_SECONDS_BETWEEN_LEFTOVERS
        idle_since = time.monotonic()
        while True:
            is_due = time.monotonic() - last_leftovers >= _SECONDS_BETWEEN_LEFTOVERS
            # First, as they are older than anything of this process.
            if is_due and self._try(self._deliver_leftovers):
                last_leftovers = time.monotonic()

            is_spooled = self._spool_waiting()
            if self._has_work():
                idle_since = time.monotonic()
                self._try(self._deliver_spool if is_spooled else self._deliver_memory)
            if not self._pause(idle_since):
                return

    def _pause(self, idle_since: float) -> bool:
        """Wait until there may be something to do; return False if the thread has to end."""
        with self._changed:
            has_work = self._has_work()
            if not has_work:
                self._changed.notify_all()
                if time.monotonic() - idle_since > _IDLE_SECONDS:
                    self._thread = None
                    return False
            pause = _SECONDS_BETWEEN_ATTEMPTS if self._is_away else _SECONDS_BETWEEN_BATCHES
            if not (self._is_hurried and has_work):
                self._changed.wait(pause)
        if self._is_away and self._is_hurried:
            # Also if somebody waits for the database: not a thousand times per second.
            time.sleep(_SECONDS_BETWEEN_BATCHES)
        return True

    def _deliver_leftovers(self) -> None:
        deliver_left_entries(self._database, self._folder)

    def _deliver_spool(self) -> None:
        while data := self._spool.next_lines():
            entries = list(entries_of(data))
            self._database.application_log.add(entries)
            self.delivered += len(entries)
            self._spool.mark_delivered(len(data))

    def _deliver_memory(self) -> None:
        """Deliver what waits without the spool, which can't be written."""
        # What is in the spool came first.
        self._deliver_spool()
        with self._moving:
            with self._changed:
                lines = list(self._waiting)
            entries = [LogEntry.from_line(line) for line in lines]
            self._database.application_log.add(entries)
            self.delivered += len(entries)
            self._forget(lines)

    def _try(self, work: Callable[[], object]) -> bool:
        """Do some work with the database; say once that it is away, and once that it is back."""
        try:
            with self._delivering:
                work()
        # Any error: it would end this thread, and nothing would be delivered any more.
        except Exception as error:
            if not self._is_away:
                self._is_away = True
                _log.warning("entries are kept in %s for now: %s", self._folder, error)
            return False
        if self._is_away:
            self._is_away = False
            _log.warning("the database %s has the entries now", self._database.shown_url)
        return True


_writers: weakref.WeakSet[LogWriter] = weakref.WeakSet()


def _of_all_writers(action: Callable[[LogWriter], None]) -> Callable[[], None]:
    """Return a function that takes the action with each writer of this process."""

    def act() -> None:
        for writer in list(_writers):
            action(writer)

    return act


def _close_all() -> None:
    until = time.monotonic() + _SECONDS_AT_EXIT
    for writer in list(_writers):
        writer.close(max(0.0, until - time.monotonic()))


atexit.register(_close_all)
os.register_at_fork(
    before=_of_all_writers(LogWriter.hold_for_fork),
    after_in_parent=_of_all_writers(LogWriter.go_on_after_fork),
    after_in_child=_of_all_writers(LogWriter.begin_after_fork),
)
