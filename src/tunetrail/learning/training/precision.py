"""Choose the precision of a training: what the hardware allows, and what deserves a warning."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from tunetrail.config.training import AUTO
from tunetrail.errors import ConfigError
from tunetrail.learning.devices import device_kind

logger = logging.getLogger(__name__)

FLOAT32, FLOAT16_MIXED, BFLOAT16_MIXED = "32-true", "16-mixed", "bf16-mixed"
# The CPU instructions of x86 and ARM, by torch's names.
_BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16")


def resolve_precision(precision: str, use_mixed_precision: bool, device: str | None = None) -> str:
    """Return Lightning's name of the precision.

    `auto` is bf16 on a GPU that has it, otherwise fp16 on a GPU, and float32 on a CPU: without
    instructions for it, mixed precision is several times slower there, so `use_mixed_precision`
    means "where it helps". Any other precision is used as configured, whatever
    `use_mixed_precision` says.

    Args:
        precision: `training.precision`.
        use_mixed_precision: `training.use_mixed_precision`.
        device: Kind of the device, `cpu` or `cuda`; None for the one that Lightning trains on.

    Raises:
        ConfigError: float16 on a CPU, where Lightning would silently use bfloat16.
    """
    device = device or device_kind(AUTO)
    if precision == AUTO:
        if not use_mixed_precision or device != "cuda":
            return FLOAT32
        return BFLOAT16_MIXED if has_bfloat16(device) else FLOAT16_MIXED

    if device == "cpu" and precision == FLOAT16_MIXED:
        raise ConfigError(
            "training.precision must be auto, 32-true or a bf16 precision on a CPU, got "
            f"{precision!r}: float16 needs a GPU. Set training.precision=auto, which chooses what "
            "the machine is fast at."
        )

    if precision.startswith("bf16") and not has_bfloat16(device):
        logger.warning(
            "training.precision=%s: this %s has no bfloat16 instructions, so the training will be "
            "several times slower than with training.precision=32-true",
            precision,
            "CPU" if device == "cpu" else "GPU",
        )
    return precision


@contextmanager
def tf32_products(precision: str, device: str) -> Iterator[None]:
    """Let a GPU multiply float32 matrices by TF32 within the block, if the precision is mixed.

    TF32 has more digits than the 16 bits of all other products, and tensor cores compute it.
    `32-true` stays float32. The setting is the process's own, so it is as before afterwards.
    """
    before = torch.get_float32_matmul_precision()
    if device == "cuda" and precision.endswith("mixed"):
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def has_bfloat16(device: str) -> bool:
    """Tell whether this machine's CPU or GPU computes bfloat16 natively, not by emulation."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device != "cpu":
        return True

    # An older torch doesn't report the capabilities.
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in _BFLOAT16_INSTRUCTIONS)
