"""Find the learning rate by the range test of Smith 2015 (https://arxiv.org/abs/1506.01186).

The rate rises step by step; the suggestion is read off the curve of the loss. Lightning's own range
test compares the losses of different rows, and changes the trainer that it runs in.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.exceptions import SIGTERMException

from tunetrail.errors import ConfigError
from tunetrail.learning.training.micro_batches import MicroBatchLoader, SharedBatch
from tunetrail.learning.training.module import TrainedModule, step_seed
from tunetrail.plain_values import plain_values

STEPS = 80
"""Optimizer steps of a range test."""
_SMOOTHING = 0.9
# Factor of the least loss above which the training has diverged.
_DIVERGED = 4.0
# Steps after which a rise of the loss counts.
_SETTLED = 8

Curve = Sequence[tuple[float, float]]
"""Learning rates and losses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RateRange:
    """Which rates are tried, and which may be suggested.

    Attributes:
        first: The lowest rate that is tried.
        last: The highest rate that is tried.
        lowest: The lowest suggestion.
        highest: The highest suggestion.
    """

    first: float
    last: float
    lowest: float
    highest: float


WHOLE_MODEL = RateRange(first=1e-7, last=0.1, lowest=1e-6, highest=1e-2)
"""For a training of all weights."""
ADAPTER = RateRange(first=1e-6, last=1.0, lowest=1e-5, highest=1e-1)
"""For adapters, which begin at zero and take about ten times the rate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RangeTestResult:
    """The learning rate that replaces `auto`.

    Attributes:
        rate: The suggestion.
        curve: The rates that were tried, with the smoothed losses.
    """

    rate: float
    curve: tuple[tuple[float, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return plain_values(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "RangeTestResult":
        """Return the result that `to_dict` has turned into plain values.

        Raises:
            KeyError: A value is missing.
            TypeError: A value has another type.
        """
        curve = tuple((float(rate), float(loss)) for rate, loss in plain["curve"])
        return cls(rate=float(plain["rate"]), curve=curve)


class RangeTest(Callback):
    """Raises the learning rate from step to step by equal factors, and records the losses.

    Ends the training when the loss is not finite, or is four times the least so far, both smoothed.

    Args:
        nominal: The learning rate that the optimizer was built with; parameter groups with a share
            of it keep their share.
        tried: The rates.
        steps: Number of steps.
        advance: Called after each batch, which goes through the model before all steps and in its
            own.

    Attributes:
        initial_losses: Loss of each step's batch before the first step.
        losses: Losses of the steps that were taken.
    """

    def __init__(
        self,
        *,
        nominal: float,
        tried: RateRange,
        steps: int = STEPS,
        advance: Callable[[], None] = lambda: None,
    ) -> None:
        self.nominal = nominal
        self.tried = tried
        self.advance = advance
        self.rates: list[float] = np.geomspace(tried.first, tried.last, steps).tolist()
        self.initial_losses: list[float] = []
        self.losses: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the loss of all steps' batches before the first step.

        Raises:
            ConfigError: One of them is not finite.
        """
        loader = trainer.train_dataloader
        assert isinstance(pl_module, TrainedModule) and isinstance(loader, MicroBatchLoader)

        windows = islice(_windows_of_all_epochs(loader), len(self.rates))
        with torch.no_grad(), trainer.precision_plugin.train_step_context():
            for step, window in enumerate(windows):
                loss = _loss_of(pl_module, window, step)
                if not math.isfinite(loss):
                    raise ConfigError(
                        "training.learning_rate must be a number for this model and these rows, "
                        f"got 'auto' and a loss of {loss} before any step. With a number, the "
                        "training names the rows."
                    )
                self.initial_losses.append(loss)
                self._advance(trainer)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the rate, whatever the schedule has set before."""
        rate = self.rates[min(len(self.losses), len(self.rates) - 1)]
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = rate * group["initial_lr"] / self.nominal

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the loss, which was computed before the step; stop if it has risen too far."""
        if not batch.ends_window:
            return

        self.losses.append(float(outputs["window_loss"]))
        self._advance(trainer)
        if has_diverged(self.relative_losses()) or len(self.losses) == len(self.rates):
            trainer.should_stop = True

    def relative_losses(self) -> list[float]:
        """Return the loss of each step relative to the initial loss of its rows.

        The rows of two steps differ more than the losses before and after a step.
        """
        mean_initial = sum(self.initial_losses) / len(self.initial_losses)
        # The test may have ended before the last rate.
        pairs = zip(self.losses, self.initial_losses, strict=False)
        return [mean_initial + loss - initial for loss, initial in pairs]

    def result(self) -> RangeTestResult:
        """Return the suggestion with the curve."""
        losses = smoothed(list(filter(math.isfinite, self.relative_losses())))
        curve = tuple(zip(self.rates[: len(losses)], losses, strict=True))
        return RangeTestResult(rate=suggested_rate(curve, self.tried), curve=curve)

    def _advance(self, trainer: Trainer) -> None:
        if trainer.received_sigterm:
            raise SIGTERMException
        self.advance()


