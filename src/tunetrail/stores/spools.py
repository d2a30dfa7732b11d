"""Spools: files of what a store doesn't have yet, such as reports of metrics for MLflow."""

import contextlib
import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tunetrail.paths import private_file, private_folder

SPOOL = "spool"
"""Folder below `output_dir`."""
SUFFIX = ".jsonl"
MOST_PER_BATCH = 1000
"""MLflow's limit for one request."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Report:
    """Metrics that a run reported together.

    Attributes:
        run_id: The run.
        metrics: Name, value, time in milliseconds since 1970, and step of each metric.
        resumed: Whether the run was resumed, so that it may repeat steps that it had logged.
    """

    run_id: str
    metrics: Sequence[tuple[str, float, int, int]]
    resumed: bool = False

    def to_line(self) -> str:
        """Return the report as a line of a spool."""
        return json.dumps([self.run_id, self.metrics, self.resumed]) + "\n"

    @classmethod
    def from_line(cls, line: str) -> "Report":
        """Return the report of a line of a spool; raises `ValueError` if the line is cut off."""
        run_id, metrics, resumed = json.loads(line)
        return cls(run_id, [tuple(metric) for metric in metrics], resumed)


class Spool:
    """A file of reports that MLflow doesn't have yet; the process that writes it holds its lock.

    Args:
        folder: Its folder.

    Attributes:
        path: The file; None if there is none.
    """

    def __init__(self, folder: Path) -> None:
        self.path: Path | None = None
        self._folder = folder
        self._file: IO[str] | None = None
        self._has_failed = False

    def append(self, report: Report) -> None:
        """Append a report; a disk that is full doesn't stop the training."""
        try:
            if self._file is None:
                self.path, self._file = open_spool(self._folder, SUFFIX)
            self._file.write(report.to_line())
            # To the kernel, so that a kill of this process loses nothing.
            self._file.flush()
        except OSError as error:
            if not self._has_failed:
                self._has_failed = True
                _log.warning("metrics that MLflow doesn't have yet are not kept on disk: %s", error)

    def remove(self) -> None:
        """Remove the file: everything in it was delivered."""
        if self._file is not None and self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
                self._file.close()
                # Fails if other processes have a file in it.
                self._folder.rmdir()
            self._file = self.path = None


def open_spool(folder: Path, suffix: str) -> tuple[Path, IO[str]]:
    """Make a spool file in a folder and return it, locked until this process closes it or ends.

    Raises:
        OSError: The folder or the file can't be made.
    """
    while True:
        # The time first, so that spools are delivered in the order in which they were begun.
        path = folder / f"{time.time_ns()}-{os.getpid()}{suffix}"
        private_folder(folder)
        # Another process may remove the empty folder at this moment.
        with contextlib.suppress(FileNotFoundError):
            file = private_file(path).open("a", encoding="utf-8")
            # It may also have taken the file for one of a dead process before this lock.
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(file.fileno()).st_nlink:
                    return path, file
            file.close()


def deliver_left_spools(folder: Path, suffix: str, deliver: Callable[[Path], bool]) -> list[Path]:
    """Deliver the spools that dead processes left in a folder, the oldest first.

    Nobody else reads or writes a spool while `deliver` has it. The folder goes with its last file.

    Args:
        folder: The folder.
        suffix: How the names of its spools end.
        deliver: Delivers the entries of a spool, and returns whether the file can go.

    Returns:
        The spools of processes that are alive, which deliver them themselves.
    """
    in_use = []
    for path in sorted(folder.glob(f"*{suffix}")):
        # Another process may deliver and remove it at this moment.
        with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                in_use.append(path)
                continue

            if deliver(path):
                path.unlink(missing_ok=True)

    with contextlib.suppress(OSError):
        folder.rmdir()
    return in_use


def whole_reports(lines: Iterable[str]) -> Iterator[Report]:
    """Yield the reports of the lines of a spool."""
    for line in lines:
        # A kill, or a full disk, may have cut off the last line.
        with contextlib.suppress(ValueError):
            yield Report.from_line(line)


def batches_of(reports: Iterable[Report]) -> Iterator[list[Report]]:
    """Yield reports that follow one another and belong to one run, as one request holds them."""
    batch: list[Report] = []
    points = 0
    for report in reports:
        points += len(report.metrics)
        if batch and (report.run_id != batch[0].run_id or points > MOST_PER_BATCH):
            yield batch
            batch, points = [], len(report.metrics)
        batch.append(report)
    if batch:
        yield batch
