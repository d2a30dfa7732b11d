"""Memory and processor time of a process and all that it started, sampled while it runs. Knows not what runs there."""

import contextlib
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_SECONDS_BETWEEN = 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class MemorySample:
    """Bytes that the processes held at one moment, summed.

    Attributes:
        moment: `time.monotonic()`.
        resident: Resident sets; pages of files that are mapped into several processes count in
            each.
        unique: Pages that belong to one process alone, mapped files that no other process has among
            them.
        anonymous: Pages that no file backs and that only swapping could free; equal to `unique`
            where the system doesn't tell.
    """

    moment: float
    resident: int
    unique: int
    anonymous: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledRun:
    """What was seen of a command: its samples in their order, and the seconds of all cores that its processes used."""

    samples: Sequence[MemorySample]
    core_seconds: float


def run_sampled(command: Sequence[str], folder: Path) -> SampledRun:
    """Run a command in `folder` to its end and watch it; raises `CalledProcessError` where it fails."""
    samples = []
    used: dict[int, float] = {}
    with subprocess.Popen(command, cwd=folder) as process:
        while process.poll() is None:
            sample = _sample(process.pid, used)
            if sample.resident:
                samples.append(sample)
            time.sleep(_SECONDS_BETWEEN)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return SampledRun(samples=samples, core_seconds=sum(used.values()))


def _sample(pid: int, used: dict[int, float]) -> MemorySample:
    """Take a sample, and note in `used` how many seconds each process has used so far."""
    resident = unique = anonymous = 0
    moment = time.monotonic()
    for process in _tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            memory, times = process.memory_full_info(), process.cpu_times()
            used[process.pid] = times.user + times.system
            resident += memory.rss
            unique += memory.uss
            anonymous += _anonymous(process.pid, memory.uss)
    return MemorySample(moment=moment, resident=resident, unique=unique, anonymous=anonymous)


def _tree(pid: int) -> Iterator[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        first = psutil.Process(pid)
        yield from (first, *first.children(recursive=True))


def _anonymous(pid: int, otherwise: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return otherwise
    held = [
        int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "RssShmem:"))
    ]
    return sum(held) if held else otherwise


def peak_resident() -> int:
    """Return the largest resident set that this process has had since its program began, in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage's would count what the process that started this one held, too
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
