"""Tell what hardware this machine has without importing torch, which takes seconds."""

import os
import platform
from pathlib import Path

# NVIDIA's driver, AMD's driver, and the driver of NVIDIA's in the Linux of Windows.
_GPU_DEVICES = ("nvidia[0-9]*", "kfd", "dxg")


def cpu_count() -> int:
    """Return the number of CPU cores that this process may use."""
    # Not every system lets a process have fewer cores than the machine.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """Return the processor's name as Linux tells it, or else as Python knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def may_have_gpu() -> bool:
    """Tell whether the driver of a GPU is there: without one, torch finds no GPU either."""
    devices = Path("/dev")
    return any(next(devices.glob(name), None) for name in _GPU_DEVICES)
