"""LiveRoot: the model that answers now, replaced when root moves.

A request takes the model once, at its beginning: it is answered by the old version or by the new
one, whole.
"""

import logging
import threading
from datetime import UTC, datetime

from tunetrail.errors import TunetrailError, one_line
from tunetrail.pipeline.root_sources import LoadedVersion, RootSource

logger = logging.getLogger(__name__)


class LiveRoot:
    """Root of one family, loaded, and loaded again by a thread when it has moved.

    Args:
        source: Where root comes from.
        poll_seconds: How often the thread asks which version is root.

    Attributes:
        current: The version that answers.
        loaded_at: When it was loaded.
        reload_error: Why a later root couldn't be loaded; None if nothing is wrong.

    Raises:
        UserError: There is no root.
        DeploymentError: Root can't be loaded.
    """

    def __init__(self, source: RootSource, poll_seconds: float) -> None:
        self.source = source
        self.poll_seconds = poll_seconds
        self.reload_error: str | None = None
        self.current: LoadedVersion = source.load()
        self.loaded_at = datetime.now(UTC)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="root", daemon=True)

    def start(self) -> None:
        """Start to follow root."""
        self._thread.start()

    def stop(self) -> None:
        """Stop following root; a model that is being loaded isn't waited for."""
        self._stop.set()

    def reload(self) -> None:
        """Load root if it has moved; if that fails, the old version goes on answering."""
        try:
            version = self.source.version()
            if version is None:
                self._keep(f"{self.source.name} has no root any more")
                return
            if version == self.current.version:
                self.reload_error = None
                return
            loaded = self.source.load()
        except TunetrailError as error:
            self._keep(str(error))
            return
        # Broken files and stores that are away raise whatever their readers stumble over.
        except Exception as error:
            self._keep(one_line(error))
            return

        logger.info("%s answers from now on, no longer %s", loaded, self.current)
        self.current, self.loaded_at = loaded, datetime.now(UTC)
        self.reload_error = None

    def _follow(self) -> None:
        while not self._stop.wait(self.poll_seconds):
            self.reload()

    def _keep(self, reason: str) -> None:
        """Remember why the old version stays, and say it once."""
        if reason != self.reload_error:
            logger.warning("%s goes on answering: %s", self.current, reason)
        self.reload_error = reason
