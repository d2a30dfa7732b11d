"""Build the optimizer and the learning-rate schedule that all families share."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from tunetrail.config.training import OptimizerConfig
from tunetrail.learning.training.layers import layer_depths
from tunetrail.learning.weights import trained_weights

logger = logging.getLogger(__name__)

SCHEDULES = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant_with_warmup",
    "inverse_sqrt": "inverse_sqrt",
    "wsd": "warmup_stable_decay",
}
"""The name of each schedule in transformers, by its name in conf/."""

FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")
"""Devices for which torch has Adam as one kernel."""


def configure_optimizer(
    module: nn.Module,
    *,
    learning_rate: float,
    total_steps: int,
    weight_decay: float = 0.0,
    warmup_steps: int = 0,
    warmup_ratio: float = 0.0,
    schedule: str = "linear",
    decay_ratio: float = 0.2,
    optimizer: Mapping[str, Any] | None = None,
    fused: bool = True,
) -> dict[str, Any]:
    """Return the optimizer and a per-step schedule, as `configure_optimizers` of Lightning does.

    Args:
        module: The module whose trainable parameters are optimized.
        learning_rate: Peak of the schedule.
        total_steps: Optimizer steps of the training.
        weight_decay: Decay of the matrices; biases and norms never decay.
        warmup_steps: Steps of linear warm-up.
        warmup_ratio: Above 0, the warm-up as a share of the steps; replaces `warmup_steps`.
        schedule: `linear` or `cosine` to 0, `constant`, `inverse_sqrt`, or `wsd` (warm-up, stable,
            decay).
        decay_ratio: Share of the steps in which `wsd` decays.
        optimizer: Settings of `training.optimizer` as plain values; None for its defaults.
        fused: Use Adam's fused kernel if torch has one. False for fp16 with gradient scaling: a
            fused kernel unscales the gradients itself, and they would be clipped before.

    Raises:
        ConfigError: An optimizer's setting is out of range, or `layer_decay` is below 1 and the
            model has no layers.
    """
    settings = OptimizerConfig(**dict(optimizer or {}))
    if warmup_ratio > 0.0:
        warmup_steps = int(warmup_ratio * total_steps)
    else:
        warmup_steps = effective_warmup_steps(warmup_steps, total_steps)

    groups = parameter_groups(module, weight_decay, learning_rate, settings.layer_decay)
    built = _build_optimizer(groups, learning_rate, settings, fused)
    scheduler = build_schedule(
        built,
        schedule=schedule,
        warmup_steps=warmup_steps,
        decay_ratio=decay_ratio,
        total_steps=total_steps,
    )
    return {"optimizer": built, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def parameter_groups(
    module: nn.Module, weight_decay: float, learning_rate: float = 0.0, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Split the trainable parameters: matrices decay, biases and norms don't.

    Biases and norms are the parameters with fewer than two dimensions. With a `layer_decay` below
    1, the parameters are split by depth as well, from the embeddings up, and each group has its own
    rate: learning_rate * layer_decay ** depth (ELECTRA, https://arxiv.org/abs/2003.10555, appendix
    A).

    Raises:
        ConfigError: `layer_decay` is below 1 and the model has no numbered layers.
    """
    trainable = trained_weights(module)
    if layer_decay == 1.0:
        # Decay pulls a weight towards 0, where a norm's scale would switch off its input.
        matrices = [weight for weight in trainable.values() if weight.ndim >= 2]
        vectors = [weight for weight in trainable.values() if weight.ndim < 2]
        return [
            {"params": matrices, "weight_decay": weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]

    depths = layer_depths(module)
    members: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in trainable.items():
        members.setdefault((depths[name], parameter.ndim < 2), []).append(parameter)

    groups = []
    # From the embeddings up: the deepest groups come first.
    for depth, is_vector in sorted(members, reverse=True):
        group = {
            "params": members[depth, is_vector],
            "weight_decay": 0.0 if is_vector else weight_decay,
            "lr": learning_rate * layer_decay**depth,
        }
        groups.append(group)
    return groups


def _build_optimizer(
    groups: list[dict[str, Any]], learning_rate: float, settings: OptimizerConfig, fused: bool
) -> torch.optim.Optimizer:
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=settings.momentum)

    # Adafactor has its own kind of settings, and its rate is relative to the size of the weights.
    if settings.name == "adafactor":
        return torch.optim.Adafactor(groups, lr=learning_rate)

    parameters = [parameter for group in groups for parameter in group["params"]]
    can_fuse = all(
        weight.is_floating_point() and weight.device.type in FUSED_DEVICES for weight in parameters
    )
    optimizer = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
    return optimizer(
        groups,
        lr=learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        fused=(fused and can_fuse) or None,  # None: torch chooses among its other forms
    )


def build_schedule(
    optimizer: torch.optim.Optimizer,
    *,
    schedule: str,
    warmup_steps: int,
    decay_ratio: float,
    total_steps: int,
) -> LambdaLR:
    """Return a schedule that multiplies each group's own rate.

    All schedules rise linearly from 0 during the warm-up. `inverse_sqrt` then falls as
    sqrt(warm-up / step), and without a warm-up as sqrt(10,000 / (10,000 + step)). `wsd` falls by
    1 - sqrt(share of the decay), after https://arxiv.org/abs/2405.18392.
    """
    options: dict[str, Any] = {}
    if schedule == "wsd":
        decay_steps = round(decay_ratio * total_steps)
        longest_decay = total_steps - warmup_steps
        # The decay can't begin before the warm-up has ended.
        if decay_steps > longest_decay:
            logger.warning(
                "a warm-up of %d steps and training.decay_ratio=%s don't fit into %d training "
                "steps; the learning rate decays over the last %d steps only",
                warmup_steps,
                decay_ratio,
                total_steps,
                longest_decay,
            )
            decay_steps = longest_decay
        options = {"num_decay_steps": decay_steps, "decay_type": "1-sqrt"}

    scheduler: LambdaLR = get_scheduler(
        SCHEDULES[schedule],
        optimizer,
        num_warmup_steps=warmup_steps,
        num_training_steps=total_steps,
        scheduler_specific_kwargs=options,
    )
    return scheduler


def effective_warmup_steps(warmup_steps: int, total_steps: int) -> int:
    """Return the configured warm-up, or a tenth of a training that is too short for it.

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
