"""What the pipeline's steps share: one run's surroundings, its working folder, and the outcome."""

import contextlib
import errno
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunetrail.deployment.gate import Decision
from tunetrail.deployment.registry import ModelVersion
from tunetrail.errors import TrainingError
from tunetrail.evaluation.comparison import Comparison
from tunetrail.learning.learner import Learner
from tunetrail.learning.models.catalog import ResolvedModel
from tunetrail.stores.tracking import TrackedRun

CHECKPOINTS = "checkpoints"
"""The part of a run's folder that is worth keeping when the run fails."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the pipeline of one model type gave: the steps in order, and the facts that its caller acts on."""

    model_type: str
    mlflow_run_id: str
    steps: Mapping[str, Mapping[str, Any]]
    comparison: Comparison
    decision: Decision
    version: ModelVersion
    previous: ModelVersion | None

    def to_dict(self) -> dict[str, Any]:
        """Return the steps as plain values."""
        return {name: dict(step) for name, step in self.steps.items()}


@dataclass(kw_only=True)
class Work:
    """One run's surroundings, handed from step to step."""

    model_type: str
    run: TrackedRun
    folder: Path
    learner: Learner
    base: ResolvedModel
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)

    def finish_step(self, name: str, result: dict[str, Any], metrics: Mapping[str, float] | None = None) -> None:
        """Keep a step's result, and write it and its metrics to the run."""
        self.steps[name] = result
        log_step(self.run, name, result, metrics)


def log_step(run: TrackedRun, name: str, result: dict[str, Any], metrics: Mapping[str, float] | None = None) -> None:
    """Write a step's result and its metrics to a run."""
    run.log_metrics({f"{name}/{key}": value for key, value in (metrics or {}).items()})
    run.log_dict(result, f"steps/{name}.json")


@contextlib.contextmanager
def working_folder(folder: Path) -> Iterator[None]:
    """Make a folder for the run and remove it afterwards; of a failed run the checkpoints stay.

    On a full disk they are cut off, and go: the failure itself can then still be written down.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(
            f"output_dir must be a folder that can be written, got {folder.parent}: {error.strerror}. Name another one."
        ) from error
    try:
        yield
    except BaseException as error:
        full = any(isinstance(each, OSError) and each.errno == errno.ENOSPC for each in (error, error.__cause__))
        remove_leftovers(folder, kept=() if full else (CHECKPOINTS,))
        raise
    shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(folder: Path, kept: tuple[str, ...] = (CHECKPOINTS,)) -> None:
    """Remove what a run that failed or died left in its folder, but for `kept`; the folder too if nothing is."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # absent, or not empty: the checkpoints
        folder.rmdir()
