"""Checks of machine and settings: whether a training fits into memory and onto the disk, and can be judged."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as lightning
import torch
from pytorch_lightning.utilities.seed import isolate_rng

from tunetrail.config import TrainingConfig
from tunetrail.errors import SampleError, TrainingError
from tunetrail.learning.automatic.batch_size_trial import ModuleProbe, state_bytes
from tunetrail.learning.automatic.memory_meter import free_memory, release_memory
from tunetrail.learning.preflight.findings import PreflightFinding, error, ok, warning
from tunetrail.learning.training.module import StepBatch, TrainedModule
from tunetrail.learning.training.out_of_memory import is_out_of_memory

CATCHABLE = ("cuda", "mps", "xpu")
"""Devices that say when their memory is full."""
_WORST = "worst batch"
_FILES = 4
"""The best checkpoint, the last one, the last good one, and the one that is being written."""
_GIB = 2.0**30


def check_worst_batch(
    training: TrainingConfig, trainer: lightning.Trainer, module: TrainedModule
) -> PreflightFinding:
    """See whether the longest rows fit into memory, as many as share a batch, beside the optimizer's state.

    On a GPU they are taken forwards and backwards. Elsewhere a process that takes too much is ended without a word, so
    that the memory of the longest row alone is measured, and that of the batch is estimated from it. The gradients are
    dropped, and the random generators are as before afterwards. Where memory doesn't suffice, the module goes on in
    smaller pieces.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    loader: Any = trainer.train_dataloader
    before, lengths = module.mini_batch_size, loader.steps.batches.lengths
    worst = [
        [company[row] for row in worst_rows(lengths[company], data.batch_size, data.batches.tokens)]
        for company in loader.steps.batches.companies
    ]
    rows = max(worst, key=lambda each: int(lengths[each].sum()))
    batch = f"{len(rows)} rows with {int(lengths[rows].sum())} tokens"
    gradients, state = state_bytes(module, training)
    state = 0 if trainer.optimizers[0].state else state  # a resumed training has it
    try:
        with isolate_rng():
            if module.device.type in CATCHABLE:
                _try(trainer, module, rows, state)
            else:
                _estimate(trainer, module, rows, gradients + state)
    except TrainingError as failure:
        return error(_WORST, str(failure), TrainingError)
    finally:
        module.zero_grad()
        release_memory(module.device)
    if module.mini_batch_size != before:
        pieces = f"batches go through the model in mini-batches of {module.mini_batch_size} rows"
        return warning(_WORST, f"{batch} don't fit into memory at once; {pieces}.")
    return ok(_WORST, f"{batch} fit into memory")


def _try(trainer: lightning.Trainer, module: TrainedModule, rows: list[int], state: int) -> None:
    loader: Any = trainer.train_dataloader
    try:
        held = torch.empty(state, dtype=torch.uint8, device=module.device)
    except Exception as failure:
        if not is_out_of_memory(failure):
            raise
        raise TrainingError(
            "The optimizer's state doesn't fit into memory beside the model. Train adapters, or set "
            "training.optimizer.name=adafactor."
        ) from failure
    with trainer.precision_plugin.train_step_context():
        module.rehearse(StepBatch([loader.build(rows)]))
    del held


def _estimate(
    trainer: lightning.Trainer, module: TrainedModule, rows: list[int], fixed: int
) -> None:
    loader: Any = trainer.train_dataloader
    free = free_memory(module.device)
    probe = ModuleProbe(trainer, module, loader)
    one = probe.memory(rows[:1], 0)
    if one is None or fixed + one > free:
        raise TrainingError(
            f"The longest row needs more memory than there is: {free / _GIB:.2g} GiB are free beside the model. Lower "
            "max_length, train adapters, or set training.memory.gradient_checkpointing=true."
        )
    lengths = loader.steps.batches.lengths[rows[: module.mini_batch_size or None]]
    others = float(lengths.sum() / lengths[0]) - 1.0  # in rows as long as the longest
    if fixed + one * (1.0 + others) <= free:
        return
    two = probe.memory(rows[:2], 0)  # for some memory is needed once, whatever the number of rows
    each = one if two is None else max(two - one, 1)
    if fixed + one + each * others > free:
        module.mini_batch_size = 1 + int((free - fixed - one) / each)


def worst_rows(lengths: npt.NDArray[np.int64], batch_size: int, total_length: int = 0) -> list[int]:
    """Return the longest rows, as many as a batch has, by rows or by tokens."""
    order = np.argsort(-lengths, kind="stable")
    count = batch_size
    if total_length:
        count = int(np.searchsorted(np.cumsum(lengths[order]), total_length)) + 1
    rows: list[int] = order[:count].tolist()
    return rows


def check_monitored(trainer: lightning.Trainer, module: TrainedModule) -> PreflightFinding:
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


def check_settings(
    training: TrainingConfig, trainer: lightning.Trainer, module: TrainedModule
) -> PreflightFinding:
    """Look for settings that were changed and do nothing beside the others."""
    name = "settings"
    useless = training.without_effect()
    if useless:
        return warning(name, " ".join(useless))
    return ok(name, "none was seen that does nothing beside the others")


def check_disk(
    folder: Path, averages: bool, trainer: lightning.Trainer, module: TrainedModule
) -> PreflightFinding:
    """Compare the room for checkpoints with what they take: weights, and two numbers per weight of the optimizer."""
    name = "disk"
    needed = checkpoint_bytes(module, averages) * _FILES
    existing = next(
        each for each in (folder.absolute(), *folder.absolute().parents) if each.exists()
    )
    free = shutil.disk_usage(existing).free
    message = f"checkpoints need {needed / _GIB:.2g} GiB, and {free / _GIB:.3g} GiB are free in {existing}"
    if needed > free:
        return error(
            name, f"The disk is too full: {message}. Make room, or train adapters.", TrainingError
        )
    return ok(name, message)


def checkpoint_bytes(module: TrainedModule, averages: bool = False) -> int:
    """Estimate the size of one checkpoint: the weights that it holds, and two float32 for each that is trained.

    With averaged weights there are two more: the average, and the weight that the optimizer goes on with.
    """
    trained = [each for each in module.parameters() if each.requires_grad]
    weights = list(module.parameters()) if module.strict_loading else trained
    kept = 16 if averages else 8
    return sum(each.numel() * each.element_size() for each in weights) + sum(
        each.numel() * kept for each in trained
    )
