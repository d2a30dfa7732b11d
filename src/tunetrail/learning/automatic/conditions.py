"""The conditions of a measurement: the machine, and the lengths of the rows, as plain values."""

import importlib.metadata
from collections.abc import Sequence
from typing import Any

import psutil
import torch

_GIB = 2.0**30
_PACKAGES = ("tunetrail", "torch", "transformers")


def machine_conditions(device: torch.device) -> list[Any]:
    """Return what a measurement on a device of this machine depends on.

    That is the device, its threads and its memory in GiB, and the versions of what computes.
    """
    # A new version may be faster, or take other memory.
    versions = map(importlib.metadata.version, _PACKAGES)
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        return ["cuda", gpu.name, round(gpu.total_memory / _GIB), *versions]

    capability = torch.backends.cpu.get_cpu_capability()
    memory = round(psutil.virtual_memory().total / _GIB)
    return ["cpu", capability, torch.get_num_threads(), memory, *versions]


def length_class(lengths: Sequence[int]) -> list[int]:
    """Return the longest and the median length, as exponents of the next powers of two.

    So similar rows are in the same class.
    """
    ordered = sorted(lengths)
    longest, median = ordered[-1], ordered[len(ordered) // 2]
    return [int(longest - 1).bit_length(), int(median - 1).bit_length()]
