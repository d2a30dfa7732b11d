"""Averaged weights in training: exponential over all steps (EMA), or equal over the last ones (SWA)."""

from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.utilities.types import STEP_OUTPUT
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

Update = Callable[[Sequence[Tensor], Sequence[Tensor], int], None]
"""Takes the averages, the current weights and the number of updates before, and changes the averages."""


def averaging_callback(
    kind: str, decay: float, start: float, total_steps: int
) -> "WeightAveraging | None":
    """Return the callback for `training.averaging`, or None where nothing is averaged.

    Args:
        kind: `none`, `ema` or `swa`.
        decay: Share of the old average that an EMA keeps per step.
        start: Share of the steps after which SWA begins; at the latest with the last step.
        total_steps: Optimizer steps of the training.
    """
    if kind == "ema":
        return WeightAveraging(exponential(decay))
    if kind == "swa":
        first = min(int(start * total_steps), max(total_steps - 1, 0))
        return WeightAveraging(get_swa_multi_avg_fn(), first_step=first)  # type: ignore[no-untyped-call]
    return None


def exponential(decay: float) -> Update:
    """Return the update of an exponential moving average.

    After n updates it keeps min(decay, (1 + n) / (10 + n)) of the old average, so that a short training isn't left with
    its first weights (as TensorFlow's ExponentialMovingAverage with `num_updates`).
    """

    def update(averages: Sequence[Tensor], weights: Sequence[Tensor], updates: int) -> None:
        kept = min(decay, (1 + updates) / (10 + updates))
        get_ema_multi_avg_fn(kept)(list(averages), list(weights), updates)  # type: ignore[no-untyped-call]

    return update


class WeightAveraging(lightning.Callback):
    """Validates, checkpoints and ends with averaged weights; the optimizer goes on with its own.

    In a checkpoint, `state_dict` holds the averaged weights and `averaging` what a resumed training needs. Before the
    first average, everything is as without this callback.

    Lightning 2.6 has a callback of this name that doesn't do for fine-tuning: it averages whole-number buffers
    (position ids come out wrong), copies frozen weights, validates and returns the untrained model until the first
    average, can't load a checkpoint that holds the trained weights only, and saves the two sets the wrong way round
    where a validation fails.

    Args:
        update: How a step's weights go into the average, in float32.
        first_step: Steps that pass before.
    """

    def __init__(self, update: Update, first_step: int = 0) -> None:
        self.update = update
        self.first_step = first_step
        self.updates = 0
        self._step = 0
        self._weights: dict[str, nn.Parameter] = {}
        self._averages: list[Tensor] = []
        self._aside: list[Tensor] = []

    def begin_anew(self, step: int) -> None:
        """Forget the averages; the next step after optimizer step `step` may begin new ones."""
        self.updates, self._step, self._averages = 0, step, []

    def setup(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Find the trained weights."""
        if stage == "fit":
            self._weights = {
                name: each for name, each in pl_module.named_parameters() if each.requires_grad
            }
            self.updates, self._step, self._averages, self._aside = 0, 0, [], []

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Put averages from a checkpoint where the weights are now."""
        pairs = zip(self._averages, self._weights.values(), strict=False)
        self._averages = [average.to(weight.device) for average, weight in pairs]

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Take the step's weights into the average, if the optimizer took a step."""
        if trainer.global_step == self._step or trainer.global_step <= self.first_step:
            return
        self._step = trainer.global_step
        current = [weight.detach().to(torch.float32) for weight in self._weights.values()]
        if self.updates:
            self.update(self._averages, current, self.updates)
        else:
            self._averages = [weight.clone() for weight in current]
        self.updates += 1

    def on_validation_epoch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Validate the averaged weights."""
        self._show_averages()

    def on_validation_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Give the optimizer its weights back."""
        self._show_current()

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Give the optimizer its weights back, should the validation have failed."""
        self._show_current()

    def on_train_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Leave the averaged weights in the module."""
        self._show_averages()

    def teardown(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Free the memory."""
        if stage == "fit":
            self._weights, self._averages, self._aside = {}, [], []

    def on_save_checkpoint(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Put the averaged weights into `state_dict`, and both sets into `averaging`."""
        if not self._averages:
            return
        current = self._aside or [weight.detach() for weight in self._weights.values()]
        checkpoint["averaging"] = {
            "updates": self.updates,
            "step": self._step,
            "averages": dict(zip(self._weights, self._averages, strict=True)),
            "current": dict(zip(self._weights, current, strict=True)),
        }
        averages = dict(zip(map(id, self._weights.values()), self._averages, strict=True))
        for name, parameter in pl_module.named_parameters(
            remove_duplicate=False
        ):  # tied weights have two names
            if id(parameter) in averages:
                checkpoint["state_dict"][name] = averages[id(parameter)].to(parameter.dtype)

    def on_load_checkpoint(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Go on with the average, and put the optimizer's weights in the place of the averaged ones."""
        saved = checkpoint.get("averaging")
        if saved is None:
            return
        self.updates, self._step = saved["updates"], saved["step"]
        self._averages = [saved["averages"][name].clone() for name in self._weights]
        _copy([saved["current"][name] for name in self._weights], self._weights.values())

    def _show_averages(self) -> None:
        if self._averages and not self._aside:
            self._aside = [weight.detach().clone() for weight in self._weights.values()]
            _copy(self._averages, self._weights.values())

    def _show_current(self) -> None:
        if self._aside:
            _copy(self._aside, self._weights.values())
            self._aside = []


@torch.no_grad()
def _copy(values: Any, parameters: Any) -> None:
    for value, parameter in zip(values, parameters, strict=True):
        parameter.copy_(value)
