"""The metric of a validation that chooses the weights and stops the training early."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pytorch_lightning import Callback, LightningModule, Trainer

from tunetrail.learning.tokens.prompts import QUERY
from tunetrail.learning.training.ranks import value_of_first_rank
from tunetrail.learning.training.records import Encode, NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Monitor:
    """A metric of the validation rows.

    Attributes:
        metric: Its name, without `val/`.
        higher_is_better: Its direction.
        measure: Takes a function that encodes with the model as it is; returns the metric. None if
            the module itself logs the metric, from the passes that give `val/loss`.
    """

    metric: str = "loss"
    higher_is_better: bool = False
    measure: Callable[[Encode], float] | None = None

    @property
    def key(self) -> str:
        """The name under which the metric is logged."""
        return f"val/{self.metric}"

    @property
    def mode(self) -> str:
        """The direction as Lightning's callbacks call it."""
        return "max" if self.higher_is_better else "min"


class MonitoredMetric(Callback):
    """Measures and logs the monitored metric at the end of each validation.

    It has to come before the callback that averages weights: at the end of a validation, that one
    takes the averaged weights away.

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
        is_shared = trainer.world_size > 1
        module.log(self.monitor.key, value, prog_bar=True, sync_dist=is_shared)

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
