"""Check machine and settings: a training fits into memory and onto the disk, and can be judged."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.utilities.seed import isolate_rng

from tunetrail.config import TrainingConfig
from tunetrail.errors import SampleError, TrainingError
from tunetrail.learning.automatic.batch_size_trial import ModuleProbe, state_bytes
from tunetrail.learning.memory_meter import free_memory, release_memory
from tunetrail.learning.out_of_memory import is_out_of_memory
from tunetrail.learning.preflight.findings import PreflightFinding, error, ok, warning
from tunetrail.learning.recovery.failures import FullMemoryError
from tunetrail.learning.training.module import TrainedModule
from tunetrail.learning.training.monitored import Monitor
from tunetrail.learning.training.sharding import is_sharded
from tunetrail.learning.weights import bytes_of, trained_weights

CATCHABLE = ("cuda", "mps", "xpu")
"""Devices that raise an error when their memory is full."""
# The best checkpoint, the last one, the last good one, and the one that is being written.
_FILES = 4
_GIB = 2.0**30


def check_worst_batch(
    training: TrainingConfig, is_reduced: bool, trainer: Trainer, module: TrainedModule
) -> PreflightFinding:
    """Check that a batch of the longest rows fits into memory along with the optimizer's state.

    On a GPU the batch goes forward and backward. Elsewhere the system kills a process that takes
    too much, so only the memory of the longest row is measured, and that of the batch is estimated
    from it. The gradients are dropped, and the random generators are left as they were.

    Raises:
        FullMemoryError: The batch fits only in smaller mini-batches.
    """
    name = "worst batch"
    if is_sharded(module):
        # How many batches are tried depends on the rank, but all ranks have to try as many.
        return ok(name, "batches aren't tried with sharded weights")
    rows = _worst_batch(trainer)
    tokens = int(_lengths(trainer)[rows].sum())
    batch = f"{len(rows)} rows with {tokens} tokens"

    # Counted here, because the optimizer creates its state only in the first step.
    gradients, state = state_bytes(module, training)
    if trainer.optimizers[0].state:  # a resumed training already has it
        state = 0

    try:
        with isolate_rng():
            if module.device.type in CATCHABLE:
                size = _try(trainer, module, rows, state)
            else:
                size = _estimate(trainer, module, rows, gradients + state)
    except TrainingError as failure:
        return error(name, str(failure), TrainingError)
    finally:
        # Whatever happened, the training begins without the gradients of a rehearsal.
        module.zero_grad()
        release_memory(module.device)

    # What was tried, if the batch goes through the model at once.
    if size not in (module.mini_batch_size, len(rows)):
        raise FullMemoryError(mini_batch_size=size, rows=len(rows), cuts_itself=module.cuts_itself)
    if is_reduced and size < len(rows):
        way_out = f"batches go through the model in mini-batches of {size} rows"
        return warning(name, f"{batch} don't fit into memory at once; {way_out}.")
    return ok(name, f"{batch} fit into memory")


def _lengths(trainer: Trainer) -> npt.NDArray[np.int64]:
    loader: Any = trainer.train_dataloader
    lengths: npt.NDArray[np.int64] = loader.batches.lengths
    return lengths


def _worst_batch(trainer: Trainer) -> list[int]:
    """Return the batch with the most tokens that the rows can give."""
    datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
    loader: Any = trainer.train_dataloader
    lengths = _lengths(trainer)

    worst: list[int] = []
    most_tokens = -1
    # Batches never mix groups (sample shapes), so the longest rows of all may not meet.
    for group in loader.batches.row_groups:
        longest = worst_rows(lengths[group], datamodule.batch_size, datamodule.batches.tokens)
        rows = [group[index] for index in longest]
        tokens = int(lengths[rows].sum())
        if tokens > most_tokens:
            worst, most_tokens = rows, tokens
    return worst


def _try(trainer: Trainer, module: TrainedModule, rows: list[int], state: int) -> int:
    """Find how many rows go through the model at once, next to the optimizer's state, by trying.

    Returns:
        How many of the rows.
    """
    loader: Any = trainer.train_dataloader
    try:
        # A block of the state's size stands in for the state itself.
        reserved = torch.empty(state, dtype=torch.uint8, device=module.device)
    except Exception as failure:
        if not is_out_of_memory(failure):
            raise
        raise TrainingError(
            "the optimizer's state doesn't fit into memory next to the model. Train adapters, or "
            "set training.optimizer.name=adafactor."
        ) from failure

    probe = ModuleProbe(trainer, module, loader)
    size = min(module.mini_batch_size or len(rows), len(rows))
    while not _fits(probe, module, rows, size):
        if size == 1:
            raise TrainingError(
                "one row alone doesn't fit into memory. Lower max_length, or set "
                "training.memory.gradient_checkpointing=true."
            )
        size = -(-size // 2)
    del reserved
    return size


def _fits(probe: ModuleProbe, module: TrainedModule, rows: list[int], size: int) -> bool:
    """Tell whether rows go through the model, `size` of them at once."""
    if module.cuts_itself:
        return probe.memory(rows, size) is not None
    # Each micro-batch has this many rows.
    return probe.memory(rows[:size], 0) is not None


def _estimate(trainer: Trainer, module: TrainedModule, rows: list[int], fixed: int) -> int:
    """Estimate how many rows go through the model at once, from the memory of the longest.

    Returns:
        How many of the rows.
    """
    loader: Any = trainer.train_dataloader
    free = free_memory(module.device)
    probe = ModuleProbe(trainer, module, loader)
    size = min(module.mini_batch_size or len(rows), len(rows))

    one_row = probe.memory(rows[:1], 0)
    if one_row is None or fixed + one_row > free:
        raise TrainingError(
            f"the longest row must fit into the {free / _GIB:.2g} GiB that are free next to the "
            "model, but needs more. Lower max_length, train adapters, or set "
            "training.memory.gradient_checkpointing=true."
        )

    # The further rows, counted in rows as long as the longest.
    lengths = _lengths(trainer)[rows[:size]]
    further_rows = float(lengths.sum() / lengths[0]) - 1.0
    if fixed + one_row * (1.0 + further_rows) <= free:
        return size

    # A second row tells apart what each row takes and what is taken once.
    two_rows = probe.memory(rows[:2], 0)
    # At least a byte: measurements of small rows can come out equal.
    per_row = one_row if two_rows is None else max(two_rows - one_row, 1)
    if fixed + one_row + per_row * further_rows > free:
        return 1 + int((free - fixed - one_row) / per_row)
    return size


def worst_rows(lengths: npt.NDArray[np.int64], batch_size: int, total_length: int = 0) -> list[int]:
    """Return the longest rows: as many as a batch has, by rows or by tokens."""
    # Stable, so that equal lengths always give the same batch.
    longest_first = np.argsort(-lengths, kind="stable")
    count = batch_size
    if total_length:
        # With the row that reaches the limit: batches have about that length, not at most.
        count = int(np.searchsorted(np.cumsum(lengths[longest_first]), total_length)) + 1

    rows: list[int] = longest_first[:count].tolist()
    return rows


def check_monitored(monitor: Monitor, trainer: Trainer, module: TrainedModule) -> PreflightFinding:
    """Check that there are validation batches: a metric of them chooses weights and stops early."""
    name = "validation"
    batches = sum(trainer.num_val_batches)
    if not batches:
        return error(
            name,
            "The validation must have rows, got none, so there is no val/loss. "
            "Raise split.validation_share.",
            SampleError,
        )
    return ok(name, f"{monitor.key} over {batches:g} batches chooses the weights")


def check_patience(
    training: TrainingConfig, trainer: Trainer, module: TrainedModule
) -> PreflightFinding:
    """Check that there are enough validations for early stopping to happen before the end."""
    name = "early stopping"
    patience = training.early_stopping_patience
    if not patience:
        return ok(name, "off")

    batches, interval = int(trainer.num_training_batches), int(trainer.val_check_batch or 1)
    epochs = max(trainer.max_epochs or 1, 1)
    # If they don't divide an epoch evenly, the last step of the training is validated as well.
    validations = epochs * (batches // interval) + int(batches % interval > 0)
    # The first is the best at the earliest; the last one comes too late to save anything.
    needed = patience + 2
    if validations >= needed:
        return ok(name, f"possible from validation {patience + 1} of {validations} on")

    per_epoch = -(-needed // epochs)
    steps_per_epoch = -(-batches // int(trainer.accumulate_grad_batches))
    if per_epoch <= steps_per_epoch:
        way_out = f"Set training.validations_per_epoch={per_epoch}"
    elif validations > 2:
        way_out = f"Set training.early_stopping_patience={validations - 2}"
    else:
        way_out = "Train for more epochs"
    return warning(
        name,
        f"training.early_stopping_patience={patience} can't stop a training with {validations} "
        f"validations before its end. {way_out}, or turn it off: "
        "training.early_stopping_patience=0.",
    )


def check_settings(
    training: TrainingConfig, trainer: Trainer, module: TrainedModule
) -> PreflightFinding:
    """Look for settings that are likely mistakes, or have no effect together with the others."""
    name = "settings"
    messages = [*training.doubtful(), *training.without_effect()]
    if messages:
        return warning(name, " ".join(messages))
    return ok(name, "no setting looks like a mistake, and each changed one has an effect")


def check_disk(
    folder: Path, averages: bool, trainer: Trainer, module: TrainedModule
) -> PreflightFinding:
    """Compare the free disk space with what the checkpoints take."""
    name = "disk"
    needed = checkpoint_bytes(module, averages) * _FILES

    existing = folder.absolute()
    # The folder is only created with the first checkpoint.
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free

    message = (
        f"checkpoints need {needed / _GIB:.2g} GiB, and {free / _GIB:.3g} GiB are free in "
        f"{existing}"
    )
    if needed > free:
        return error(
            name, f"The disk is too full: {message}. Make room, or train adapters.", TrainingError
        )
    return ok(name, message)


def checkpoint_bytes(module: TrainedModule, averages: bool = False) -> int:
    """Estimate the size of a checkpoint: its weights, and two float32 values per trained weight.

    Averaged weights add two more values: the average, and the optimizer's own weight.
    """
    trained = list(trained_weights(module).values())
    # A module that loads checkpoints loosely stores its trained weights only: adapters.
    stored = list(module.parameters()) if module.strict_loading else trained

    bytes_per_trained = 16 if averages else 8
    return bytes_of(stored) + bytes_per_trained * sum(weight.numel() for weight in trained)
