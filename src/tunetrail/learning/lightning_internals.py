"""Lightning's internals: every name of it that is not public, in one place.

Written for Lightning 2.6. `tests/unit/learning/test_lightning_internals.py` has a test per name, so
that an upgrade says which one has gone.
"""

from collections.abc import Callable
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar


def no_time_left() -> str:
    """Return nothing: how long a run still takes isn't known."""
    return ""


class TrainingProgressBar(RichProgressBar):
    """Lightning's progress bar, which counts the epochs from 1: `epoch 1 of 3`.

    Args:
        time_left: Returns how long the whole run still takes; empty if that isn't known.
        options: As for Lightning's bar.
    """

    def __init__(self, time_left: Callable[[], str] = no_time_left, **options: Any) -> None:
        super().__init__(**options)
        self._time_left = time_left

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the metrics next to the bar, and how long the whole run still takes."""
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        text = self._time_left()
        return {**metrics, "left": text} if text else metrics

    def _get_train_description(self, current_epoch: int) -> str:
        epochs = self.trainer.max_epochs
        # -1 is Lightning's word for no limit.
        of_all = "" if epochs in (None, -1) else f" of {epochs}"
        description = f"epoch {current_epoch + 1}{of_all}"
        # As wide as the bar of the validation, or the line would flicker.
        return description.ljust(len(self.validation_description))


def scale_batches(fit_loop: dict[str, Any], parts: int, parts_before: int) -> None:
    """Count a fit loop's micro-batches as if each had been cut into another number of parts.

    The loop counts micro-batches, finished ones and those handed out by the loader.

    Args:
        fit_loop: What a checkpoint holds for the fit loop; changed in place.
        parts: Parts of each micro-batch from now on.
        parts_before: Parts when the checkpoint was written, after a whole optimizer step.
    """
    if parts == parts_before:
        return

    progress = fit_loop["epoch_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        begun = counts["ready"]
        for stage, batches in counts.items():
            # Of the batch that has just ended, the last stage may not be counted yet.
            counts[stage] = begun // parts_before * parts - (begun - batches)

    for loader in fit_loop["state_dict"].get("combined_loader", []):
        loader["done"] = loader["done"] // parts_before * parts


def count_running_epoch(fit_loop: dict[str, Any]) -> None:
    """Count the epoch in which a checkpoint was saved as begun, and as not finished.

    Lightning leaves the epoch out that begins after a resume from the end of an epoch. A checkpoint
    of its last batch would then repeat the epoch, or add one to the training.

    Args:
        fit_loop: What a checkpoint holds for the fit loop; changed in place.
    """
    for counts in fit_loop["epoch_progress"].values():
        finished = counts["processed"]
        counts |= {"ready": finished + 1, "started": finished + 1, "completed": finished}
