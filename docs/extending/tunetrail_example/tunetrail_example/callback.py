"""A Lightning callback: ends the training when the loss is low enough."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer


class StopBelow(Callback):
    """Ends the training after the step whose loss is below a threshold.

    Args:
        loss: The threshold.
    """

    def __init__(self, loss: float = 0.01) -> None:
        self.loss = loss

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ask for the end; the training finishes its step first."""
        loss = trainer.callback_metrics.get("train/loss")
        if loss is not None and float(loss) < self.loss:
            trainer.should_stop = True
