"""`hydra/launcher=processes`: the jobs of a sweep in the slots of this machine."""

import logging
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence

from tunetrail.errors import ConfigError
from tunetrail.sweeps.launchers.base import JobLauncher
from tunetrail.sweeps.launchers.jobs import Job, JobEnd, JobProcess
from tunetrail.sweeps.launchers.slots import Slot, default_slots, divide_machine, gpus_for

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.1


class ProcessesLauncher(JobLauncher):
    """Runs as many jobs at a time as there are slots, and starts the next when a slot is free.

    Args:
        slots: Number of slots; None: one per GPU, or else two.
    """

    def __init__(self, slots: int | None = None) -> None:
        self._requested = slots

    def check(self) -> None:
        """Raise `ConfigError` unless there is a slot."""
        if self._requested is not None and self._requested < 1:
            raise ConfigError(
                f"hydra.launcher.slots must be at least 1, got {self._requested}. "
                "Leave it out for one slot per GPU, or two without a GPU."
            )

    @property
    def slots(self) -> int:
        """How many jobs run at the same time."""
        return self._requested or default_slots(self._gpus())

    def run_jobs(self, jobs: Sequence[Job]) -> list[JobEnd]:
        """Do all jobs; the failure or death of one doesn't stop the others.

        If this process is asked to stop, the jobs save and end before it does; if it is asked
        again, they are killed.
        """
        gpus = self._gpus()
        slots = divide_machine(self.slots, gpus)
        if len(slots) > len(gpus) > 0:
            logger.warning("%d slots share %d GPUs", len(slots), len(gpus))

        batch = _Batch(jobs, slots, self.end_job)
        try:
            return batch.run()
        except BaseException as error:
            batch.stop(_signal_behind(error))
            raise

    def _gpus(self) -> list[str]:
        return gpus_for(self.config.get("trainer") or {})


class _Batch:
    """Jobs on their way through the slots.

    Args:
        jobs: The jobs.
        slots: Where they run.
        end_job: Called with each job that has ended.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        slots: Sequence[Slot],
        end_job: Callable[[Job, JobEnd], None],
    ) -> None:
        self._waiting = deque(jobs)
        self._free = deque(slots)
        self._running: list[tuple[Slot, JobProcess]] = []
        self._ends: dict[int, JobEnd] = {}
        self._numbers = [job.number for job in jobs]
        self._end_job = end_job

    def run(self) -> list[JobEnd]:
        while self._waiting or self._running:
            while self._waiting and self._free:
                self._start(self._waiting.popleft(), self._free.popleft())
            time.sleep(_POLL_SECONDS)
            self._collect()
        return [self._ends[number] for number in self._numbers]

    def stop(self, signal_number: int) -> None:
        """Let the running jobs save and end; kill them if this process is told to hurry."""
        if not self._running:
            return
        logger.warning(
            "%s: %d jobs save and end; a second signal kills them",
            signal.Signals(signal_number).name,
            len(self._running),
        )

        try:
            # All are asked before the first is waited for: they save at the same time.
            for _, process in self._running:
                process.stop(signal_number)
            for _, process in self._running:
                process.wait()
        except BaseException:
            for _, process in self._running:
                process.kill()
            raise

    def _start(self, job: Job, slot: Slot) -> None:
        self._running.append((slot, JobProcess(job, slot.environment())))
        logger.info("%s starts in %s; log: %s", job, slot, os.path.relpath(job.log))

    def _collect(self) -> None:
        """Free the slots whose jobs have ended."""
        # A new list: what has ended can't be removed from a list that is being read.
        still_running = []
        for slot, process in self._running:
            end = process.poll()
            if end is None:
                still_running.append((slot, process))
                continue

            self._ends[process.job.number] = end
            self._free.append(slot)
            self._end_job(process.job, end)
        self._running = still_running


def _signal_behind(error: BaseException) -> int:
    """Return the signal that an exception stands for: the jobs get the same one."""
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGINT
    # Our commands turn signal n into SystemExit(128 + n).
    if isinstance(error, SystemExit) and error.code == 128 + signal.SIGINT:
        return signal.SIGINT
    return signal.SIGTERM
