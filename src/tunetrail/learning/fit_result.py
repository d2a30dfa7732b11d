"""What a training did."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunetrail.learning.preflight.findings import PreflightReport
from tunetrail.plain_values import plain_values


@dataclass(frozen=True, kw_only=True, slots=True)
class FitResult:
    """What one training did.

    Attributes:
        steps: Optimizer steps taken.
        epochs: Epochs begun.
        seconds: Wall-clock time, that before an interruption included.
        precision: Lightning's name of the precision.
        stopped_early: Whether early stopping ended it.
        best_validation_loss: The validation loss of the weights that are the result; None without
            validation.
        monitor: The metric of the validation that chose them.
        best_value: Its value; None without validation.
        best_step: The optimizer step after which it was measured; None without validation.
        history: The reported (step, value) pairs of each metric.
        auto_values: The values that replaced `auto`, as plain values: `batch_size`,
            `learning_rate`.
        rewinds: How often a good state was restored because a loss or gradient was not finite.
        skipped_rows: Indices of the rows that were left out for that reason.
        preflight: What the checks before the training found; None if they were off.
    """

    steps: int
    epochs: int
    seconds: float
    precision: str
    stopped_early: bool
    best_validation_loss: float | None
    history: Mapping[str, Sequence[tuple[int, float]]]
    auto_values: Mapping[str, Any] = field(default_factory=dict)
    rewinds: int = 0
    skipped_rows: Sequence[int] = ()
    preflight: PreflightReport | None = None
    monitor: str = "val/loss"
    best_value: float | None = None
    best_step: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        plain = plain_values(self)

        # Stored under the name that the first version gave it.
        plain["found"] = plain.pop("auto_values")
        # An infinite gradient norm is part of the learning curve; plain values would lose it.
        plain["history"] = {name: list(map(list, curve)) for name, curve in self.history.items()}
        return plain
