"""How many optimizer steps a training takes, and after how many it reports."""

import math
from dataclasses import replace

from tunetrail.config import TrainingConfig

# A curve of fewer points shows no course; more steps would hide what happens within them.
_FEWEST_REPORTS, _MOST_STEPS_PER_REPORT = 20, 10


def steps_of_epoch(batches: float, training: TrainingConfig) -> int:
    """Return the optimizer steps of an epoch with this many batches."""
    return math.ceil(math.ceil(batches) / training.batches.accumulate)


def total_steps(training: TrainingConfig, steps_per_epoch: int) -> int:
    """Return the optimizer steps of a training."""
    has_max_steps = training.max_steps > 0
    return training.max_steps if has_max_steps else training.num_epochs * steps_per_epoch


def budgeted(training: TrainingConfig, steps_per_epoch: int, budget: float) -> TrainingConfig:
    """Return the training of a fold: a share of the steps, at least one, and of the warm-up."""
    steps = max(1, round(total_steps(training, steps_per_epoch) * budget))
    # A warm-up longer than half of the steps would never reach the learning rate.
    warmup_steps = min(round(training.warmup_steps * budget), steps // 2)
    return replace(training, max_steps=steps, warmup_steps=warmup_steps)


def report_interval(training: TrainingConfig, steps: int) -> int:
    """Return the optimizer steps between two reports of a training of `steps`."""
    if training.logging_steps:
        return training.logging_steps
    return min(_MOST_STEPS_PER_REPORT, max(1, steps // _FEWEST_REPORTS))
