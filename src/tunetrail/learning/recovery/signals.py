"""Signals that ask a training to stop are obeyed between two steps, where a checkpoint can be saved."""

import logging
import signal
import threading
from types import FrameType
from typing import Any

import pytorch_lightning as lightning
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException

logger = logging.getLogger(__name__)

_STOPPING = (signal.SIGINT, signal.SIGTERM)


class StopBetweenSteps(Checkpoint):
    """Lets the step that is under way come to its end, then does what the process does on that signal; a second signal
    is obeyed at once.

    Of the kind that Lightning runs last, so that all others have done their part. Acts in the main thread only.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._received: int | None = None

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Take the signals."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in _STOPPING}

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Stop, if that was asked for."""
        self._obey()

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop, if that was asked for."""
        self._obey()

    def on_train_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Give the signals back; one that came after the last step is obeyed now."""
        self._obey()
        self._give_back()

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Give the signals back."""
        self._give_back()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None:
            self._received = number
            self._obey()
        self._received = number
        logger.warning(
            "%s: stopping after this step; once more stops at once", signal.Signals(number).name
        )

    def _obey(self) -> None:
        if self._received is None:
            return
        number, before = self._received, self._before.get(self._received)
        self._give_back()
        if callable(before):
            before(number, None)
        raise KeyboardInterrupt if number == signal.SIGINT else SIGTERMException

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before, self._received = {}, None
