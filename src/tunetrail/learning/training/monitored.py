"""The metric of a validation that chooses the weights and stops the training early.

It imports neither torch nor Lightning: families name their metrics before anything is trained.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tunetrail.learning.training.records import Encode


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
