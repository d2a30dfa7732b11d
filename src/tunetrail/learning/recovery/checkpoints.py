"""Keep the last checkpoint of a training: between two steps, written whole or not at all."""

import copy
import os
import shutil
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException

from tunetrail.errors import TrainingError
from tunetrail.learning.lightning_internals import (
    begun_optimizer_steps,
    loops_at,
    validate_before_training,
)
from tunetrail.learning.recovery.position import position_of, validation_is_due

LAST = "last.ckpt"
GOOD = "good.ckpt"
_WRITING = ".writing"
_ITSELF = "itself"


class LastCheckpoint(Checkpoint):
    """Writes `last.ckpt` after validations, every few steps, and when a training is interrupted.

    Lightning calls callbacks of this kind after all others, so the checkpoint contains what they
    know of a validation. A training that was stopped during a validation, or before one that was
    due, continues with that validation from its beginning.

    A training whose loss is no longer finite goes back to the last checkpoint that was due, not to
    one of an interruption: the moment of an interruption must not change what is learnt. Before the
    checkpoint of an interruption replaces the one that was due, the latter is kept as `good.ckpt`
    until the next is due.

    Args:
        folder: Folder of the file.
        every_steps: Number of steps after which a checkpoint is due as well; 0: never.
        resumed: The checkpoint that the training resumes from.

    Attributes:
        good: The last checkpoint that was due; None before the first, when it is the start.
    """

    def __init__(self, folder: Path, every_steps: int = 0, resumed: Path | None = None) -> None:
        self.path = folder / LAST
        self.every_steps = every_steps
        self.resumed = resumed
        self.good = resumed

        self._due = False
        self._validated = 0  # batches that were finished at the last validation
        self._saved = -1  # batches that were finished when the file was written

        # Of the checkpoint that the training resumes from.
        self._pending = self._stopping = False
        self._per_epoch = 0

        # Batches finished, and optimizer steps begun, after the last step that all callbacks saw.
        self._settled: tuple[int, int] | None = None
        self._before_validation: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return which checkpoint is the good one: this one itself, `good.ckpt`, or none."""
        return {"good": _ITSELF if self._due else GOOD if self.good else ""}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore which checkpoint is the good one.

        If `good.ckpt` is gone, it is the checkpoint that the training resumes from.
        """
        self._validated = state_dict["validated"]
        self._pending = state_dict["pending"]
        self._stopping = state_dict["stopping"]
        self._per_epoch = state_dict["per_epoch"]

        if not state_dict["good"]:
            self.good = None
        elif state_dict["good"] == GOOD and self._good_path.exists():
            self.good = self._good_path

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store where the training resumes.

        If a validation is due, store what the callbacks knew before it began.
        """
        position = position_of(trainer)
        pending = validation_is_due(trainer) and self._validated != position.finished
        if pending and self._before_validation is not None:
            checkpoint["callbacks"] = self._before_validation

        checkpoint["callbacks"][self.state_key] = {
            **self.state_dict(),
            "validated": self._validated,
            "pending": pending,
            "stopping": trainer.should_stop,
            "per_epoch": position.per_epoch,
        }
        checkpoint["loops"]["fit_loop"] = loops_at(
            checkpoint["loops"]["fit_loop"],
            epoch=position.epoch,
            batches=position.done,
            finished=position.finished,
            is_last=position.ends_epoch,
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do what the checkpoint left to do: a validation, or ending the training.

        Raises:
            TrainingError: The checkpoint belongs to a training with other batches.
        """
        per_epoch = position_of(trainer).per_epoch
        if self._per_epoch not in (0, per_epoch):
            raise TrainingError(
                "a training can only resume with the batches it began with: the checkpoint has "
                f"{self._per_epoch} steps per epoch, got {per_epoch}. Restore its rows and its "
                "configuration, or begin a new training."
            )

        self._settled = _progress(trainer)
        trainer.should_stop = trainer.should_stop or self._stopping
        if self._pending:
            validate_before_training(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if a checkpoint is due, unless a validation follows: it saves anyway."""
        self._settled = _progress(trainer)

        is_due = self.every_steps and trainer.global_step % self.every_steps == 0
        if is_due and not validation_is_due(trainer):
            self._save_due(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember what the callbacks know."""
        states = {}
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            states[callback.state_key] = callback.state_dict()
        # A copy: callbacks change their state during the validation.
        self._before_validation = copy.deepcopy(states)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save."""
        self._validated = position_of(trainer).finished
        self._before_validation = None
        self._save_due(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Save the state after the last step, if that step was finished."""
        # With several ranks, only an exception that all of them get: this one would wait for them.
        on_all_ranks = trainer.world_size == 1 or isinstance(exception, SIGTERMException)
        if not on_all_ranks or not self._is_between_steps(trainer, exception):
            return

        if position_of(trainer).finished != self._saved:
            if trainer.is_global_zero:
                self._keep_good()
            self._save(trainer)

    @property
    def _good_path(self) -> Path:
        return self.path.with_name(GOOD)

    def _is_between_steps(self, trainer: Trainer, exception: BaseException) -> bool:
        if self._settled is None or not trainer.global_step:
            return False
        if _progress(trainer) == self._settled:
            return True

        # A callback that fails has done its part by then; the keyboard interrupts anywhere.
        one_more = _progress(trainer)[0] == self._settled[0] + 1
        return one_more and not isinstance(exception, KeyboardInterrupt)

    def _save_due(self, trainer: Trainer) -> None:
        # `state_dict` is called while the file is written.
        self._due = True
        try:
            self._save(trainer)
        finally:
            self._due = False

        self.good = self.path
        if trainer.is_global_zero:
            self._good_path.unlink(missing_ok=True)

    def _keep_good(self) -> None:
        """Keep the checkpoint that was due last, which is about to be replaced."""
        if self.good == self._good_path:
            return

        self._good_path.unlink(missing_ok=True)
        if self.good is None:
            return
        try:
            # A link costs nothing, a copy the size of the checkpoint.
            os.link(self.good, self._good_path)
        except OSError:  # not every file system has links
            shutil.copyfile(self.good, self._good_path)

    def _save(self, trainer: Trainer) -> None:
        unfinished = self.path.with_name(self.path.name + _WRITING)
        try:
            trainer.save_checkpoint(unfinished)
            if trainer.is_global_zero:
                # Atomic: after a crash there is the old file or the new one.
                os.replace(unfinished, self.path)
            self._saved = position_of(trainer).finished
        finally:
            unfinished.unlink(missing_ok=True)


def _progress(trainer: Trainer) -> tuple[int, int]:
    """Return the batches that are finished and the optimizer steps that were begun."""
    return position_of(trainer).finished, begun_optimizer_steps(trainer)
