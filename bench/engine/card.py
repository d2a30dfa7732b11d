"""The device that a measured process computes on: which it is, what it could do, what it holds.

A process computes on the GPU that it sees; the CPU's benchmarks see none (bench.fresh).
"""

import torch

from bench.engine.clock import StepClock
from bench.engine.tasks import Task
from bench.memory import peak_resident
from tunetrail.learning import flops
from tunetrail.learning.training import precision

_TERA = 1e12
DATA_SHEETS = {
    "A10": 125.0,
    "A100": 312.0,
    "A10G": 70.0,
    "A30": 165.0,
    "A40": 149.7,
    "B200": 2250.0,
    "GH200": 989.4,
    "H100": 989.4,
    "H100 NVL": 835.5,
    "H100 PCIe": 756.0,
    "H200": 989.4,
    "L4": 121.0,
    "L40": 181.1,
    "L40S": 362.1,
    "RTX 3090": 71.0,
    "RTX 4090": 165.2,
    "RTX 6000 Ada": 364.2,
    "RTX A6000": 154.8,
}
"""Peak of bfloat16 products in TFLOP/s, dense and summed up in float32, by a part of the card's
name. From NVIDIA's data sheets, which give the sparse figure, twice as much, for newer cards."""


def device() -> str:
    """Return `cuda` if this process sees a GPU, otherwise `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def card_name() -> str | None:
    """Return the name of the GPU, None without one."""
    return torch.cuda.get_device_name() if device() == "cuda" else None


def has_bfloat16() -> bool:
    """Tell whether both sides train in bfloat16: on a GPU that computes it."""
    return device() == "cuda" and precision.has_bfloat16("cuda")


def data_sheet_peak(name: str) -> float | None:
    """Return the FLOP/s of bfloat16 products by the card's data sheet, None for an unknown card."""
    known = [card for card in DATA_SHEETS if card in name]
    # The longest name: an A100 isn't an A10, and an L40S no L4.
    return DATA_SHEETS[max(known, key=len)] * _TERA if known else None


def machine_peak() -> float:
    """Return the FLOP/s that MFU is a share of: the data sheet's, or measured without one."""
    name = card_name()
    if name is None:
        return flops.measured_peak(1.0)

    from_data_sheet = data_sheet_peak(name) if has_bfloat16() else None
    if from_data_sheet is not None:
        return from_data_sheet
    measured = flops.measured_peak(1.0, "cuda", torch.bfloat16 if has_bfloat16() else torch.float16)
    # The matrices are no memory of the training.
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return measured


def peak_memory() -> int:
    """Return the most bytes that tensors held on the GPU, or the process on a CPU."""
    return torch.cuda.max_memory_allocated() if device() == "cuda" else peak_resident()


def clock_of(task: Task) -> StepClock:
    """Return a clock that waits for the GPU where the timed steps begin and end."""
    return StepClock(borders={task.steps // task.epochs, task.steps})
