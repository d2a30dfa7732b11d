"""The learning-rate range test of Smith 2015 (https://arxiv.org/abs/1506.01186): a rate that rises step by step.

Lightning's own needs automatic optimization. Knows nothing of models.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException

from tunetrail.errors import ConfigError
from tunetrail.learning.training.console import progress_bar
from tunetrail.learning.training.module import StepBatch, TrainedModule, step_seed
from tunetrail.learning.training.steps import StepLoader

STEPS = 80
"""Optimizer steps of a range test."""
_SMOOTHING = 0.9
_DIVERGED = 4.0
_SETTLED = 8
"""Steps after which a rise of the loss counts."""

Curve = Sequence[tuple[float, float]]
"""Learning rates and losses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RateRange:
    """Which rates are tried, and which may be suggested.

    Attributes:
        first: The lowest rate tried.
        last: The highest rate tried.
        lowest: The lowest suggestion.
        highest: The highest suggestion.
    """

    first: float
    last: float
    lowest: float
    highest: float


WHOLE_MODEL = RateRange(first=1e-7, last=0.1, lowest=1e-6, highest=1e-2)
"""Where all weights are trained."""
ADAPTER = RateRange(first=1e-6, last=1.0, lowest=1e-5, highest=1e-1)
"""Adapters begin at nothing and take about ten times the rate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RangeTestResult:
    """The learning rate that takes the place of `auto`.

    Attributes:
        rate: The suggestion.
        curve: Rates tried, with the smoothed losses.
    """

    rate: float
    curve: tuple[tuple[float, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"rate": self.rate, "curve": [list(point) for point in self.curve]}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "RangeTestResult":
        """Return what `to_dict` was made of; raises `KeyError` or `TypeError` where something else is there."""
        return cls(
            rate=float(plain["rate"]),
            curve=tuple((float(rate), float(loss)) for rate, loss in plain["curve"]),
        )


class RangeTest(lightning.Callback):
    """Sets the learning rate of each step, from the first to the last by equal factors, and notes the losses.

    Ends the training where the loss isn't finite, or is four times the least so far, both smoothed.

    Args:
        nominal: The learning rate that the optimizer was built with; groups with a share of it keep their share.
        tried: The rates.
        steps: Number of steps.

    Attributes:
        before: What the batch of each step loses before the first step.
        losses: Of the steps taken.
    """

    def __init__(self, *, nominal: float, tried: RateRange, steps: int = STEPS) -> None:
        self.nominal = nominal
        self.rates = [float(rate) for rate in np.geomspace(tried.first, tried.last, steps)]
        self.before: list[float] = []
        self.losses: list[float] = []
        self._bar = progress_bar()
        self._task = self._bar.add_task("Learning rate", total=2 * steps)

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Note what the batches of all steps lose before the first one; raise `ConfigError` if it isn't finite."""
        assert isinstance(pl_module, TrainedModule) and isinstance(
            trainer.train_dataloader, StepLoader
        )
        self._bar.start()
        with torch.no_grad(), trainer.precision_plugin.train_step_context():
            for number, batch in enumerate(
                islice(_epochs(trainer.train_dataloader), len(self.rates))
            ):
                self.before.append(_loss_of(pl_module, batch, number))
                if not math.isfinite(self.before[-1]):
                    raise ConfigError(
                        "training.learning_rate must be a number for this model and these rows, got 'auto' and a loss "
                        f"of {self.before[-1]} before any step. With a number, the training names the rows."
                    )
                self._advance(trainer)

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Set the rate, whatever the schedule has set before."""
        rate = self.rates[min(len(self.losses), len(self.rates) - 1)]
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = rate * group["initial_lr"] / self.nominal

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Note the loss, which is that before the step; stop where it has risen too far."""
        self.losses.append(float(outputs["loss"]))
        self._advance(trainer)
        if has_diverged(self.relative()) or len(self.losses) == len(self.rates):
            trainer.should_stop = True

    def teardown(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Take the bar away."""
        self._bar.stop()

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Take the bar away."""
        self._bar.stop()

    def relative(self) -> list[float]:
        """Return the loss of each step beside what the same rows lost before all steps: rows of a step differ more."""
        start = sum(self.before) / len(self.before)
        return [
            start + loss - before for loss, before in zip(self.losses, self.before, strict=False)
        ]

    def found(self, tried: RateRange) -> RangeTestResult:
        """Return the suggestion."""
        finite = [loss for loss in self.relative() if math.isfinite(loss)]
        curve = tuple(zip(self.rates[: len(finite)], smoothed(finite), strict=True))
        return RangeTestResult(rate=suggested_rate(curve, tried), curve=curve)

    def _advance(self, trainer: lightning.Trainer) -> None:
        if trainer.received_sigterm:
            raise SIGTERMException
        self._bar.advance(self._task)


def _epochs(loader: StepLoader) -> Iterator[StepBatch]:
    """Yield the steps of one epoch after the other, as the training will take them."""
    for epoch in count():
        loader.steps.set_epoch(epoch)
        yield from loader


def _loss_of(module: TrainedModule, batch: StepBatch, step: int) -> float:
    """Return a step's loss with the dropout that the step will have."""
    total = 0.0
    for number, micro_batch in enumerate(batch.micro_batches):
        torch.manual_seed(step_seed(module.seed, step, number, module.global_rank))
        total += float(module.measures_of(micro_batch)["loss"])
    return total / sum(micro_batch.weight for micro_batch in batch.micro_batches)


def smoothed(losses: Sequence[float]) -> list[float]:
    """Return the exponential moving average of the losses, each corrected for its beginning at 0 (as in Adam)."""
    found, average = [], 0.0
    for number, loss in enumerate(losses, start=1):
        average = _SMOOTHING * average + (1.0 - _SMOOTHING) * loss
        found.append(average / (1.0 - _SMOOTHING**number))
    return found


def has_diverged(losses: Sequence[float]) -> bool:
    """Whether the last loss isn't finite, or has risen to four times the least and above the first, smoothed."""
    if not losses or not math.isfinite(losses[-1]):
        return bool(losses)
    found = smoothed(losses)
    return len(found) > _SETTLED and found[-1] > max(_DIVERGED * min(found), found[0])


def suggested_rate(curve: Curve, tried: RateRange) -> float:
    """Return the rate at which the loss falls fastest, or a tenth of that with the least loss if it is lower.

    A hint: it is the rate at which this model begins to learn these rows, found in a few steps; the best rate of a
    whole training also depends on its length. Rounded to two digits.

    Args:
        curve: Rates in ascending order, with smoothed losses.
        tried: Bounds of the suggestion.
    """
    if not curve:
        return tried.lowest
    rates, losses = np.array(curve, dtype=float).T
    least = int(losses.argmin())
    suggestion = rates[least] / 10.0
    if least >= 2:
        slopes = np.gradient(losses[: least + 1], np.log10(rates[: least + 1]))
        suggestion = min(suggestion, rates[slopes.argmin()])
    return float(f"{min(max(suggestion, tried.lowest), tried.highest):.1e}")
