"""Memory: what a training may take, and the most that a piece of work held. Knows nothing of models or batches."""

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

_INTERVAL = 0.002
_CGROUPS, _OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(kw_only=True, slots=True)
class Peak:
    """The most bytes held while something ran."""

    bytes: int = 0


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure the most bytes held within the block: on a GPU by torch, on a CPU by this process, resident.

    On a CPU nothing counts them, so they are looked at every two milliseconds.
    """
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        try:
            yield peak
        finally:
            peak.bytes = torch.cuda.max_memory_allocated(device)
        return
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_INTERVAL):
            peak.bytes = max(peak.bytes, held_memory(device))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
        peak.bytes = max(peak.bytes, held_memory(device))


def held_memory(device: torch.device) -> int:
    """Return the bytes held now: by torch on a GPU, resident by this process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


def release_memory(device: torch.device) -> None:
    """Give back what was freed but is still held, so that it isn't taken for what the next piece of work needs."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return
    trim = (
        getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    )  # glibc has it
    if trim is not None:
        trim(0)


def free_memory(device: torch.device) -> int:
    """Return the bytes that this process could still take on the device, within the limits set for it."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    rooms = (control_group_room(_CGROUPS, _OWN_CGROUPS), address_space_room())
    return min(
        [int(psutil.virtual_memory().available), *(room for room in rooms if room is not None)]
    )


def address_space_room() -> int | None:
    """Return the bytes left of what `ulimit -v` allows this process, None where there is no limit."""
    process = psutil.Process()
    if not hasattr(process, "rlimit"):  # Linux has it
        return None
    limit, _ = process.rlimit(psutil.RLIMIT_AS)
    return None if limit == psutil.RLIM_INFINITY else max(limit - int(process.memory_info().vms), 0)


def control_group_room(mounted: Path, own: Path) -> int | None:
    """Return the bytes left in the tightest control group above this process, None where there is no limit.

    Cached files that can be dropped count as free.

    Args:
        mounted: Where Linux shows the control groups, of version 1 or 2.
        own: File that names the groups of this process.
    """
    rooms = []
    for line in own.read_text().splitlines() if own.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = mounted / controllers
        names = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes")
            if controllers
            else ("memory.max", "memory.current")
        )
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder == mounted.parent:
                break
            limit, used = (_number(folder / name) for name in names)
            if limit is not None and used is not None:
                rooms.append(max(limit - used + _droppable(folder / "memory.stat"), 0))
    return min(rooms, default=None)


def _number(file: Path) -> int | None:
    """Return the number in a file; None where there is none, as in `max`."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _droppable(statistics: Path) -> int:
    try:
        pairs = dict(line.split() for line in statistics.read_text().splitlines())
        return int(pairs.get("total_inactive_file", pairs.get("inactive_file", 0)))
    except (OSError, ValueError):
        return 0
