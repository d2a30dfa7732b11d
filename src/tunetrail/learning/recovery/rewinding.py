"""Rewind a training to a checkpoint, or to its start, without a second copy of its weights.

Only the state goes back: the batches and the count of steps continue.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn

from tunetrail.learning.torch_internals import restart_scaler, restart_schedule, set_last_rates
from tunetrail.learning.training.averaging import WeightAveraging
from tunetrail.learning.training.module import TrainedModule

Weights = Mapping[str, Tensor]


def starting_weights(module: nn.Module) -> Weights | None:
    """Return a copy of the trained weights; None if all are trained.

    In that case the starting weights lie in the model's folder.
    """
    parameters = dict(module.named_parameters())
    trained = {name: weight for name, weight in parameters.items() if weight.requires_grad}
    if len(trained) == len(parameters):
        return None
    return {name: weight.detach().clone() for name, weight in trained.items()}


def rewind(
    module: TrainedModule, checkpoint: Path | None, start: Weights | None, rate: float
) -> None:
    """Restore weights, optimizer, schedule and averaged weights.

    Args:
        module: The module in training.
        checkpoint: The checkpoint to restore, without unpickling; None for the training's start.
        start: The result of `starting_weights` at the start.
        rate: Factor of every learning rate of the schedule from now on.
    """
    trainer = module.trainer
    optimizer: Any = trainer.optimizers[0]
    scheduler: Any = trainer.lr_scheduler_configs[0].scheduler

    # First, or there would be two optimizer states in memory.
    optimizer.state.clear()

    if checkpoint is None:
        state: dict[str, Any] = {}
        weights = _rebuilt_weights(module) if start is None else start
        module.load_state_dict(weights, strict=start is None)
        restart_schedule(scheduler)
    else:
        # The file is mapped into memory, so only the tensor that is being copied takes any.
        state = torch.load(checkpoint, weights_only=True, map_location="cpu", mmap=True)
        module.load_state_dict(state["state_dict"], strict=module.strict_loading)
        trainer.strategy.load_optimizer_state_dict(state)
        _copy_from_file(optimizer)
        scheduler.load_state_dict(state["lr_schedulers"][0])

    set_rate(optimizer, scheduler, rate)
    _rewind_scale(trainer.precision_plugin, state)
    _rewind_averages(trainer, module, state.get("averaging"))


def set_rate(optimizer: torch.optim.Optimizer, scheduler: Any, rate: float) -> None:
    """Multiply the configured learning rates of a schedule by `rate`, now and for later steps."""
    scheduler.base_lrs = [group["initial_lr"] * rate for group in optimizer.param_groups]

    # `LambdaLR` multiplies a base rate by a factor of the step.
    rates = []
    for group, base_rate, factor in zip(
        optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
    ):
        group["lr"] = base_rate * factor(scheduler.last_epoch)
        rates.append(group["lr"])
    set_last_rates(scheduler, rates)


def _rewind_scale(precision: Any, state: Mapping[str, Any]) -> None:
    """Restore the scale of fp16's gradients, which has fallen until it was of no use."""
    scaler = getattr(precision, "scaler", None)
    if scaler is None:
        return

    saved = state.get(type(precision).__qualname__)
    if saved:
        scaler.load_state_dict(saved)
    else:
        restart_scaler(scaler)


def _rebuilt_weights(module: TrainedModule) -> Weights:
    """Return the weights of the same module, built again from its hyper-parameters."""
    with isolate_rng():
        weights: Weights = type(module)(**module.hparams).state_dict()
        return weights


def _copy_from_file(optimizer: torch.optim.Optimizer) -> None:
    """Copy the optimizer's tensors out of the mapped checkpoint."""
    for state in optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, Tensor):
                state[name] = value.clone()


def _rewind_averages(
    trainer: Trainer, module: TrainedModule, saved: Mapping[str, Any] | None
) -> None:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if not isinstance(callback, WeightAveraging):
            continue

        if saved is None:  # nothing was averaged yet
            callback.restart(trainer.global_step)
        else:
            averaging = {**saved, "step": trainer.global_step}
            callback.on_load_checkpoint(trainer, module, {"averaging": averaging})
            callback.on_train_start(trainer, module)
