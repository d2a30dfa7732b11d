"""What a run's folder keeps until the run has succeeded, so that it can be resumed: JSON and Parquet, nothing pickled.

    state.json          the results of finished steps, and facts that later steps follow from
    prepared/rows/      the sides of the split
    augmented.parquet   the train side with the rows that were added
    train.parquet       the rows that the model is trained on
    further.parquet     those of other shapes that it's trained on as well
    mined-EPOCH.parquet the same with the negatives that were mined for an epoch
    start/              the model that the training began with, where that was root
    checkpoints/        of the training

Knows the files, and neither what the steps do nor which run is meant.
"""

import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pandas as pd

from tunetrail.data import row_files
from tunetrail.data.flow.prepared import side_file
from tunetrail.data.rows import records_of
from tunetrail.data.splits import SIDES, Split
from tunetrail.errors import UserError
from tunetrail.learning.training.records import Encode, Refresh

STATE, PREPARED, START, CHECKPOINTS = "state.json", "prepared", "start", "checkpoints"
AUGMENTED, TRAIN, FURTHER = "augmented.parquet", "train.parquet", "further.parquet"
LAST_CHECKPOINT = "last.ckpt"
_MINED = "mined-{}.parquet"
_FURTHER = "further"
Steps = Mapping[str, dict[str, Any]]
_FORM = 1
"""Of `state.json`; another one can't be read."""


@dataclass(kw_only=True)
class KeptRun:
    """The folder of one run, and what is kept in it.

    Attributes:
        folder: The run's own.
        steps: The results of the steps that are finished, in order.
        facts: What later steps follow from; each is there as soon as it is certain.
    """

    folder: Path
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> "KeptRun":
        """Return what an earlier process left.

        Raises:
            UserError: The folder is gone, or something in it can't be read.
        """
        kept = cls._read(folder)
        kept.checkpoint()
        sides = (
            [side_file(folder / PREPARED, side) for side in SIDES]
            if "cleaning" in kept.steps
            else []
        )
        names = {"augmentation": AUGMENTED, "feature_engineering": TRAIN}
        files = [name for step, name in names.items() if step in kept.steps]
        files += [FURTHER] if _FURTHER in kept.facts else []
        for path in (*sides, *(folder / name for name in files)):
            with _readable(path):
                row_files.row_count(path)
        return kept

    @classmethod
    def _read(cls, folder: Path) -> "KeptRun":
        try:
            state = json.loads((folder / STATE).read_text(encoding="utf-8"))
            if state["form"] != _FORM:
                raise ValueError(f"its form is {state['form']}, not {_FORM}")
            return cls(folder=folder, steps=dict(state["steps"]), facts=dict(state["facts"]))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(
                f"{folder} must hold what is kept of the run, but there is no {STATE}. Resume in the folder in which "
                "the run was started, or, where nothing is left of it, start again with `tunetrail train`."
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _unreadable(folder / STATE, error) from error

    def keep(self, *, steps: Steps | None = None, facts: Mapping[str, Any] | None = None) -> None:
        """Keep the results of steps, and facts, whenever the process ends; files that belong to them come before."""
        self.steps.update(steps or {})
        self.facts.update(facts or {})
        state = {"form": _FORM, "steps": self.steps, "facts": self.facts}
        writing = self.folder / f".{STATE}"
        with open(writing, "w", encoding="utf-8") as file:
            json.dump(state, file, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(writing, self.folder / STATE)

    def split(self) -> Split:
        """Return the sides that the rows were cut into.

        Raises:
            UserError: A file is gone or broken.
        """
        frames = {side: self._rows(side_file(self.folder / PREPARED, side)) for side in SIDES}
        facts = self.facts["split"]
        return Split(**frames, method=facts["method"], warnings=tuple(facts["warnings"]))

    def keep_further(self, rows: pd.DataFrame, account: Mapping[str, Any]) -> None:
        """Keep rows of further shapes, and what became of them."""
        self.write_rows(rows, FURTHER)
        self.keep(facts={_FURTHER: account})

    def further(self) -> pd.DataFrame | None:
        """Return the rows of further shapes, None where there are none; raises `UserError` where they are broken."""
        return self.rows(FURTHER) if _FURTHER in self.facts else None

    def write_rows(self, rows: pd.DataFrame, name: str) -> None:
        """Write rows to a file of the folder, whole or not at all."""
        writing = self.folder / f".{name}"
        rows.to_parquet(writing, index=False)
        os.replace(writing, self.folder / name)

    def rows(self, name: str) -> pd.DataFrame:
        """Return the rows of a file of the folder; raises `UserError` where it is gone or broken."""
        return self._rows(self.folder / name)

    def checkpoint(self) -> Path | None:
        """Return the last checkpoint of the training, None where there is none yet.

        Raises:
            UserError: It is cut off.
        """
        path = self.folder / CHECKPOINTS / LAST_CHECKPOINT
        if not path.exists():
            return None
        if not zipfile.is_zipfile(
            path
        ):  # torch's checkpoints are; their table of contents is at the end
            raise UserError(
                f"{path} must be a whole checkpoint, got a broken one. Delete it to train from the beginning."
            )
        return path

    def refresh(self, refresh: Refresh | None) -> Refresh | None:
        """Return the same refresh, but what it gave for an epoch is kept, and taken from there the second time.

        A training that is resumed within an epoch asks again for that epoch's records; the weights that they were mined
        with are gone by then.
        """
        if refresh is None:
            return None

        def records(encode: Encode, epoch: int) -> Sequence[Mapping[str, Any]]:
            name = _MINED.format(epoch)
            if not (self.folder / name).exists():
                self.write_rows(pd.DataFrame(list(refresh.records(encode, epoch))), name)
            # those before stay: the last checkpoint may still be of their epochs
            (self.folder / _MINED.format(epoch - 2 * refresh.every_epochs)).unlink(missing_ok=True)
            return records_of(self.rows(name))

        return Refresh(every_epochs=refresh.every_epochs, records=records)

    def _rows(self, path: Path) -> pd.DataFrame:
        with _readable(path):
            return row_files.read_rows(path)


def is_kept(name: str) -> bool:
    """Whether a file or folder of that name in a run's folder is needed to resume the run."""
    return name in (STATE, PREPARED, START, CHECKPOINTS, AUGMENTED, TRAIN, FURTHER) or fnmatch(
        name, _MINED.format("*")
    )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(
        f"{path} must be readable to resume the run: {reason}. Start it again with `tunetrail train`."
    )
