"""Lightning's internals: every name of it that is not public, in one place.

Written for Lightning 2.6. `tests/unit/learning/test_lightning_internals.py` has a test per name, so
that an upgrade says which one has gone.
"""

from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Trainer


def finished_batches(trainer: Trainer) -> int:
    """Return the training batches since the start whose training step has returned."""
    total: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    return int(total.processed)


def begun_optimizer_steps(trainer: Trainer) -> int:
    """Return the optimizer steps that were begun under manual optimisation."""
    progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
    return int(progress.total.ready)


def validate_before_training(trainer: Trainer) -> None:
    """Run the validation loop at the start of a resumed training."""
    validation = trainer.fit_loop.epoch_loop.val_loop
    trainer.validating = True
    validation.run()
    trainer.training = True

    # Or Lightning takes the epoch that it restarts for one that is over.
    validation._has_run = False


def loops_at(
    loops: Mapping[str, Any], *, epoch: int, batches: int, finished: int, is_last: bool
) -> dict[str, Any]:
    """Return the state from which the fit loop continues after the batches that are finished.

    Lightning 2.6 continues differently, and not always exactly, after each hook in which a
    checkpoint may be written. From this state it always continues in the same way: in the middle of
    an epoch, with all batches before it finished and no validation interrupted.

    Args:
        loops: What the checkpoint holds for the fit loop.
        epoch: Number of the epoch, from 0.
        batches: Batches of this epoch that are finished.
        finished: Batches that are finished since the start.
        is_last: Whether the epoch has no further batch.
    """
    epochs = {"ready": epoch + 1, "started": epoch + 1, "processed": epoch, "completed": epoch}
    return {
        **loops,
        "state_dict": {"combined_loader": [{"epoch": epoch, "done": batches}]},
        "epoch_progress": {"total": epochs, "current": epochs},
        "epoch_loop.batch_progress": _progress(finished, batches, is_last=is_last),
        "epoch_loop.val_loop.batch_progress": _progress(0, 0, is_last=False),
    }


def _progress(total: int, current: int, *, is_last: bool) -> dict[str, Any]:
    stages = ("ready", "started", "processed", "completed")
    return {
        "total": dict.fromkeys(stages, total),
        "current": dict.fromkeys(stages, current),
        "is_last_batch": is_last,
    }
