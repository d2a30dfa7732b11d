"""Measure memory: how much a training may take, and the most that a piece of work held."""

import ctypes
import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

_INTERVAL = 0.002
_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_GROUPS_OF_PROCESS = Path("/proc/self/cgroup")
_V1_FILES = ("memory.limit_in_bytes", "memory.usage_in_bytes")
_V2_FILES = ("memory.max", "memory.current")


@dataclass(kw_only=True, slots=True)
class Peak:
    """The most bytes held while something ran."""

    bytes: int = 0


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure the most bytes held within the block.

    On a GPU torch counts them. On a CPU nothing does, so this process's resident memory is read
    every two milliseconds.
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

    # A daemon can't keep a failing process alive.
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
    """Return freed but reserved memory, or it would be counted for the next piece of work."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform == "linux":
        # glibc has it; other C libraries don't.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def collect_memory(device: torch.device) -> None:
    """Return all memory that nothing needs: models in reference cycles count as held."""
    gc.collect()
    release_memory(device)


def free_memory(device: torch.device) -> int:
    """Return the bytes that this process may still take on the device, within its limits."""
    if device.type == "cuda":
        # torch keeps freed memory reserved for this process.
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused

    rooms = [
        int(psutil.virtual_memory().available),
        control_group_room(_CONTROL_GROUPS, _GROUPS_OF_PROCESS),
        address_space_room(),
    ]
    return min(room for room in rooms if room is not None)


def address_space_room() -> int | None:
    """Return the bytes left of what `ulimit -v` allows this process; None without a limit."""
    process = psutil.Process()
    if not hasattr(process, "rlimit"):  # only Linux has it
        return None

    limit, _ = process.rlimit(psutil.RLIMIT_AS)
    if limit == psutil.RLIM_INFINITY:
        return None
    used = int(process.memory_info().vms)
    return max(int(limit) - used, 0)


def control_group_room(mounted: Path, groups_of_process: Path) -> int | None:
    """Return the bytes left in the tightest control group of this process; None without a limit.

    Cached files that can be dropped count as free.

    Args:
        mounted: Folder in which Linux shows the control groups, of version 1 or 2.
        groups_of_process: File that names the groups of this process.
    """
    if not groups_of_process.is_file():
        return None

    rooms = []
    for line in groups_of_process.read_text().splitlines():
        # `hierarchy:controllers:path`; version 2 names no controllers.
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue

        group = mounted / controllers / path.lstrip("/")
        files = _V1_FILES if controllers else _V2_FILES
        # The limits of all groups above apply as well.
        for folder in (group, *group.parents):
            if folder == mounted.parent:
                break
            limit, used = (_read_number(folder / name) for name in files)
            if limit is not None and used is not None:
                rooms.append(max(limit - used + _droppable(folder / "memory.stat"), 0))
    return min(rooms, default=None)


def _read_number(file: Path) -> int | None:
    """Return the number in a file; None if it holds no number, such as `max`."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _droppable(statistics: Path) -> int:
    """Return the bytes of cached files that the kernel can drop."""
    try:
        values = dict(line.split() for line in statistics.read_text().splitlines())
        return int(values.get("total_inactive_file", values.get("inactive_file", 0)))
    except (OSError, ValueError):
        return 0
