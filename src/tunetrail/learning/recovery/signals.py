"""Hold back signals that ask a training to stop, until it is between two steps."""

import logging
import signal
import threading
import time
from types import FrameType
from typing import Any, NoReturn

from pytorch_lightning import Trainer
from pytorch_lightning.utilities.exceptions import SIGTERMException

logger = logging.getLogger(__name__)

_STOPPING = (signal.SIGINT, signal.SIGTERM)
# Signals that a rank receives within this time are one request: SLURM signals every process of a
# job, and the process that has started the ranks passes its signal on to them.
_ONE_REQUEST_SECONDS = 1.0
_asked_to_stop = threading.Event()


def ask_to_stop() -> None:
    """Ask the training of this process to stop, as SIGTERM does; works in every thread."""
    _asked_to_stop.set()


class StopRequest:
    """Remembers SIGINT or SIGTERM, on which the process then does what it always does.

    With several ranks, all of them stop after the same step, whichever received the signal. A
    second signal is obeyed at once. Handles signals in the main thread only.
    """

    def __init__(self) -> None:
        self._original_handlers: dict[int, Any] = {}
        self._received: int | None = None
        self._received_at = 0.0
        self._ranks = 1

    def install_handlers(self, ranks: int) -> None:
        """Begin to hold back signals, in a training of `ranks` ranks."""
        self._ranks = ranks
        # Python installs signal handlers in the main thread only.
        if threading.current_thread() is threading.main_thread():
            for signal_number in _STOPPING:
                handler = signal.signal(signal_number, self._receive)
                self._original_handlers[signal_number] = handler

    def restore_handlers(self) -> None:
        """Leave signals to the handlers that were there before."""
        for signal_number, handler in self._original_handlers.items():
            signal.signal(signal_number, handler)

    def is_made(self, trainer: Trainer) -> bool:
        """Tell whether any rank was asked to stop; all ranks have to call it."""
        # Ranks receive a signal at different moments: without a vote, one would wait for ever.
        is_asked = self._received is not None or _asked_to_stop.is_set()
        return trainer.strategy.reduce_boolean_decision(is_asked, all=False)

    def obey(self, otherwise: int | None = None) -> None:
        """Let the original handler act on the signal, if one was received.

        Args:
            otherwise: The signal if this rank has received none; None for nothing to do.

        Raises:
            KeyboardInterrupt: It was SIGINT, and the handler has returned, or there is none.
            SIGTERMException: The same of SIGTERM.
        """
        signal_number = self._received or otherwise
        if signal_number is None:
            return

        self._received = None
        _asked_to_stop.clear()
        self.restore_handlers()
        act_on_signal(signal_number, self._original_handlers.get(signal_number))

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


def act_on_signal(signal_number: int, handler: Any) -> NoReturn:
    """Let a handler act on a signal; if it returns or there is none, raise what the signal means.

    Raises:
        KeyboardInterrupt: It was SIGINT.
        SIGTERMException: It was another signal.
    """
    if callable(handler):
        handler(signal_number, None)
    raise KeyboardInterrupt if signal_number == signal.SIGINT else SIGTERMException
