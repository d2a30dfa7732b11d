"""The last checkpoint of a training: always between two optimizer steps, written whole or not at all."""

import copy
import os
import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException

from tunetrail.errors import TrainingError
from tunetrail.learning.recovery.position import loops_at, position_of, validation_is_due

LAST = "last.ckpt"
GOOD = "good.ckpt"
_WRITING = ".writing"
_ITSELF = "itself"


class LastCheckpoint(Checkpoint):
    """Keeps `last.ckpt`: after each validation, every so many steps, and when a training is stopped or fails.

    Lightning runs callbacks of this kind after all others, so what they know of a validation is in it. A training that
    was stopped within a validation, or before one that was due, goes on with that validation from its beginning.

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
        self._validated = 0  # batches that were finished at the last validation
        self._saved = -1  # batches that were finished when the file was written
        self._pending = self._stopping = False  # of the checkpoint that the training goes on from
        self._per_epoch = 0
        self._settled: tuple[int, int] | None = (
            None  # batches finished, and optimizer steps begun, once all know
        )
        self._before_validation: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return which checkpoint was the good one when this was written: itself, the one that is kept, or none."""
        return {"good": _ITSELF if self._due else GOOD if self.good else ""}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Find the good checkpoint again; where it is no longer kept, it is the one that the training goes on from."""
        self._validated, self._pending, self._stopping, self._per_epoch = (
            state_dict[name] for name in ("validated", "pending", "stopping", "per_epoch")
        )
        kept = self.path.with_name(GOOD)
        if not state_dict["good"]:
            self.good = None
        elif state_dict["good"] == GOOD and kept.exists():
            self.good = kept

    def on_save_checkpoint(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Put down where the training goes on; with a validation that is due, what callbacks knew before it began."""
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
        checkpoint["loops"]["fit_loop"] = loops_at(position, checkpoint["loops"]["fit_loop"])

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Do what the checkpoint left open: a validation, the end of the training.

        Raises:
            TrainingError: The checkpoint is of a training with other batches.
        """
        batches = position_of(trainer).per_epoch
        if self._per_epoch not in (0, batches):
            raise TrainingError(
                f"a training can only go on with the batches it began with: the checkpoint has {self._per_epoch} steps "
                f"per epoch, got {batches}. Restore its rows and its configuration, or begin a new training."
            )
        self._settled = _progress(trainer)
        trainer.should_stop = trainer.should_stop or self._stopping
        if self._pending:
            validation = trainer.fit_loop.epoch_loop.val_loop
            trainer.validating = True
            validation.run()
            trainer.training = True
            validation._has_run = (
                False  # or Lightning takes the epoch that it restarts for one that is over
            )

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save where it is due, unless a validation follows, after which it is saved anyway."""
        self._settled = _progress(trainer)
        if (
            self.every_steps
            and trainer.global_step % self.every_steps == 0
            and not validation_is_due(trainer)
        ):
            self._save_due(trainer)

    def on_validation_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Remember what callbacks know."""
        callbacks: list[lightning.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        self._before_validation = copy.deepcopy(
            {each.state_key: each.state_dict() for each in callbacks}
        )

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Save."""
        self._validated, self._before_validation = position_of(trainer).finished, None
        self._save_due(trainer)

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Save what the last finished step left, if it was finished."""
        alone = trainer.world_size == 1 or isinstance(
            exception, SIGTERMException
        )  # or this rank would wait for others
        if (
            alone
            and self._is_between_steps(trainer, exception)
            and position_of(trainer).finished != self._saved
        ):
            if trainer.is_global_zero:
                self._keep_good()
            self._save(trainer)

    def _is_between_steps(self, trainer: lightning.Trainer, exception: BaseException) -> bool:
        if self._settled is None or not trainer.global_step:
            return False
        finished, begun = _progress(trainer)
        # callbacks fail once they have done their part; the keyboard interrupts anywhere
        failed = finished == self._settled[0] + 1 and not isinstance(exception, KeyboardInterrupt)
        return failed or (finished, begun) == self._settled

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
            self._saved = position_of(trainer).finished
        finally:
            unfinished.unlink(missing_ok=True)


def _progress(trainer: lightning.Trainer) -> tuple[int, int]:
    """Return the batches that are finished and the optimizer steps that were begun."""
    steps = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
    return position_of(trainer).finished, steps.total.ready
