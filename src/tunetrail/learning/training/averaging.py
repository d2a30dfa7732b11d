"""Average the weights: exponentially over all steps (EMA), or over the last ones (SWA)."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.types import STEP_OUTPUT
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from tunetrail.learning.training.sharding import sliced_like, whole
from tunetrail.learning.weights import trained_weights

Decay = Callable[[int], float]
"""Takes the number of weights in an average; returns the share of it that the next ones leave."""


def averaging_callback(
    kind: str, decay: float, start: float, total_steps: int
) -> "WeightAveraging | None":
    """Return the callback for `training.averaging`, or None if nothing is averaged.

    After n updates, an EMA keeps min(decay, (1 + n) / (10 + n)) of the old average, so that a short
    training isn't left with its first weights (as TensorFlow's ExponentialMovingAverage with
    `num_updates`). SWA gives all weights the same share.

    Args:
        kind: `none`, `ema` or `swa`.
        decay: Share of the old average that an EMA keeps per step.
        start: Share of the steps after which SWA begins; at the latest, it is the last step.
        total_steps: Optimizer steps of the training.
    """
    if kind == "ema":
        return WeightAveraging(lambda updates: min(decay, (1 + updates) / (10 + updates)))

    if kind == "swa":
        # At least the last step is averaged.
        first_step = min(int(start * total_steps), max(total_steps - 1, 0))
        return WeightAveraging(lambda updates: updates / (updates + 1), first_step=first_step)

    return None


class WeightAveraging(Callback):
    """Validates, checkpoints and ends with averaged weights; the optimizer continues with its own.

    In a checkpoint, `state_dict` holds the averaged weights and `averaging` what a resumed training
    needs. Before the first average, everything is as without this callback.

    Lightning 2.6 has a callback of this name that isn't suited to fine-tuning: it averages integer
    buffers (position ids come out wrong), copies frozen weights, validates and returns the
    untrained model until the first average, can't load a checkpoint that holds the trained weights
    only, and saves the two sets the wrong way round when a validation fails.

    Args:
        decay: The share of the average, which is float32, that a step's weights leave.
        first_step: Number of steps before the first average.
    """

    def __init__(self, decay: Decay, first_step: int = 0) -> None:
        self.decay = decay
        self.first_step = first_step
        self.updates = 0
        self._step = 0
        self._averages: list[Tensor] = []

        # The optimizer's weights while the module shows the averages.
        self._set_aside: list[Tensor] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move averages from a checkpoint to the device of the weights."""
        self._averages = [average.to(pl_module.device) for average in self._averages]

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Take the step's weights into the average, if the optimizer took a step."""
        step = trainer.global_step
        # A step that the optimizer skipped isn't counted.
        if step == self._step or step <= self.first_step:
            return

        self._step = step
        # In float32: small changes would vanish in the precision of bf16 weights.
        trained = trained_weights(pl_module).values()
        weights = [weight.detach().to(torch.float32) for weight in trained]
        if self.updates:
            update = get_ema_multi_avg_fn(self.decay(self.updates))  # type: ignore[no-untyped-call]
            update(self._averages, weights, self.updates)
        else:
            self._averages = [weight.clone() for weight in weights]
        self.updates += 1

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the averaged weights."""
        self._show_averages(pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Return the optimizer's weights to the module."""
        self._show_weights(pl_module)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Return the optimizer's weights to the module if a validation failed."""
        self._show_weights(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the averaged weights in the module."""
        self._show_averages(pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Free the memory."""
        if stage == "fit":
            self._averages, self._set_aside = [], []

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put the averaged weights into `state_dict`, and both sets into `averaging`."""
        if not self._averages:
            return

        trained = trained_weights(pl_module)
        weights = self._set_aside or [weight.detach() for weight in trained.values()]
        whole_averages = list(map(whole, self._averages))
        checkpoint["averaging"] = {
            "updates": self.updates,
            "step": self._step,
            "averages": dict(zip(trained, whole_averages, strict=True)),
            "current": dict(zip(trained, map(whole, weights), strict=True)),
        }

        # By identity, because tied weights have two names.
        averages = dict(zip(map(id, trained.values()), whole_averages, strict=True))
        for name, parameter in pl_module.named_parameters(remove_duplicate=False):
            if id(parameter) in averages:
                checkpoint["state_dict"][name] = averages[id(parameter)].to(parameter.dtype)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore the averages, and replace the averaged weights by the optimizer's."""
        saved = checkpoint.get("averaging")
        if saved is None:
            return

        # The module holds the averaged weights by now, from `state_dict`.
        self.updates, self._step = saved["updates"], saved["step"]
        self._averages, current = [], []
        for name, weight in trained_weights(pl_module).items():
            self._averages.append(sliced_like(weight, saved["averages"][name].clone()))
            current.append(sliced_like(weight, saved["current"][name]))
        _set_weights(pl_module, current)

    def _show_averages(self, module: nn.Module) -> None:
        if self._averages and not self._set_aside:
            trained = trained_weights(module).values()
            self._set_aside = [weight.detach().clone() for weight in trained]
            _set_weights(module, self._averages)

    def _show_weights(self, module: nn.Module) -> None:
        if self._set_aside:
            _set_weights(module, self._set_aside)
            self._set_aside = []


@torch.no_grad()
def _set_weights(module: nn.Module, values: Iterable[Tensor]) -> None:
    for value, weight in zip(values, trained_weights(module).values(), strict=True):
        weight.copy_(value)
