"""The process that a training run belongs to, and whether that process is dead."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from tunetrail.errors import UserError

# Seconds; a corrected system clock shifts the start times that the kernel reports.
_CLOCK_TOLERANCE = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessIdentity:
    """A process, which can be distinguished from a later one with the same pid.

    Attributes:
        pid: The process id on the host.
        host: The name of the host.
        started: The time at which it started, in seconds since the epoch.
    """

    pid: int
    host: str
    started: float

    @classmethod
    def current(cls) -> "ProcessIdentity":
        """Return the identity of this process."""
        pid = os.getpid()
        return cls(pid=pid, host=socket.gethostname(), started=psutil.Process(pid).create_time())

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> "ProcessIdentity | None":
        """Return the process that the tags of a run describe, or None if they describe none."""
        try:
            return cls(
                pid=int(tags["tunetrail.pid"]),
                host=tags["tunetrail.host"],
                started=float(tags["tunetrail.process_started"]),
            )
        # The run is of another program, or somebody has edited its tags.
        except (KeyError, ValueError):
            return None

    def to_tags(self) -> dict[str, str]:
        """Return the identity as the tags of a run."""
        return {
            "tunetrail.pid": str(self.pid),
            "tunetrail.host": self.host,
            # `repr` keeps every digit of the time.
            "tunetrail.process_started": repr(self.started),
        }

    @property
    def is_here(self) -> bool:
        """Whether the process runs, or ran, on this host."""
        return self.host == socket.gethostname()

    def is_dead(self) -> bool:
        """Return True only if the process ran on this host and is certainly gone."""
        # The process ids of another host mean nothing here.
        if not self.is_here:
            return False
        try:
            process = psutil.Process(self.pid)
            # The kernel reuses process ids; a later process started at another time. A zombie has
            # ended: only its parent hasn't asked for the exit code yet.
            is_later_process = abs(process.create_time() - self.started) > _CLOCK_TOLERANCE
            return bool(is_later_process or process.status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True
        # Some process has this id, maybe this one: not certainly gone.
        except psutil.AccessDenied:
            return False

    def check_ended(self, run: str, *, force: bool = False) -> None:
        """Raise `UserError` if a run that is to be resumed may still be written to.

        Args:
            run: The run in words, for the message.
            force: Take a process on another host for dead.
        """
        if self.is_dead():
            return
        if self.is_here:
            raise UserError(
                f"{run} is still running in process {self.pid}. Wait until it has ended, or stop "
                "it."
            )
        # Whether a process of another host is alive can't be checked from here.
        if not force:
            raise UserError(
                f"{run} belongs to process {self.pid} on the host {self.host}, which may be alive. "
                "Resume it there, or add --force if it has certainly ended."
            )
