"""Rewinding: a training goes back to a checkpoint, or to its start, without a second copy of its weights in memory.

Only the state goes back: the batches and the count of steps go on.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn

from tunetrail.learning.training.averaging import WeightAveraging
from tunetrail.learning.training.module import TrainedModule

Weights = Mapping[str, Tensor]


def starting_weights(module: nn.Module) -> Weights | None:
    """Return a copy of the trained weights, None where all are trained: then they lie in the model's folder."""
    if all(parameter.requires_grad for parameter in module.parameters()):
        return None
    return {
        name: each.detach().clone()
        for name, each in module.named_parameters()
        if each.requires_grad
    }


def rewind(
    module: TrainedModule, checkpoint: Path | None, start: Weights | None, rate: float
) -> None:
    """Bring back weights, optimizer, schedule and averaged weights.

    Args:
        module: In training.
        checkpoint: Whose state comes back; nothing is unpickled. None: that of the training's start.
        start: What `starting_weights` returned at the start.
        rate: Factor of every learning rate of the schedule from now on.
    """
    trainer = module.trainer
    optimizer: Any = trainer.optimizers[0]
    scheduler: Any = trainer.lr_scheduler_configs[0].scheduler
    optimizer.state.clear()  # first, or there would be two of it in memory
    if checkpoint is None:
        state: dict[str, Any] = {}
        module.load_state_dict(
            _built_anew(module) if start is None else start, strict=start is None
        )
        scheduler.load_state_dict({**scheduler.state_dict(), "last_epoch": 0, "_step_count": 1})
    else:
        # the file is mapped into memory: only what is being copied is there
        state = torch.load(checkpoint, weights_only=True, map_location="cpu", mmap=True)
        module.load_state_dict(state["state_dict"], strict=module.strict_loading)
        trainer.strategy.load_optimizer_state_dict(state)
        _leave_the_file(optimizer)
        scheduler.load_state_dict(state["lr_schedulers"][0])
    set_rate(optimizer, scheduler, rate)
    _rewind_scale(trainer.precision_plugin, state)
    _rewind_averages(trainer, module, state.get("averaging"))


def _rewind_scale(precision: Any, state: Mapping[str, Any]) -> None:
    """Bring back the scale of fp16's gradients, which has fallen until it was no use."""
    scaler, kept = getattr(precision, "scaler", None), state.get(type(precision).__qualname__)
    if scaler is None:
        return
    if kept:
        scaler.load_state_dict(kept)
    else:
        scaler.update(scaler._init_scale)


def set_rate(optimizer: torch.optim.Optimizer, scheduler: Any, rate: float) -> None:
    """Multiply the learning rates of a schedule by `rate`, now and later; 1 gives those that were asked for."""
    scheduler.base_lrs = [group["initial_lr"] * rate for group in optimizer.param_groups]
    factors = [each(scheduler.last_epoch) for each in scheduler.lr_lambdas]
    scheduler._last_lr = [
        base * factor for base, factor in zip(scheduler.base_lrs, factors, strict=True)
    ]
    for group, now in zip(optimizer.param_groups, scheduler._last_lr, strict=True):
        group["lr"] = now


def _built_anew(module: TrainedModule) -> Weights:
    with isolate_rng():
        weights: Weights = type(module)(**module.hparams).state_dict()
        return weights


def _leave_the_file(optimizer: torch.optim.Optimizer) -> None:
    for state in optimizer.state.values():
        state.update(
            {name: each.clone() for name, each in state.items() if isinstance(each, Tensor)}
        )


def _rewind_averages(
    trainer: lightning.Trainer, module: TrainedModule, saved: Mapping[str, Any] | None
) -> None:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if not isinstance(callback, WeightAveraging):
            continue
        if saved is None:  # nothing was averaged yet
            callback.begin_anew(trainer.global_step)
        else:
            callback.on_load_checkpoint(
                trainer, module, {"averaging": {**saved, "step": trainer.global_step}}
            )
            callback.on_train_start(trainer, module)
