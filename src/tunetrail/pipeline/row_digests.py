"""Digests of a session's rows, by which a later run of the same session finds what has changed."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.data.rows import records_of
from tunetrail.errors import TrackingError
from tunetrail.fingerprints import value_fingerprint
from tunetrail.paths import private_file

ROW_DIGESTS = "data/session_rows.parquet"
"""The artifact of a run with the id and the digest of each row that it was given."""

# Hexadecimal digits of a row's digest: 64 bits, which two texts share by chance in 1 of 2^64.
_DIGITS = 16


@dataclass(frozen=True, kw_only=True)
class RowDigests:
    """The rows of a session.

    Attributes:
        row_ids: Ids of the rows, ascending, [rows].
        shapes: The shape of each row, [rows].
        digests: The digest of each row's content, group, time and weight, [rows].
    """

    row_ids: npt.NDArray[np.int64]
    shapes: npt.NDArray[np.str_]
    digests: npt.NDArray[np.uint64]

    @classmethod
    def read(cls, path: Path) -> "RowDigests":
        """Read the file that `write` made.

        Raises:
            TrackingError: It can't be read.
        """
        try:
            table = pd.read_parquet(path)
            return cls(
                row_ids=table["row_id"].to_numpy(np.int64),
                shapes=table["shape"].to_numpy(np.str_),
                digests=table["digest"].to_numpy(np.uint64),
            )
        except (OSError, ValueError, KeyError) as error:
            raise TrackingError(f"{ROW_DIGESTS} of the run can't be read: {error}") from error

    def write(self, path: Path) -> None:
        """Write the digests to a Parquet file, a line for each row."""
        columns = {"row_id": self.row_ids, "shape": self.shapes, "digest": self.digests}
        table = pd.DataFrame(columns)
        table.to_parquet(private_file(path), index=False)

    def changes_to(self, later: "RowDigests") -> "SampleChanges":
        """Return how the rows of a later moment differ.

        Rows of shapes that weren't there don't count: a session may have samples for others.
        """
        _, then, now = np.intersect1d(
            self.row_ids, later.row_ids, assume_unique=True, return_indices=True
        )
        differs = self.digests[then] != later.digests[now]
        of_known_shapes = later.row_ids[np.isin(later.shapes, np.unique(self.shapes))]
        return SampleChanges(
            added=np.setdiff1d(of_known_shapes, self.row_ids),
            removed=np.setdiff1d(self.row_ids, later.row_ids),
            changed=self.row_ids[then][differs],
        )


@dataclass(frozen=True, kw_only=True)
class SampleChanges:
    """How the rows of a session have changed.

    Attributes:
        added: Ids of rows that have come, ascending.
        removed: Ids of rows that are gone.
        changed: Ids of rows that say something else.
    """

    added: npt.NDArray[np.int64]
    removed: npt.NDArray[np.int64]
    changed: npt.NDArray[np.int64]

    @property
    def lost(self) -> int:
        """Number of rows that are no longer what they were: without them, no rerun is the same."""
        return len(self.removed) + len(self.changed)

    def to_dict(self) -> dict[str, list[int]]:
        """Return the ids as plain values."""
        return {
            "added": self.added.tolist(),
            "removed": self.removed.tolist(),
            "changed": self.changed.tolist(),
        }


@dataclass(kw_only=True)
class RowDigester:
    """Takes the digests of rows that pass by."""

    _row_ids: list[npt.NDArray[np.int64]] = field(default_factory=list, init=False)
    _shapes: list[str] = field(default_factory=list, init=False)
    _digests: list[int] = field(default_factory=list, init=False)

    def passing(self, frames: pd.DataFrame | Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        """Yield frames of rows as they are, after their digests are taken."""
        for frame in [frames] if isinstance(frames, pd.DataFrame) else frames:
            self._row_ids.append(frame["row_id"].to_numpy(np.int64))
            self._shapes += frame["shape"].tolist()
            # Without absent values: which columns a frame has depends on the rows next to it.
            contents = records_of(frame.drop(columns="row_id"))
            self._digests += [int(value_fingerprint(row)[:_DIGITS], 16) for row in contents]
            yield frame

    def result(self) -> RowDigests:
        """Return the digests of all rows that have passed."""
        row_ids = np.concatenate([np.empty(0, dtype=np.int64), *self._row_ids])
        order = np.argsort(row_ids, kind="stable")
        digests = np.array(self._digests, dtype=np.uint64)
        shapes = np.array(self._shapes, dtype=np.str_)
        return RowDigests(row_ids=row_ids[order], shapes=shapes[order], digests=digests[order])


def digest_rows(frames: pd.DataFrame | Iterable[pd.DataFrame]) -> RowDigests:
    """Return the digests of rows."""
    digester = RowDigester()
    for _ in digester.passing(frames):
        pass
    return digester.result()
