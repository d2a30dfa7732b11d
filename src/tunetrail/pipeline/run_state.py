"""The state of a run in its folder, kept until the run has succeeded, so that it can be resumed.

state.json           the results of finished steps, and what later steps follow from
prepared/rows/       the sides of the split
augmented.parquet    the train side with the rows that augmentation added
train.parquet        the rows that the model is trained on
additional.parquet   the rows of additional shapes that it is trained on as well
replayed.parquet     the rows of earlier sessions that it is trained on again
start/               the model that the training begins with, if that was root
fit/                 the job of the training; see `tunetrail.pipeline.jobs`
fold-N/              the job of each fold of the cross-validation
"""

import contextlib
import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from tunetrail.data import row_files
from tunetrail.data.flow.prepared import side_file
from tunetrail.data.sides import SIDES
from tunetrail.data.splits import Split
from tunetrail.deployment.model_version import ModelVersion
from tunetrail.errors import TrainingError, UserError
from tunetrail.paths import private_folder
from tunetrail.pipeline.jobs import CHECKPOINTS, MODEL, SCORES, last_checkpoint
from tunetrail.pipeline.run_files import (
    needed_to_resume,
    read_rows,
    remove,
    write_json,
    write_rows,
)

STATE, PREPARED, START, FIT = "state.json", "prepared", "start", "fit"
AUGMENTED, TRAIN, ADDITIONAL = "augmented.parquet", "train.parquet", "additional.parquet"
REPLAYED = "replayed.parquet"
_FOLDS = "fold-*"
# Anything else can be made again, or is among the run's artifacts already.
_NEEDED = (STATE, PREPARED, START, FIT, AUGMENTED, TRAIN, ADDITIONAL, REPLAYED)
# Of `state.json`; another one can't be read.
_FORMAT = 2

_ROWS_OF_STEPS = {"augmentation": AUGMENTED, "feature_engineering": TRAIN}


@dataclass(kw_only=True)
class SavedRunState:
    """How far a run has come.

    Attributes:
        folder: The run's folder.
        steps: The results of the steps that are finished, in order.
        base_model: Canonical name of the base model, once it is logged.
        split: `method` and `warnings` of the split.
        additional_rows: What became of the rows of each additional shape.
        replayed: What was drawn from earlier sessions, None if nothing is replayed.
        started_from: `base`, or the URI of the root that the training begins with.
        auto_values: What was found for `auto` in the training's settings, as plain values.
        learnt: The `versions` whose learnt rows the test split was compared with, and the
            `test_rows` to leave out, as their twins are among those.
        general_file: The `digest` of the general file; the `versions` whose learnt rows it was
            compared with, and the rows of it to leave out (`left_out`), once that is known.
        compared_with: The version that the candidate was compared with, None for the base model.
        validation_scores: The fitted model's scores on the validation rows, if the run ends with
            them.
    """

    folder: Path
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    base_model: str | None = None
    split: dict[str, Any] | None = None
    additional_rows: Mapping[str, Any] | None = None
    replayed: Mapping[str, Any] | None = None
    started_from: str | None = None
    auto_values: Mapping[str, Any] | None = None
    learnt: dict[str, Any] | None = None
    general_file: dict[str, Any] | None = None
    compared_with: ModelVersion | None = None
    validation_scores: dict[str, Any] | None = None

    @classmethod
    def open(cls, folder: Path) -> "SavedRunState":
        """Read the state that an earlier process left, and check that its files are there.

        Raises:
            UserError: The folder is gone, or something in it can't be read.
        """
        state = cls._read(folder)
        # A broken checkpoint is refused here, before any stage spends time.
        for job in (FIT, _FOLDS):
            for job_folder in folder.glob(job):
                last_checkpoint(job_folder)

        # Only files that the state names: a later file belongs to a step that is done again.
        files = [folder / name for step, name in _ROWS_OF_STEPS.items() if step in state.steps]
        if state.split is not None:
            files += [side_file(folder / PREPARED, side) for side in SIDES]
        if state.additional_rows is not None:
            files.append(folder / ADDITIONAL)
        if state.replayed is not None:
            files.append(folder / REPLAYED)
        for path in files:
            with needed_to_resume(path):
                # Reads the footer only, which comes last in a Parquet file: a cut-off one has none.
                row_files.row_count(path)

        return state

    @classmethod
    def _read(cls, folder: Path) -> "SavedRunState":
        path = folder / STATE
        if not path.is_file():
            raise UserError(
                f"{folder} must hold the state of the run, but there is no {STATE}. Resume in the "
                "folder in which the run was started, or, if nothing is left of it, start again "
                "with `tunetrail train`."
            )

        with needed_to_resume(path):
            content = json.loads(path.read_text(encoding="utf-8"))
            form = content.pop("form")
            if form != _FORMAT:
                raise ValueError(f"its format is {form}, not {_FORMAT}")
            version = content.pop("compared_with")
            compared_with = ModelVersion(**version) if version else None
            return cls(folder=folder, compared_with=compared_with, **content)

    def save(self) -> None:
        """Write the state, so that it survives the process; the files that it names come first."""
        content = asdict(self)
        del content["folder"]
        write_json({"form": _FORMAT, **content}, self.folder / STATE)

    def rows(self, name: str) -> pd.DataFrame:
        """Return the rows of a file of the folder; raises `UserError` if it is gone or broken."""
        return read_rows(self.folder / name)

    def write_rows(self, rows: pd.DataFrame, name: str) -> None:
        """Write rows to a file of the folder."""
        write_rows(rows, self.folder / name)

    def read_split(self) -> Split:
        """Return the sides of the prepared rows; raises `UserError` if a file is gone or broken."""
        assert self.split is not None
        frames = {side: read_rows(side_file(self.folder / PREPARED, side)) for side in SIDES}
        warnings = tuple(self.split["warnings"])
        return Split(**frames, method=self.split["method"], warnings=warnings)


@contextlib.contextmanager
def working_folder(folder: Path) -> Iterator[None]:
    """Make a folder for the run; if the run fails, what is needed to resume it stays there.

    A mistake of the user's comes back with every run of the same configuration: after one, nothing
    stays, unless something was trained already.
    """
    try:
        private_folder(folder)
    except OSError as error:
        raise TrainingError(
            f"output_dir must be a folder that can be written, got {folder.parent}: "
            f"{error.strerror}. Name another one."
        ) from error

    try:
        yield
    # BaseException: an interrupted process is what resuming is made for.
    except BaseException as error:
        remove_leftovers(folder, resumable=not isinstance(error, UserError))
        raise


def remove_leftovers(folder: Path, *, resumable: bool = True) -> None:
    """Remove from the folder of a run that failed or died what isn't needed to resume it.

    Checkpoints that a full disk has cut off go too: the failure is written down in their space.
    """
    for path in folder.glob(f"*/{CHECKPOINTS}/*"):
        if not zipfile.is_zipfile(path):
            path.unlink(missing_ok=True)

    # What training time went into stays, even if the user's mistake has to be fixed first.
    trained = (f"*/{CHECKPOINTS}/*", f"*/{MODEL}", f"*/{SCORES}")
    if not resumable and not any(list(folder.glob(pattern)) for pattern in trained):
        shutil.rmtree(folder, ignore_errors=True)
        return

    for path in folder.glob("*"):
        if path.name not in _NEEDED and not path.match(_FOLDS):
            remove(path)
    for path in (folder / PREPARED).glob("*"):
        if path.name != "rows":  # the others are among the run's artifacts
            remove(path)
    with contextlib.suppress(OSError):  # absent, or not empty
        folder.rmdir()
