"""Hydra's callbacks, which it calls at the beginning of a job or a sweep."""

import contextlib
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from tunetrail.errors import ConfigError
from tunetrail.paths import private_folder
from tunetrail.sweeps import SweepNotStarted

SWEEPER = "tunetrail"


class PrivateLogsCallback(Callback):
    """Makes the folder of Hydra's log, which may quote samples, readable by its owner only."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the folder of a single job before Hydra does."""
        _make_private(config.hydra.run.dir)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the folder of a sweep before Hydra does."""
        _make_private(config.hydra.sweep.dir)


def _make_private(folder: str) -> None:
    # Hydra makes the folder next, and says why it can't be made.
    with contextlib.suppress(OSError):
        private_folder(Path(folder))


class OwnSweeperCallback(Callback):
    """Refuses sweepers other than ours, all of whose jobs would ask the test rows."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the choice of the sweeper.

        Raises:
            SweepNotStarted: It is another one.
        """
        chosen = config.hydra.runtime.choices["hydra/sweeper"]
        if chosen != SWEEPER:
            raise SweepNotStarted(
                ConfigError(
                    f"hydra/sweeper must be {SWEEPER}, got {chosen!r}. "
                    "Choose how it searches with hydra.sweeper.sampler."
                )
            )