def _windows_of_all_epochs(loader: MicroBatchLoader) -> Iterator[list[SharedBatch]]:
    """Yield the micro-batches of each optimizer step, epoch by epoch."""
    for epoch in count():
        loader.batches.set_epoch(epoch)
        window = []
        for batch in loader:
            window.append(batch)
            if batch.ends_window:
                yield window
                window = []


def _loss_of(module: TrainedModule, window: Sequence[SharedBatch], step: int) -> float:
    """Return a step's loss with the dropout that the step will have."""
    loss = 0.0
    for index, batch in enumerate(window):
        # The last micro-batch of an epoch may have fewer rows than parts.
        if not batch.batch.rows:
            continue
        # The same dropout, so that only the weights make a difference.
        torch.manual_seed(step_seed(module.seed, step, index, module.global_rank))
        loss += float(module.measures_of(batch.batch)["loss"])
    return loss / window[0].window_weight


def smoothed(losses: Sequence[float]) -> list[float]:
    """Return the exponential moving average of the losses, bias-corrected as in Adam."""
    averages, average = [], 0.0
    for step, loss in enumerate(losses, start=1):
        average = _SMOOTHING * average + (1.0 - _SMOOTHING) * loss
        averages.append(average / (1.0 - _SMOOTHING**step))
    return averages


def has_diverged(losses: Sequence[float]) -> bool:
    """Tell whether a training has diverged.

    It has if the last loss is not finite, or is more than four times the least and above the first
    loss, all smoothed.
    """
    if not losses:
        return False
    if not math.isfinite(losses[-1]):
        return True

    averages = smoothed(losses)
    limit = max(_DIVERGED * min(averages), averages[0])
    return len(averages) > _SETTLED and averages[-1] > limit


def suggested_rate(curve: Curve, tried: RateRange) -> float:
    """Return the rate at which the loss falls fastest, rounded to two digits.

    A tenth of the rate with the least loss is returned if that is lower. The suggestion is a hint:
    it is the rate at which this model begins to learn these rows, found in a few steps; the best
    rate of a whole training also depends on its length.

    Args:
        curve: Rates in ascending order, with smoothed losses.
        tried: Bounds of the suggestion.
    """
    if not curve:
        return tried.lowest

    rates, losses = np.array(curve, dtype=float).T
    least = int(losses.argmin())
    # At the rate with the least loss, the loss is about to rise.
    suggestion = rates[least] / 10.0

    # With fewer points there is no slope.
    if least >= 2:
        falling_rates = rates[: least + 1]
        slopes = np.gradient(losses[: least + 1], np.log10(falling_rates))
        suggestion = min(suggestion, falling_rates[slopes.argmin()])

    return float(f"{np.clip(suggestion, tried.lowest, tried.highest):.1e}")
