"""Keep the last checkpoint of a training: between two steps, written whole or not at all."""

import os
import shutil
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from tunetrail.errors import TrainingError
from tunetrail.learning.devices import CPU
from tunetrail.learning.lightning_internals import count_running_epoch, scale_batches
from tunetrail.learning.memory_meter import release_memory
from tunetrail.learning.recovery.failures import STATE, Recovery
from tunetrail.learning.recovery.signals import StopRequest
from tunetrail.learning.training.micro_batches import SharedBatch

LAST = "last.ckpt"
GOOD = "good.ckpt"
_WRITING = ".writing"
_ITSELF = "itself"


class LastCheckpoint(Checkpoint):
    """Writes `last.ckpt` after validations, every few steps, and when a training is to stop.

    It does so in two places only: after an optimizer step that no validation follows, and after a
    validation. From there, Lightning continues exactly. Lightning calls callbacks of this kind
    after all others, so the checkpoint contains what they know, and they have done their part when
    the process obeys a signal here.

    A training whose loss is no longer finite goes back to the last checkpoint that was due, not to
    one of an interruption: the moment of an interruption must not change what is learnt. Before the
    checkpoint of an interruption replaces the one that was due, the latter is kept as `good.ckpt`
    until the next is due.

    Args:
        folder: Folder of the file.
        every_steps: Number of steps after which a checkpoint is due as well; 0: never.
        every_minutes: Minutes after which one is saved as for an interruption; 0: never.
        resumed: The checkpoint that the training resumes from.
        recovery: What the training has changed so far to go on after failures.

    Attributes:
        stop: The signal that the process is to obey between two steps.
        good: The last checkpoint that was due; None before the first, when it is the start.
    """

    def __init__(
        self,
        folder: Path,
        every_steps: int = 0,
        every_minutes: float = 0.0,
        resumed: Path | None = None,
        recovery: Recovery | None = None,
    ) -> None:
        self.path = folder / LAST
        self.every_steps = every_steps
        self.every_seconds = 60.0 * every_minutes
        self._saved_at = self._begun = time.monotonic()
        self.resumed = resumed
        self.recovery = recovery or Recovery()
        self.stop = StopRequest()
        self.good = resumed
        self._due = False
        self._saved_step = -1
        self._resumed_step = -1
        # Of the checkpoint that the training resumes from.
        self._resumed_good = self._is_stopping = False
        self._batches: tuple[int, int] | None = None

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the recovery, and whether the training was about to stop: Lightning doesn't."""
        good = _ITSELF if self._due else GOOD if self.good else ""
        checkpoint["callbacks"][self.state_key] = {
            "good": good,
            STATE: asdict(replace(self.recovery, seconds=self.seconds)),
            "stopping": trainer.should_stop,
            "batches_per_epoch": self._undivided(trainer.num_training_batches),
            "batches_per_step": self._undivided(trainer.accumulate_grad_batches),
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore which checkpoint is the good one, and count micro-batches as this training does.

        It may cut them into more parts. If `good.ckpt` is gone, the good checkpoint is the one that
        the training resumes from.

        Raises:
            KeyError: A callback has no state in the checkpoint; Lightning would begin it again.
        """
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if callback.state_dict() and callback.state_key not in checkpoint["callbacks"]:
                raise KeyError(type(callback).__name__)

        state = checkpoint["callbacks"][self.state_key]
        self._resumed_good = state["good"] == _ITSELF
        self._is_stopping = state["stopping"]
        self._batches = (state["batches_per_epoch"], state["batches_per_step"])
        if not state["good"]:
            self.good = None
        elif state["good"] == GOOD and self._good_path.exists():
            self.good = self._good_path

        fit_loop = checkpoint["loops"]["fit_loop"]
        count_running_epoch(fit_loop)
        scale_batches(fit_loop, self.recovery.parts, state[STATE]["parts"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop at once if the checkpoint was written when the training was about to stop.

        Raises:
            TrainingError: The checkpoint belongs to a training with other batches.
        """
        per_epoch = self._undivided(trainer.num_training_batches)
        per_step = self._undivided(trainer.accumulate_grad_batches)
        if self._batches not in (None, (per_epoch, per_step)):
            assert self._batches is not None
            raise TrainingError(
                "a training can only resume with the batches it began with: the checkpoint has "
                f"{self._batches[0]} per epoch and {self._batches[1]} per step, got {per_epoch} "
                f"and {per_step}. Restore its rows and its configuration, or begin a new training."
            )
        trainer.should_stop = trainer.should_stop or self._is_stopping
        self._resumed_step = trainer.global_step
        self.stop.install_handlers(trainer.world_size)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: SharedBatch,
        batch_idx: int,
    ) -> None:
        """Save if a checkpoint is due, unless a validation follows: it saves anyway."""
        if not batch.ends_window or _validation_follows(trainer, batch_idx):
            return

        if self.every_steps and trainer.global_step % self.every_steps == 0:
            self._save_due(trainer)
        elif self._is_overdue(trainer):
            self._save_interrupted(trainer)
        self._stop_if_asked(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give back what the steps have freed: a checkpoint is in memory before it is on disk."""
        # The allocator of a GPU keeps it, but checkpoints aren't made there.
        if pl_module.device.type == CPU.type:
            release_memory(pl_module.device)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save."""
        if not trainer.sanity_checking:
            self._save_due(trainer)
            self._stop_if_asked(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Obey a signal that came after the last step."""
        self.stop.obey()
        self.stop.restore_handlers()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave signals to the process."""
        self.stop.restore_handlers()

    def is_broken(self, failed_step: int) -> bool:
        """Tell whether the checkpoint that was resumed from may hold ruined weights.

        The step before it may have ruined them, which only the next step shows.
        """
        return self._resumed_good and failed_step == self._resumed_step

    def discard(self) -> None:
        """Delete the checkpoints: the training has to begin again."""
        self.path.unlink(missing_ok=True)
        self._good_path.unlink(missing_ok=True)
        self.good = None

    @property
    def has_begun(self) -> bool:
        """Whether the attempt has come to its first step."""
        return self._resumed_step >= 0

    @property
    def _good_path(self) -> Path:
        return self.path.with_name(GOOD)

    @property
    def seconds(self) -> float:
        """Wall-clock time of the training so far, over all processes and attempts."""
        return self.recovery.seconds + time.monotonic() - self._begun

    @property
    def newest(self) -> Path | None:
        """The checkpoint that was saved last, due or not; None before the first."""
        return self.path if self._saved_step >= 0 else self.resumed

    def _is_overdue(self, trainer: Trainer) -> bool:
        if not self.every_seconds:
            return False
        is_overdue = time.monotonic() - self._saved_at > self.every_seconds
        # The clocks of the ranks differ, but they have to save together.
        return trainer.strategy.reduce_boolean_decision(is_overdue, all=False)

    def _stop_if_asked(self, trainer: Trainer) -> None:
        if self.stop.is_made(trainer):
            self._save_interrupted(trainer)
            self.stop.obey(otherwise=signal.SIGTERM)

    def _undivided(self, micro_batches: float) -> int:
        """Return the number of micro-batches before they are cut into parts."""
        return int(micro_batches) // self.recovery.parts

    def _save_due(self, trainer: Trainer) -> None:
        # `on_save_checkpoint` is called while the file is written.
        self._due = True
        try:
            self._save(trainer)
        finally:
            self._due = False

        self.good = self.path
        if trainer.is_global_zero:
            self._good_path.unlink(missing_ok=True)

    def _save_interrupted(self, trainer: Trainer) -> None:
        """Save although no checkpoint is due."""
        if trainer.global_step == self._saved_step:
            return
        if trainer.is_global_zero:
            self._keep_good()
        self._save(trainer)

    def _keep_good(self) -> None:
        """Give the last good checkpoint a name of its own: its file is about to be replaced."""
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
            self._saved_step = trainer.global_step
            self._saved_at = time.monotonic()
        finally:
            # Another rank would delete the file before it takes its place.
            if trainer.is_global_zero:
                unfinished.unlink(missing_ok=True)


def _validation_follows(trainer: Trainer, batch_index: int) -> bool:
    """Tell whether the trainer validates right after this batch of the epoch."""
    if not trainer.enable_validation:
        return False
    # Without an interval there is no validation within the epoch.
    interval = trainer.val_check_batch or float("inf")
    return bool(trainer.should_stop or (batch_index + 1) % interval == 0)
