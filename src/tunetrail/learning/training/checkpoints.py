"""The last checkpoint of a training: always between two optimizer steps, written whole or not at all."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
from pytorch_lightning.callbacks import Checkpoint

from tunetrail.learning.training.steps import StepLoader

LAST = "last.ckpt"
GOOD = "good.ckpt"
_WRITING = ".writing"
_ITSELF = "itself"


class LastCheckpoint(Checkpoint):
    """Keeps `last.ckpt`: after each validation, every so many steps, and when a training is stopped or fails.

    Lightning runs callbacks of this kind after all others, so what they know of a validation is in it.

    A training whose loss is lost goes back to the last checkpoint that was due, not to one of an interruption: when a
    training is interrupted has no influence on what becomes of it. Where a checkpoint of an interruption takes its
    place, the one that was due is kept as `good.ckpt` until the next.

    Args:
        folder: Where the file is written.
        every_steps: Also after so many steps each; 0: not.
        resumed: The checkpoint that the training goes on from.

    Attributes:
        good: The last checkpoint that was due; None before the first, when it is the start.
    """

    def __init__(self, folder: Path, every_steps: int = 0, resumed: Path | None = None) -> None:
        self.path = folder / LAST
        self.every_steps = every_steps
        self.resumed = resumed
        self.good = resumed
        self._due = False

    def state_dict(self) -> dict[str, str]:
        """Return which checkpoint was the good one when this was written: itself, the one that is kept, or none."""
        return {"good": _ITSELF if self._due else GOOD if self.good else ""}

    def load_state_dict(self, state_dict: dict[str, str]) -> None:
        """Find the good checkpoint again; where it is no longer kept, it is the one that the training goes on from."""
        kept = self.path.with_name(GOOD)
        if not state_dict["good"]:
            self.good = None
        elif state_dict["good"] == GOOD and kept.exists():
            self.good = kept

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the step as done; save where it is due, unless a validation follows, after which it is saved anyway."""
        loader = trainer.train_dataloader
        if isinstance(loader, StepLoader):
            loader.done += 1
        if self.every_steps and trainer.global_step % self.every_steps == 0 and not _validates(trainer, batch_idx):
            self._save_due(trainer)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save."""
        self._save_due(trainer)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Save what the last finished step left, if there is one; within a validation the one before it stays."""
        if trainer.training and not trainer.validating and trainer.global_step:
            if trainer.is_global_zero:
                self._keep_good()
            self._save(trainer)

    def _save_due(self, trainer: lightning.Trainer) -> None:
        self._due = True
        try:
            self._save(trainer)
        finally:
            self._due = False
        self.good = self.path
        if trainer.is_global_zero:
            self.path.with_name(GOOD).unlink(missing_ok=True)

    def _keep_good(self) -> None:
        kept = self.path.with_name(GOOD)
        if self.good == kept:
            return
        kept.unlink(missing_ok=True)
        if self.good is not None:
            try:
                os.link(self.good, kept)
            except OSError:  # not every file system has links
                shutil.copyfile(self.good, kept)

    def _save(self, trainer: lightning.Trainer) -> None:
        unfinished = self.path.with_name(self.path.name + _WRITING)
        try:
            trainer.save_checkpoint(unfinished)
            if trainer.is_global_zero:
                os.replace(unfinished, self.path)
        finally:
            unfinished.unlink(missing_ok=True)


def _validates(trainer: lightning.Trainer, batch_idx: int) -> bool:
    every = trainer.val_check_batch or float("inf")
    due = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch or (batch_idx + 1) % every == 0
    return bool(due and trainer.enable_validation)
