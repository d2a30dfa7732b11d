"""Obey signals that ask a training to stop between two steps, where a checkpoint can be saved."""

import logging
import signal
import threading
import time
from types import FrameType
from typing import Any, NoReturn

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException

from tunetrail.learning.recovery.checkpoints import LastCheckpoint, validation_follows
from tunetrail.learning.training.micro_batches import SharedBatch

logger = logging.getLogger(__name__)

_STOPPING = (signal.SIGINT, signal.SIGTERM)
# Signals that a rank receives within this time are one request: SLURM signals every process of a
# job, and the process that has started the ranks passes its signal on to them.
_ONE_REQUEST_SECONDS = 1.0
_asked_to_stop = threading.Event()


def ask_to_stop() -> None:
    """Ask the training of this process to stop, as SIGTERM does; works in every thread."""
    _asked_to_stop.set()


class StopBetweenSteps(Checkpoint):
    """Finishes the running step before the process does what it does on SIGINT or SIGTERM.

    A validation that follows the step is finished as well, and a checkpoint is saved. With several
    ranks, all of them stop after the same step, whichever received the signal. A second signal is
    obeyed at once. Lightning calls callbacks of this kind last, so that all others have done their
    part. Handles signals in the main thread only.

    Args:
        last: Saves the checkpoint.
    """

    def __init__(self, last: LastCheckpoint) -> None:
        self.last = last
        self._original_handlers: dict[int, Any] = {}
        self._received: int | None = None
        self._received_at = 0.0
        self._ranks = 1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers."""
        self._ranks = trainer.world_size
        # Python installs signal handlers in the main thread only.
        if threading.current_thread() is threading.main_thread():
            for signal_number in _STOPPING:
                handler = signal.signal(signal_number, self._receive)
                self._original_handlers[signal_number] = handler

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: SharedBatch,
        batch_idx: int,
    ) -> None:
        """Stop if a signal asked for it, unless a validation follows."""
        if batch.ends_window and not validation_follows(trainer, batch_idx):
            self._stop_if_asked(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop if a signal asked for it."""
        if not trainer.sanity_checking:
            self._stop_if_asked(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Obey a signal that came after the last step, and restore the handlers."""
        self.obey()
        self._restore_handlers()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Restore the handlers."""
        self._restore_handlers()

    def obey(self) -> None:
        """Let the original handler act on the signal, if one was received.

        Raises:
            KeyboardInterrupt: It was SIGINT, and the handler has returned, or there is none.
            SIGTERMException: The same of SIGTERM.
        """
        if self._received is None:
            return

        signal_number, self._received = self._received, None
        self._restore_handlers()
        act_on_signal(signal_number, self._original_handlers.get(signal_number))

    def _stop_if_asked(self, trainer: Trainer) -> None:
        # Ranks receive a signal at different moments: without a vote, one would wait for ever.
        is_asked = self._received is not None or _asked_to_stop.is_set()
        if trainer.world_size > 1:
            is_asked = trainer.strategy.reduce_boolean_decision(is_asked, all=False)
        if is_asked:
            self.last.save_interrupted(trainer)
            _asked_to_stop.clear()
            self._received = self._received or signal.SIGTERM
            self.obey()

    def _receive(self, signal_number: int, frame: FrameType | None) -> None:
        if self._received is not None:
            seconds = time.monotonic() - self._received_at
            if self._ranks > 1 and seconds < _ONE_REQUEST_SECONDS:
                return
            self._received = signal_number
            self.obey()

        self._received, self._received_at = signal_number, time.monotonic()
        name = signal.Signals(signal_number).name
        logger.warning("%s: stopping after this step; a second signal stops at once", name)

    def _restore_handlers(self) -> None:
        for signal_number, handler in self._original_handlers.items():
            signal.signal(signal_number, handler)


def act_on_signal(signal_number: int, handler: Any) -> NoReturn:
    """Let a handler act on a signal; if it returns or there is none, raise what the signal means.

    Raises:
        KeyboardInterrupt: It was SIGINT.
        SIGTERMException: It was another signal.
    """
    if callable(handler):
        handler(signal_number, None)
    raise KeyboardInterrupt if signal_number == signal.SIGINT else SIGTERMException
