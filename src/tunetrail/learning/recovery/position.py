"""Where a training is: the number of finished batches decides the epoch and what is due."""

from dataclasses import dataclass

from pytorch_lightning import Trainer

from tunetrail.learning.lightning_internals import finished_batches


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """A position between two steps.

    The end of an epoch belongs to this epoch: its validation may still be due.

    Attributes:
        finished: Batches finished since the start.
        per_epoch: Batches of each epoch.
    """

    finished: int
    per_epoch: int

    @property
    def epoch(self) -> int:
        """Number of the epoch, from 0."""
        return max(self.finished - 1, 0) // self.per_epoch

    @property
    def done(self) -> int:
        """Finished batches of this epoch."""
        return self.finished - self.epoch * self.per_epoch

    @property
    def ends_epoch(self) -> bool:
        """Whether all batches of the epoch are finished."""
        return self.done == self.per_epoch


def position_of(trainer: Trainer) -> Position:
    """Return where a training is; a batch is finished as soon as its training step has returned."""
    per_epoch = max(int(trainer.num_training_batches), 1)
    return Position(finished=finished_batches(trainer), per_epoch=per_epoch)


def validation_is_due(trainer: Trainer) -> bool:
    """Tell whether the trainer validates after the last finished batch, or has just done so."""
    done = position_of(trainer).done
    if not done or not trainer.enable_validation:
        return False

    # Without an interval there is no validation within the epoch.
    interval = trainer.val_check_batch or float("inf")
    return bool(trainer.should_stop or done % interval == 0)
