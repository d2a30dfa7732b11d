"""A job as a process of its own: what it needs, how it is started and stopped, and how it ended."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunetrail.errors import TunetrailError
from tunetrail.paths import private_file, private_folder

_ERROR = "error: "
# How much of the end of a log is searched for the error.
_TAIL_BYTES = 65536
_POLL_SECONDS = 0.2


class JobFailedError(TunetrailError):
    """A job of a sweep has failed or died; the message is the reason."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job with everything that another process, or another machine, needs to do it.

    Attributes:
        number: Number of the job in the sweep, from 0.
        name: What distinguishes it from the other jobs of its batch; empty if it is alone.
        overrides: The overrides that lead to its configuration.
        settings: The resolved configuration. It holds the passwords of the stores, so it is never
            written to a file that has a name.
        logging: Hydra's configuration of the log, and whether it is verbose.
        folder: The job's folder, absolute.
        log: The file for everything that the job prints, absolute.
        working_folder: The folder that relative paths start from.
        environment: Variables to set.
        driver: The id of the process that runs the sweep, if it is on the same machine.
    """

    number: int
    name: str
    overrides: tuple[str, ...]
    settings: Mapping[str, Any]
    logging: Mapping[str, Any]
    folder: str
    log: str
    working_folder: str
    environment: Mapping[str, str]
    driver: int | None

    def __str__(self) -> str:
        return f"job {self.number} ({self.name})" if self.name else f"job {self.number}"


@dataclass(frozen=True, kw_only=True)
class JobEnd:
    """How a job has ended.

    Attributes:
        reason: Why it failed; None if it finished.
        seconds: How long it took.
    """

    reason: str | None
    seconds: float = 0.0


class JobProcess:
    """A running job: a process in a group of its own, so that Ctrl-C reaches only its driver.

    Args:
        job: The job.
        environment: Further variables to set, such as a slot's.
    """

    def __init__(self, job: Job, environment: Mapping[str, str] | None = None) -> None:
        self.job = job
        self._started = time.monotonic()
        private_folder(Path(job.folder))
        self._log = private_file(Path(job.log))
        # A job that is resumed goes on with its log: only what follows is of this attempt.
        self._log_start = self._log.stat().st_size

        # Nothing of the working folder may take the place of a module, unless it does so here.
        safe_path = [] if os.getcwd() in sys.path else ["-P"]
        with self._log.open("ab") as log, _unnamed_file(job) as sent:
            self._process = subprocess.Popen(  # noqa: S603 -- our own command, without a shell
                [sys.executable, *safe_path, "-m", "tunetrail", "job"],
                stdin=sent,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=job.working_folder,
                env={**os.environ, **job.environment, **(environment or {})},
                start_new_session=True,
            )

    def poll(self) -> JobEnd | None:
        """Return how the job ended, or None while it runs."""
        exit_code = self._process.poll()
        if exit_code is None:
            return None

        if exit_code < 0:
            # It had no time to end the processes that it had started itself.
            self.kill()
        reason = _describe_failure(exit_code, self._log, self._log_start)
        return JobEnd(reason=reason, seconds=time.monotonic() - self._started)

    def stop(self, signal_number: int = signal.SIGTERM) -> None:
        """Ask the job to save and to end."""
        self._process.send_signal(signal_number)

    def wait(self) -> JobEnd:
        """Wait for the end of the job and return how it ended."""
        while (end := self.poll()) is None:
            time.sleep(_POLL_SECONDS)
        return end

    def kill(self) -> None:
        """End the job and all processes that it has started, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def run_in_process(job: Job) -> JobEnd:
    """Do a job in a process of its own, and return how it ended.

    If this process is asked to stop meanwhile, the job saves and ends first.
    """
    process = JobProcess(job)
    try:
        return process.wait()
    except BaseException:
        process.stop()
        process.wait()
        raise


def _unnamed_file(job: Job) -> Any:
    """Return an open file with what the job's process reads: a file that has no name."""
    # `default=str`: paths become text, as they would on the command line.
    sent = json.dumps({**vars(job), "parent": os.getpid()}, default=str)
    file = tempfile.TemporaryFile()  # noqa: SIM115 -- the caller closes it
    file.write(sent.encode())
    file.seek(0)
    return file


def _describe_failure(exit_code: int, log: Path, start: int) -> str | None:
    """Return why a job with this exit code failed, in words; None if it didn't."""
    if exit_code == 0:
        return None

    # Python gives -n for a signal that has killed a process; our commands exit with 128 + n.
    signal_number = -exit_code if exit_code < 0 else exit_code - 128
    if signal_number > 0:
        name = _signal_name(signal_number)
        if exit_code > 0:
            return f"stopped by {name}"
        full_memory = signal_number == signal.SIGKILL
        return f"killed by {name}" + (", perhaps since the memory was full" if full_memory else "")

    for line in reversed(_read_tail(log, start).splitlines()):
        if line.startswith(_ERROR):
            return line.removeprefix(_ERROR)
    return f"exit code {exit_code}; see {log}"


def _signal_name(signal_number: int) -> str:
    try:
        return f"signal {signal_number} ({signal.Signals(signal_number).name})"
    except ValueError:
        return f"signal {signal_number}"


def _read_tail(log: Path, start: int) -> str:
    """Return the end of a log, without what stood there before byte `start`."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start, size - _TAIL_BYTES))
        return file.read().decode(errors="replace")
