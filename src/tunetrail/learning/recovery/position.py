"""Where a training is: the number of finished batches, which alone decides the epoch, the place in it, what is due."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as lightning


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """A place between two steps.

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
        """Batches of the epoch that are finished."""
        return self.finished - self.epoch * self.per_epoch


def position_of(trainer: lightning.Trainer) -> Position:
    """Return where a training is; a batch counts as soon as its training step has returned."""
    total: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    return Position(finished=total.processed, per_epoch=max(int(trainer.num_training_batches), 1))


def validation_is_due(trainer: lightning.Trainer) -> bool:
    """Tell whether the trainer validates behind the batch that was finished last, or has just done so."""
    done = position_of(trainer).done
    if not done or not trainer.enable_validation:
        return False
    return bool(trainer.should_stop or done % (trainer.val_check_batch or float("inf")) == 0)


def loops_at(position: Position, loops: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of Lightning's loops from which it goes on behind the batches that are finished.

    Lightning 2.6 goes on differently, and not always exactly, after each hook in which a checkpoint may be written;
    from this state it always goes on in the same way: in the middle of an epoch, all batches before are finished, and
    no validation was interrupted.

    Args:
        position: Where the training is.
        loops: What the checkpoint holds for `fit_loop`.
    """
    epochs = {"ready": position.epoch + 1, "started": position.epoch + 1}
    epochs |= dict.fromkeys(("processed", "completed"), position.epoch)
    return {
        **loops,
        "state_dict": {"combined_loader": [{"epoch": position.epoch, "done": position.done}]},
        "epoch_progress": {"total": epochs, "current": epochs},
        "epoch_loop.batch_progress": {
            "total": _all(position.finished),
            "current": _all(position.done),
            "is_last_batch": position.done == position.per_epoch,
        },
        "epoch_loop.val_loop.batch_progress": {
            "total": _all(0),
            "current": _all(0),
            "is_last_batch": False,
        },
    }


def _all(count: int) -> dict[str, int]:
    return dict.fromkeys(("ready", "started", "processed", "completed"), count)
