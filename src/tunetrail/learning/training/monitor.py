"""Callbacks that measure the monitored metric of a validation, and keep the best weights."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from tunetrail.learning.tokens.prompts import QUERY
from tunetrail.learning.training.monitored import Monitor
from tunetrail.learning.training.ranks import value_of_first_rank
from tunetrail.learning.training.records import Encode, NDArray


class MonitoredMetric(Callback):
    """Measures and logs the monitored metric at the end of each validation.

    It has to come before the callback that averages weights, which takes the averaged weights away
    at the end of a validation.

    Args:
        monitor: The metric, with its `measure`.
    """

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure and log the metric; NaN if the vectors of the model aren't finite."""
        if trainer.sanity_checking:
            return

        module: Any = pl_module
        # All ranks encode a share, and all measure, but their decisions must not differ by a bit.
        value = value_of_first_rank(self._measure(module.encode))
        module.log(self.monitor.key, value, prog_bar=True, sync_dist=True)

    def _measure(self, encode: Encode) -> float:
        def encode_finite(texts: Sequence[str], role: str = QUERY) -> NDArray:
            vectors = encode(texts, role)
            if not np.isfinite(vectors).all():
                raise FloatingPointError
            return vectors

        assert self.monitor.measure is not None
        try:
            return self.monitor.measure(encode_finite)
        except FloatingPointError:
            # `val/loss` isn't finite either, and the guard that looks at it can name the rows.
            return math.nan


class BestWeights(ModelCheckpoint):
    """Keeps the weights with the best monitored metric, and at equal values the lower loss.

    A metric of ranks often reaches its best value early, and the loss says which step is surest of
    its ranking. Only the choice of the weights follows it: an early stopping waits for the metric.

    Args:
        folder: Folder of the file, `best.ckpt`.
        monitor: The metric.

    Attributes:
        best_step: Optimizer steps that the weights had been trained for; None before the first.
        best_loss: Their validation loss.
    """

    def __init__(self, folder: Path, monitor: Monitor) -> None:
        super().__init__(
            folder,
            filename="best",
            monitor=monitor.key,
            mode=monitor.mode,
            enable_version_counter=False,
            save_on_train_epoch_end=False,
        )
        self.best_step: int | None = None
        self.best_loss = math.inf

    def state_dict(self) -> dict[str, Any]:
        """Return the state, with step and loss of the best weights for a resumed run."""
        best = {"best_step": self.best_step, "best_loss": self.best_loss}
        return {**super().state_dict(), **best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        super().load_state_dict(state_dict)
        self.best_step, self.best_loss = state_dict["best_step"], state_dict["best_loss"]

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Tell whether the weights are better than the best ones so far; remember step and loss."""
        loss = float(trainer.callback_metrics["val/loss"])
        is_better = super().check_monitor_top_k(trainer, current)
        if not is_better and current is not None:
            is_tie = bool(current == self.best_model_score) and loss < self.best_loss
            # As for the metric itself, the ranks must decide together.
            is_better = trainer.strategy.reduce_boolean_decision(is_tie)

        if is_better:
            self.best_step, self.best_loss = trainer.global_step, loss
        return is_better
