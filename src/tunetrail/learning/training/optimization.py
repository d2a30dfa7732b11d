"""The optimizer and learning-rate schedule that both Lightning modules share, and the precision the hardware allows."""

import logging
from typing import Any

import torch
from torch import nn
from transformers import get_scheduler

logger = logging.getLogger(__name__)

SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
"""conf/'s schedule names to transformers'."""


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trainable parameters: matrices decay, biases and norms (fewer than two dimensions) don't."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [each for each in trainable if each.ndim >= 2], "weight_decay": weight_decay},
        {"params": [each for each in trainable if each.ndim < 2], "weight_decay": 0.0},
    ]


def effective_warmup_steps(warmup_steps: int, total_steps: int) -> int:
    """Return the warm-up that a training of `total_steps` can afford: as asked for, or a tenth of a short training.

    A warm-up longer than half of the training would never let the learning rate reach its value.
    """
    if warmup_steps * 2 <= total_steps:
        return warmup_steps
    shortened = total_steps // 10
    logger.warning(
        "training.warmup_steps=%d is more than half of the %d training steps; %d are used",
        warmup_steps,
        total_steps,
        shortened,
    )
    return shortened


def configure_adamw(
    module: nn.Module, *, learning_rate: float, weight_decay: float, warmup_steps: int, schedule: str, total_steps: int
) -> dict[str, Any]:
    """Return AdamW and a per-step schedule in the form of Lightning's `configure_optimizers`."""
    optimizer = torch.optim.AdamW(parameter_groups(module, weight_decay), lr=learning_rate)
    scheduler = get_scheduler(
        SCHEDULES[schedule],
        optimizer,
        num_warmup_steps=effective_warmup_steps(warmup_steps, total_steps),
        num_training_steps=total_steps,
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def resolve_precision(use_mixed_precision: bool) -> str:
    """Return Lightning's precision for this machine: bf16 on a GPU that has it, else fp16 on a GPU, float32 on a CPU.

    On a CPU without bf16 instructions mixed precision is several times slower than float32, so `use_mixed_precision`
    means "where it helps".
    """
    if use_mixed_precision and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    return "32-true"
