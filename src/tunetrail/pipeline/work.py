"""What the pipeline's steps share: one run's surroundings, its working folder, and the outcome."""

import contextlib
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunetrail.deployment.gate import Decision
from tunetrail.deployment.registry import ModelVersion
from tunetrail.errors import TrainingError, UserError
from tunetrail.evaluation.comparison import Comparison
from tunetrail.learning.learner import Learner
from tunetrail.learning.models.catalog import ResolvedModel
from tunetrail.pipeline.families import ModelFamily, family_named
from tunetrail.pipeline.resuming import CHECKPOINTS, PREPARED, KeptRun, is_kept
from tunetrail.stores.tracking import TrackedRun

STEPS = (
    "validation",
    "cleaning",
    "augmentation",
    "feature_engineering",
    "cross_validation",
    "training",
    "evaluation",
    "comparison",
    "deployment",
)
"""The steps of a run, in order."""


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
    kept: KeptRun
    learner: Learner
    base: ResolvedModel

    @property
    def family(self) -> ModelFamily:
        """The family of the model."""
        return family_named(self.model_type)

    @property
    def folder(self) -> Path:
        """The run's own folder."""
        return self.kept.folder

    @property
    def steps(self) -> dict[str, dict[str, Any]]:
        """The results of the steps that are finished."""
        return self.kept.steps

    def finish_step(
        self, name: str, result: dict[str, Any], metrics: Mapping[str, float] | None = None
    ) -> None:
        """Write a step's result and its metrics to the run, and keep it: a resumed run doesn't do the step again."""
        log_step(self.run, name, result, metrics)
        self.kept.keep(steps={name: result})


def log_step(
    run: TrackedRun, name: str, result: dict[str, Any], metrics: Mapping[str, float] | None = None
) -> None:
    """Write a step's result and its metrics to a run."""
    run.log_metrics({f"{name}/{key}": value for key, value in (metrics or {}).items()})
    run.log_dict(result, f"steps/{name}.json")


@contextlib.contextmanager
def working_folder(folder: Path) -> Iterator[None]:
    """Make a folder for the run; where it fails, what a resumed run needs stays in it.

    A mistake of the user's comes back with every run of the same configuration: after one, nothing stays, unless
    something was trained already.
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
        remove_leftovers(folder, resumable=not isinstance(error, UserError))
        raise


def remove_leftovers(folder: Path, *, resumable: bool = True) -> None:
    """Remove from the folder of a run that failed or died what isn't needed to resume it; the folder, if nothing is.

    Checkpoints stay, but for those that a full disk has cut off: their space is what the failure is written down in.
    """
    checkpoints = folder / CHECKPOINTS
    for path in checkpoints.iterdir() if checkpoints.is_dir() else ():
        if not zipfile.is_zipfile(path):
            path.unlink(missing_ok=True)
    _remove_if_empty(checkpoints)
    resumable = resumable or checkpoints.is_dir()
    for path in folder.iterdir() if folder.is_dir() else ():
        if not resumable or not is_kept(path.name):
            _remove(path)
    prepared = folder / PREPARED
    for path in prepared.iterdir() if prepared.is_dir() else ():
        if path.name != "rows":  # the rest is among the run's artifacts
            _remove(path)
    _remove_if_empty(folder)


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # absent, or not empty
        folder.rmdir()
