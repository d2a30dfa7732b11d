"""Hydra's callbacks: private folders for its logs, and the MLflow run of a sweep.

Hydra calls them at the beginning and the end of a job or a sweep. A sweep's run is the parent of
its jobs' runs, which find it by an environment variable.
"""

import contextlib
import os
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from tunetrail.config import SWEEP_RUN_VARIABLE, SWEPT_KEYS_VARIABLE, TrackingConfig
from tunetrail.errors import TunetrailError
from tunetrail.paths import private_folder
from tunetrail.stores.tracking import Tracker, shown_uri
from tunetrail.sweeps import SweepNotStarted

_open: dict[str, Tracker] = {}
"""The stores of the open sweeps of this process, by the id of their run."""


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


class SweepRunCallback(Callback):
    """Opens the sweep's MLflow run before the first job and closes it after the last."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Start the run, named after what is swept over.

        Raises:
            SweepNotStarted: The MLflow store can't be used, so no job could be tracked.
        """
        overrides = list(config.hydra.overrides.task)
        swept = [override for override in overrides if "," in override]

        try:
            tracker = Tracker(
                TrackingConfig(**OmegaConf.to_container(config.tracking, resolve=True))  # type: ignore[arg-type]
            )
            run = tracker.start_run(
                f"sweep {' '.join(swept)}".strip(),
                tags={"tunetrail.sweep": shown_uri(" ".join(overrides))},
            )
        except TunetrailError as error:
            raise SweepNotStarted(error) from error

        swept_keys = [override.partition("=")[0] for override in swept]
        os.environ[SWEEP_RUN_VARIABLE] = run.run_id
        os.environ[SWEPT_KEYS_VARIABLE] = ",".join(swept_keys)
        _open[run.run_id] = tracker

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """End the run; Hydra calls this only if every job succeeded."""
        end_sweep("succeeded")


def end_sweep(state: str, reason: str | None = None) -> None:
    """End the open sweep of this process, if any: `succeeded`, `failed` or `interrupted`."""
    run_id = os.environ.pop(SWEEP_RUN_VARIABLE, "")
    os.environ.pop(SWEPT_KEYS_VARIABLE, None)

    # The run may belong to the sweep of another process.
    tracker = _open.pop(run_id, None)
    if tracker is not None:
        tracker.run(run_id).finish(state, reason)
