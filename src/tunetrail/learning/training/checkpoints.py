"""The last checkpoint of a training: always between two optimizer steps, written whole or not at all."""

import os
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
from pytorch_lightning.callbacks import Checkpoint

from tunetrail.learning.training.steps import StepLoader

LAST = "last.ckpt"
_WRITING = ".writing"


class LastCheckpoint(Checkpoint):
    """Keeps `last.ckpt`: after each validation, every so many steps, and when a training is stopped or fails.

    Lightning runs callbacks of this kind after all others, so what they know of a validation is in it.

    Args:
        folder: Where the file is written.
        every_steps: Also after so many steps each; 0: not.
    """

    def __init__(self, folder: Path, every_steps: int = 0) -> None:
        self.path = folder / LAST
        self.every_steps = every_steps

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the step as done; save where it is due, unless a validation follows, after which it is saved anyway."""
        loader = trainer.train_dataloader
        if isinstance(loader, StepLoader):
            loader.done += 1
        if self.every_steps and trainer.global_step % self.every_steps == 0 and not _validates(trainer, batch_idx):
            self._save(trainer)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save."""
        self._save(trainer)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Save what the last finished step left; within a validation the one before it stays."""
        if trainer.training and not trainer.validating:
            self._save(trainer)

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
