"""The parent run of a multirun: Hydra calls this at beginning and end; jobs find it by an environment variable."""

import os
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from tunetrail.config import SWEEP_RUN_VARIABLE, SWEPT_KEYS_VARIABLE, TrackingConfig
from tunetrail.stores.tracking import Tracker, shown_uri

_open: dict[str, Tracker] = {}


class SweepRunCallback(Callback):
    """Opens the sweep's MLflow run before the first job and closes it behind the last."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Start the run, named after what is swept over."""
        tracker = Tracker(TrackingConfig(**OmegaConf.to_container(config.tracking, resolve=True)))  # type: ignore[arg-type]
        overrides = list(config.hydra.overrides.task)
        swept = [each for each in overrides if "," in each]
        run = tracker.start_run(
            f"sweep {' '.join(swept)}".strip(),
            tags={"tunetrail.sweep": shown_uri(" ".join(overrides))},
        )
        os.environ[SWEEP_RUN_VARIABLE] = run.run_id
        os.environ[SWEPT_KEYS_VARIABLE] = ",".join(each.partition("=")[0] for each in swept)
        _open[run.run_id] = tracker

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """End the run; Hydra comes here only if every job succeeded."""
        end_sweep("succeeded")


def end_sweep(state: str, reason: str | None = None) -> None:
    """End this process's open sweep as `succeeded`, `failed` or `interrupted`; does nothing where there is none."""
    run_id = os.environ.pop(SWEEP_RUN_VARIABLE, "")
    os.environ.pop(SWEPT_KEYS_VARIABLE, None)
    tracker = _open.pop(run_id, None)
    if tracker is not None:
        tracker.run(run_id).finish(state, reason)
