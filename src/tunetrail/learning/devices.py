"""Count and name the devices that a training may use, and bring tensors and models to them.

Between its computations a model lies on the CPU: two of them would need the GPU memory of both.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tunetrail.config import TrainingConfig
from tunetrail.config.trainer import TrainerConfig
from tunetrail.config.training import AUTO
from tunetrail.errors import ConfigError
from tunetrail.hardware import cpu_count, cpu_name

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")


def device_count(trainer: TrainerConfig) -> int:
    """Return the number of devices that a training runs on.

    Raises:
        ConfigError: There are fewer.
    """
    gpus = torch.cuda.device_count()
    if trainer.accelerator == "gpu" and not gpus:
        raise ConfigError(
            "trainer.accelerator must be cpu or auto on this machine, got 'gpu': torch finds no "
            "GPU. Install a build of torch for it, or set trainer=cpu."
        )

    is_gpu = trainer.accelerator != "cpu" and gpus > 0
    if trainer.devices == AUTO:
        return gpus if is_gpu else 1

    available = gpus if is_gpu else cpu_count()
    if int(trainer.devices) > available:
        kind = "GPUs" if is_gpu else "CPU cores"
        raise ConfigError(
            f"trainer.devices must be at most the {available} {kind} of this machine, got "
            f"{trainer.devices}. Lower it, or set trainer.devices=auto."
        )
    return int(trainer.devices)


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, by their names in CUDA_VISIBLE_DEVICES."""
    # Names, not only numbers: a GPU, or a part of one, may be chosen by its UUID.
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return list(map(str, range(torch.cuda.device_count())))
    return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]


def device_kind(accelerator: str) -> str:
    """Return `cuda` or `cpu`: where a training with this `trainer.accelerator` runs."""
    return "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return the tensor on a device; the CPU doesn't wait for a copy to a GPU.

    It would wait for all work that the GPU still has to do, unless the tensor lies in page-locked
    memory.
    """
    device = torch.device(device)
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def machine_facts() -> dict[str, Any]:
    """Return what the last digits of a computation depend on: processor, threads, GPUs, CUDA."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "cpu": cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        # A build for GPUs is another build on the CPU, too.
        "cuda": torch.version.cuda,
    }


@contextmanager
def thread_count(threads: int) -> Iterator[None]:
    """Compute with a number of threads in the block: sums depend on how they are divided."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_batch(training: TrainingConfig, devices: int, section: str) -> None:
    """Check that each device gets a row of a batch.

    Raises:
        ConfigError: The batch is too small.
    """
    key, rows = "batch_size", training.batch_size
    # The batch size that replaces `auto` is at most a step's.
    if rows == AUTO:
        key, rows = "batches.effective_size", training.batches.effective_size

    if isinstance(rows, int) and rows < devices:
        raise ConfigError(
            f"{section}.training.{key} must be at least trainer.devices={devices}, so that each "
            f"device gets a row, got {rows}. Raise it, or lower trainer.devices."
        )


def computing_device(trainer: TrainerConfig) -> torch.device:
    """Return the device on which this process scores, encodes and writes with a model.

    A rank of a training has a GPU of its own; any other process takes the first.
    """
    if device_kind(trainer.accelerator) == CPU.type:
        return CPU
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def placed_on(device: torch.device, model: nn.Module) -> Iterator[None]:
    """Move a model from the CPU to a device, and back afterwards.

    A model that lies on a GPU already, as in a training, stays where it is. If the device has no
    room for the model, it computes on the CPU, and a warning says so.
    """
    home = next(model.parameters()).device
    if device == home or home != CPU:
        yield
        return

    try:
        model.to(device)
    except torch.OutOfMemoryError:
        # Some of its weights may have been moved.
        model.to(home)
        logger.warning(
            "the model doesn't fit into the free memory of %s, so it computes on the CPU, which "
            "takes longer",
            device,
        )

    try:
        yield
    finally:
        model.to(home)
        if device.type == "cuda":
            # torch would keep the memory reserved, and the ranks of a training couldn't have it.
            torch.cuda.empty_cache()
