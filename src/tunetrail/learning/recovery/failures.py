"""The failures of a training after which it can go on, and what it changes to do so."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from tunetrail.config.training import GuardsConfig
from tunetrail.errors import TrainingError
from tunetrail.learning.recovery.diagnosis import Diagnosis

logger = logging.getLogger(__name__)

STATE = "recovery"
"""Key of the recovery in a checkpoint's callback states."""


class RecoverableError(Exception):
    """A failure after which the training can go on; the weights are those before the step."""


@dataclass(kw_only=True, eq=False)
class NonFiniteError(RecoverableError):
    """A loss or gradient is not finite.

    Attributes:
        name: Which value it is.
        value: The value.
        step: Optimizer steps that were taken before.
        rate: Learning rate of the step.
        diagnosis: Which rows have no finite loss.
    """

    name: str
    value: float
    step: int
    rate: float
    diagnosis: Diagnosis

    def __str__(self) -> str:
        return f"{self.name} is {self.value} at step {self.step}"


@dataclass(kw_only=True, eq=False)
class FullMemoryError(RecoverableError):
    """A micro-batch doesn't fit into memory.

    Attributes:
        mini_batch_size: Rows that are to go through the model at once from now on.
        rows: Rows of a micro-batch, before the data cuts it.
        cuts_itself: Whether the module computes mini-batches with one backward pass; otherwise the
            data has to be cut.
    """

    mini_batch_size: int
    rows: int
    cuts_itself: bool

    def __str__(self) -> str:
        return f"{self.rows} rows don't fit into memory at once"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recovery:
    """What a training has changed so far to go on after failures.

    Attributes:
        rate: Factor of every learning rate.
        left_out: Rows that are left out, as indices among the training rows.
        skipped_rows: The same rows as indices among the training records.
        rewinds: How often it went back to a checkpoint with a lower rate.
        incidents: Losses and gradients that were not finite.
        mini_batch_size: Rows that go through the model at once; 0: as configured.
        parts: Number of parts into which the data cuts each micro-batch.
        seconds: Wall-clock time of the training so far, over all processes and attempts.
    """

    rate: float = 1.0
    left_out: tuple[int, ...] = ()
    skipped_rows: tuple[int, ...] = ()
    rewinds: int = 0
    incidents: int = 0
    mini_batch_size: int = 0
    parts: int = 1
    seconds: float = 0.0

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], file: Path) -> "Recovery":
        """Return a recovery from its fields as plain values, which a file holds.

        Raises:
            TrainingError: Another version of tunetrail wrote the file.
        """
        differing = sorted({field.name for field in fields(cls)} ^ set(plain))
        if differing:
            raise other_version(file, ", ".join(map(repr, differing)))
        left_out, skipped_rows = tuple(plain["left_out"]), tuple(plain["skipped_rows"])
        return cls(**{**plain, "left_out": left_out, "skipped_rows": skipped_rows})

    def after_non_finite(self, failure: NonFiniteError, guards: GuardsConfig) -> "Recovery":
        """Leave out the rows at fault; without any, go on at a lower rate.

        Raises:
            TrainingError: It was one incident too many, or validation rows are at fault.
        """
        diagnosis = failure.diagnosis
        if failure.name == "val/loss" and diagnosis.rows_at_fault:
            raise TrainingError(
                f"val/loss must be finite, got {failure.value} at step {failure.step} because of "
                f"{diagnosis} of the validation rows; others have a finite loss. Correct what is "
                "named, or leave it out."
            )
        if self.incidents >= guards.max_rewinds:
            raise TrainingError(
                f"{failure.name} must be finite, got {failure.value} at step {failure.step}. "
                f"{_advice(diagnosis)} It was incident {self.incidents + 1}, after {self.rewinds} "
                f"rewinds, at a learning rate of {failure.rate:.2g}; "
                f"training.guards.max_rewinds={guards.max_rewinds} allows no more."
            )

        after = replace(self, incidents=self.incidents + 1)
        if diagnosis.rows_at_fault:
            logger.warning("%s, caused by %s; left out from now on", failure, diagnosis)
            left_out = sorted({*self.left_out, *diagnosis.positions})
            skipped_rows = sorted({*self.skipped_rows, *diagnosis.rows})
            return replace(after, left_out=tuple(left_out), skipped_rows=tuple(skipped_rows))

        rate = self.rate * guards.rate_factor
        logger.warning(
            "%s: %s; back to the last good checkpoint, with %g of the learning rate from now on",
            failure,
            diagnosis,
            rate,
        )
        return replace(after, rewinds=self.rewinds + 1, rate=rate)

    def after_full_memory(self, failure: FullMemoryError) -> "Recovery":
        """Go on with fewer rows at once.

        Raises:
            TrainingError: A single row doesn't fit into memory.
        """
        if failure.mini_batch_size < 1:
            raise TrainingError(
                "one row alone doesn't fit into memory. Lower max_length, or set "
                "training.memory.gradient_checkpointing=true."
            )
        logger.warning(
            "out of memory: batches go through the model in mini-batches of %d rows from now on; "
            "gradients stay the same",
            failure.mini_batch_size,
        )

        # A failure of fewer, but longer rows must not undo what an earlier one has changed.
        size = min(self.mini_batch_size or failure.mini_batch_size, failure.mini_batch_size)
        after = replace(self, mini_batch_size=size)
        if failure.cuts_itself:
            return after
        # Smaller micro-batches take less memory than several within one backward pass.
        parts = -(-failure.rows // failure.mini_batch_size)
        return replace(after, parts=max(self.parts, parts))


def recovery_of(checkpoint: Path) -> Recovery:
    """Return what the training of a checkpoint had changed; nothing is unpickled.

    Raises:
        TrainingError: Another version of tunetrail wrote the checkpoint.
    """
    # The file is mapped into memory: only what is looked at is read.
    states = torch.load(checkpoint, weights_only=True, map_location="cpu", mmap=True)["callbacks"]
    for state in states.values():
        if isinstance(state, Mapping) and STATE in state:
            return Recovery.from_dict(state[STATE], checkpoint)
    raise other_version(checkpoint, repr(STATE))


def other_version(file: Path, differing: str) -> TrainingError:
    """Return the error for a file with another state than this version writes.

    Args:
        file: A checkpoint, or a recovery, in the folder of its run.
        differing: What is missing in it, or what this version doesn't know.
    """
    return TrainingError(
        f"{file} must be written by this version of tunetrail, got one that differs in "
        f"{differing}. Delete it to train from the beginning, or resume the run with the version "
        "that wrote it."
    )


def difference_in_state(error: Exception) -> str | None:
    """Return what a checkpoint lacked when it was loaded; None if the error is about other things.

    Args:
        error: What ended the attempt to resume.
    """
    if isinstance(error, KeyError):
        return str(error)
    # torch lists all weights that are missing, or too many.
    return "the model's weights" if "in loading state_dict" in str(error) else None


def _advice(diagnosis: Diagnosis) -> str:
    if diagnosis.rows_at_fault:
        return (
            f"Look at {diagnosis}, or leave them out: they have no finite loss, while others have."
        )

    lower = "Lower training.learning_rate, or lengthen training.warmup_steps"
    if diagnosis.rows:
        return (
            f"{lower}: no row that was scored has a finite loss ({diagnosis}), "
            "so the weights or all rows are broken."
        )
    return f"{lower}; every row by itself has a finite loss."
