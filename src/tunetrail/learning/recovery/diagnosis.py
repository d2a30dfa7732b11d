"""Diagnosis: which rows of a step have no finite loss, and whether it is they that are at fault or the weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pytorch_lightning.utilities.seed import isolate_rng

from tunetrail.learning.evaluation_mode import evaluating
from tunetrail.learning.training.module import MicroBatch, TrainedModule
from tunetrail.learning.training.steps import StepLoader

SCORED_ROWS = 32
"""Rows of a step that are scored one by one."""
OTHER_ROWS = 4
"""Rows outside of the step that are scored where none of its own is finite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """What was found out about a loss or gradient that isn't finite.

    Attributes:
        micro_batches: Numbers of the step's micro-batches whose loss isn't finite.
        rows: Numbers, in the records, of the rows without a finite loss of their own.
        tokens: How long each of them is, in what the batches are composed by.
        rows_at_fault: Whether other rows have a finite loss, so that it isn't the weights.
    """

    micro_batches: tuple[int, ...]
    rows: tuple[int, ...]
    tokens: tuple[int, ...]
    rows_at_fault: bool

    def __str__(self) -> str:
        """Name the rows by number and length; texts may be personal."""
        if not self.rows:
            return "no row by itself"
        named = [
            f"{row} ({tokens} tokens)" for row, tokens in zip(self.rows, self.tokens, strict=True)
        ]
        return f"row{'s' * (len(self.rows) > 1)} {', '.join(named)}"


def diagnose(
    module: TrainedModule, loader: StepLoader, micro_batches: Sequence[MicroBatch]
) -> Diagnosis:
    """Score micro-batches, then the rows of the broken ones, one by one, as in evaluation and without gradients.

    Leaves the module's modes and the random generators as they were.

    Args:
        module: With the weights that gave the loss.
        loader: Of the rows.
        micro_batches: Of the step.
    """

    def is_finite(row: int) -> bool:
        return module.is_finite(loader.build([row]))

    with evaluating(module), isolate_rng(), torch.no_grad():
        broken = [number for number, each in enumerate(micro_batches) if not module.is_finite(each)]
        scored = [row for number in broken for row in micro_batches[number].rows][:SCORED_ROWS]
        rows = [row for row in scored if not is_finite(row)]
        healthy = len(rows) < len(scored)
        if rows and not healthy:
            step = {row for each in micro_batches for row in each.rows}
            others = [
                row
                for row in range(len(step) + OTHER_ROWS)
                if row not in step and row < loader.rows
            ]
            healthy = any(is_finite(row) for row in others[:OTHER_ROWS])
    return Diagnosis(
        micro_batches=tuple(broken),
        rows=tuple(loader.numbers_of(rows)),
        tokens=tuple(int(loader.steps.batches.lengths[row]) for row in rows),
        rows_at_fault=bool(rows) and healthy,
    )
