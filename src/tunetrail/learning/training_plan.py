"""The circumstances of one training: everything but its model, its rows and its configuration."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tunetrail.config.trainer import TrainerConfig
from tunetrail.learning.automatic.auto_values import AutoValues
from tunetrail.learning.lightning_internals import no_time_left
from tunetrail.learning.recovery.failures import Recovery
from tunetrail.learning.training.callbacks import MetricsSink
from tunetrail.learning.training.monitored import Monitor
from tunetrail.learning.training.records import Refresh


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPlan:
    """How one training is run.

    Attributes:
        folder: Folder of the checkpoints, `checkpoints/best.ckpt` and `checkpoints/last.ckpt`.
        on_metrics: Receives metrics during the training.
        validate: False trains without validation, early stopping and best checkpoint (a fold).
        monitor: The metric of the validation by which weights are chosen and training stops early.
        refresh: How the training records are made again between epochs; None if they never are.
        resume: Checkpoint of the same training, which continues after its last finished step.
        auto_values: The values that replace `auto` in the configuration; None searches for them.
        budget: Share of the steps, and of the warm-up, that is taken; below 1 for a fold.
        trainer: The devices; with several, each rank calls `fit` in a process of its own.
        num_nodes: Number of machines, each with the devices of `trainer`.
        time_left: Returns how long the whole run still takes, for the bar; empty if unknown.
        recovery: Into how small pieces batches are cut because the memory of a rank was full; None
            takes it from the checkpoint.
    """

    folder: Path
    on_metrics: MetricsSink
    validate: bool = True
    monitor: Monitor = field(default_factory=Monitor)
    refresh: Refresh | None = None
    resume: Path | None = None
    auto_values: AutoValues | None = None
    budget: float = 1.0
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    num_nodes: int = 1
    recovery: Recovery | None = None
    time_left: Callable[[], str] = no_time_left
