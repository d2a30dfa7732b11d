"""Checks of the machine: whether a training fits into memory and onto the disk, and whether it can be judged."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as lightning
import torch
from pytorch_lightning.utilities.seed import isolate_rng

from tunetrail.errors import SampleError, TrainingError
from tunetrail.learning.preflight.findings import Finding, error, ok, warning
from tunetrail.learning.training.memory import is_out_of_memory
from tunetrail.learning.training.module import StepBatch, TrainedModule

_FILES = 3
"""The best checkpoint, the last one, and the one that is being written."""
_GIB = 2.0**30


def check_worst_batch(trainer: lightning.Trainer, module: TrainedModule) -> Finding:
    """Take the longest rows forwards and backwards, as many as share a batch, beside room for the optimizer's state.

    The gradients are dropped, and the random generators are as before afterwards. Where memory doesn't suffice, the
    module goes on in smaller pieces.
    """
    name = "worst batch"
    loader: Any = trainer.train_dataloader
    before = module.piece_rows
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    lengths = loader.steps.batches.lengths
    rows = worst_rows(lengths, data.batch_size, data.batches.tokens)
    tokens = int(lengths[rows].sum())
    try:
        with isolate_rng(), trainer.precision_plugin.train_step_context():
            held = _optimizer_state(trainer, module)
            module.rehearse(StepBatch([loader.build(rows)]))
            del held
    except TrainingError as failure:
        return error(name, f"The longest rows can't be trained: {failure}", TrainingError)
    except Exception as failure:
        if not is_out_of_memory(failure):
            raise
        return error(
            name,
            "The optimizer's state doesn't fit into memory beside the model. Train adapters, or set "
            "training.optimizer.name=adafactor.",
            TrainingError,
        )
    if module.piece_rows != before:
        return warning(
            name,
            f"{len(rows)} rows with {tokens} tokens don't fit into memory at once; batches go through the model in "
            f"pieces of {module.piece_rows} rows.",
        )
    return ok(name, f"{len(rows)} rows with {tokens} tokens fit into memory")


def worst_rows(lengths: npt.NDArray[np.int64], batch_size: int, total_length: int = 0) -> list[int]:
    """Return the longest rows, as many as a batch has, by rows or by tokens."""
    order = np.argsort(-lengths, kind="stable")
    count = batch_size
    if total_length:
        count = int(np.searchsorted(np.cumsum(lengths[order]), total_length)) + 1
    rows: list[int] = order[:count].tolist()
    return rows


def check_monitored(trainer: lightning.Trainer, module: TrainedModule) -> Finding:
    """Look for validation batches: without them there is no `val/loss` to stop by and to choose the weights by."""
    name = "validation"
    batches = sum(trainer.num_val_batches)
    if not batches:
        return error(
            name,
            "The validation must have rows, got none, so there is no val/loss. Raise split.validation_share.",
            SampleError,
        )
    return ok(name, f"val/loss is the mean over {batches:g} batches")


def check_disk(folder: Path, trainer: lightning.Trainer, module: TrainedModule) -> Finding:
    """Compare the room for checkpoints with what they take: weights, and two numbers per weight of the optimizer."""
    name = "disk"
    needed = checkpoint_bytes(module) * _FILES
    existing = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(existing).free
    message = f"checkpoints need {needed / _GIB:.2g} GiB, and {free / _GIB:.3g} GiB are free in {existing}"
    if needed > free:
        return error(name, f"The disk is too full: {message}. Make room, or train adapters.", TrainingError)
    return ok(name, message)


def checkpoint_bytes(module: TrainedModule) -> int:
    """Estimate the size of one checkpoint: the weights that it holds, and two float32 for each that is trained."""
    trained = [each for each in module.parameters() if each.requires_grad]
    weights = list(module.parameters()) if module.strict_loading else trained
    return sum(each.numel() * each.element_size() for each in weights) + sum(each.numel() * 8 for each in trained)


def _optimizer_state(trainer: lightning.Trainer, module: TrainedModule) -> list[torch.Tensor]:
    """Return as much memory as the optimizer will take with its first step, if it hasn't got it yet."""
    (optimizer,) = trainer.optimizers
    per_weight = 2 if isinstance(optimizer, torch.optim.Adam) else 0  # AdamW is one, too
    if optimizer.state:
        return []
    return [torch.empty_like(each) for each in module.parameters() if each.requires_grad for _ in range(per_weight)]
