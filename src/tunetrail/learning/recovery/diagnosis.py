"""Find the rows without a finite loss, and whether the rows or the weights are at fault."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tunetrail.learning.evaluation_mode import undisturbed
from tunetrail.learning.training.micro_batches import MicroBatch, MicroBatchLoader
from tunetrail.learning.training.module import TrainedModule

SCORED_ROWS = 32
"""Rows of a step that are scored one by one."""
OTHER_ROWS = 4
"""Rows outside of the step that are scored if none of the step's rows has a finite loss."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """What was found out about a loss or gradient that is not finite.

    Attributes:
        positions: The rows that have no finite loss by themselves, as indices among the rows.
        rows: The same rows as indices among the records.
        tokens: Length of each of these rows, in the unit by which batches are composed.
        rows_at_fault: Whether other rows have a finite loss, so that the weights are fine.
    """

    positions: tuple[int, ...]
    rows: tuple[int, ...]
    tokens: tuple[int, ...]
    rows_at_fault: bool

    def __str__(self) -> str:
        """Name the rows by index and length; their texts may be personal."""
        if not self.rows:
            return "no row has a broken loss by itself"

        rows = zip(self.rows, self.tokens, strict=True)
        listed = ", ".join(f"{row} ({tokens} tokens)" for row, tokens in rows)
        return f"row{'s' * (len(self.rows) > 1)} {listed}"


def diagnose(
    module: TrainedModule, loader: MicroBatchLoader, micro_batches: Sequence[MicroBatch]
) -> Diagnosis:
    """Score micro-batches, then each row of the broken ones, as in evaluation, without gradients.

    Leaves the module's modes and the random generators as they were.

    Args:
        module: The module with the weights that gave the loss.
        loader: The loader of the rows.
        micro_batches: The micro-batches of the step.
    """

    def is_finite(row: int) -> bool:
        return module.is_finite(loader.build([row]))

    suspects: list[int] = []
    with undisturbed(module), torch.no_grad():
        for micro_batch in micro_batches:
            if not module.is_finite(micro_batch):
                suspects += micro_batch.rows

        del suspects[SCORED_ROWS:]
        rows = [row for row in suspects if not is_finite(row)]

        has_finite_rows = len(rows) < len(suspects)
        if rows and not has_finite_rows:
            has_finite_rows = any(map(is_finite, _rows_outside(micro_batches, loader)))

    return Diagnosis(
        positions=tuple(rows),
        rows=tuple(loader.record_indices(rows)),
        tokens=tuple(int(loader.batches.lengths[row]) for row in rows),
        rows_at_fault=bool(rows) and has_finite_rows,
    )


def _rows_outside(micro_batches: Sequence[MicroBatch], loader: MicroBatchLoader) -> list[int]:
    """Return the first rows that are in none of the micro-batches."""
    inside: set[int] = set()
    for micro_batch in micro_batches:
        inside.update(micro_batch.rows)

    candidates = range(min(len(inside) + OTHER_ROWS, loader.rows))
    return [row for row in candidates if row not in inside][:OTHER_ROWS]
