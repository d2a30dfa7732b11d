"""The files of a prepared session: every row goes to the file of its side, or is set aside."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.data import row_files
from tunetrail.data.checks.results import Flag
from tunetrail.data.checks.validation import flag_frame
from tunetrail.data.flow.chunk_steps import FLAGS_SCHEMA, MEASURED_COLUMNS, PreparedChunk
from tunetrail.data.flow.prepared import CHANGES, FLAGS, SET_ASIDE, side_file
from tunetrail.data.flow.removals import Removals
from tunetrail.data.rows import content_text, records_of, set_aside_frame, texts_of
from tunetrail.data.sides import SIDES, Sides
from tunetrail.paths import private_folder

_EXAMPLE_CHARACTERS = 300


class SessionWriter:
    """Writes the rows of a session, chunk by chunk.

    Attributes:
        examples: The beginnings of the texts of some rows, by row id.
    """

    def __init__(
        self, folder: Path, kind: str, shapes: Sequence[str], example_ids: Collection[int]
    ) -> None:
        """Open the files.

        Args:
            folder: The folder of the prepared session.
            kind: What the rows teach.
            shapes: Shapes of the rows.
            example_ids: Ids of the rows to collect `examples` of.
        """
        self.examples: dict[int, str] = {}
        self._example_ids = example_ids
        self._clusters: dict[str, set[str]] = {side: set() for side in SIDES}

        private_folder(folder / "rows")
        columns = [*row_files.columns_of_shapes(kind, shapes), "cluster", *MEASURED_COLUMNS]
        schema = row_files.schema_of(columns)
        self._sides = {side: row_files.RowWriter(side_file(folder, side), schema) for side in SIDES}
        self._set_aside = row_files.RowWriter(folder / SET_ASIDE, row_files.SET_ASIDE_SCHEMA)
        self._changes = row_files.RowWriter(folder / CHANGES, row_files.SET_ASIDE_SCHEMA)
        self._flags = row_files.RowWriter(folder / FLAGS, FLAGS_SCHEMA)

    @property
    def rows_by_side(self) -> dict[str, int]:
        """Number of rows written to each side."""
        return {side: writer.rows for side, writer in self._sides.items()}

    @property
    def clusters_by_side(self) -> dict[str, int]:
        """Number of clusters of twins on each side."""
        return {side: len(clusters) for side, clusters in self._clusters.items()}

    def write_chunks(
        self,
        chunks: Iterable[PreparedChunk],
        removals: Removals,
        sides: Sides | None,
        clusters: Sequence[str],
    ) -> None:
        """Write all rows; without sides, only rows set aside and changes are written.

        Args:
            chunks: All chunks of the session.
            removals: Why rows are removed, by position in the session.
            sides: The side of each row of the session.
            clusters: The cluster of each row of the session.
        """
        start = 0
        for chunk in chunks:
            rows = chunk.rows()
            end = start + len(rows)
            # Positions count through the session, indices through the chunk.
            removed = {}
            for index, position in enumerate(range(start, end)):
                removal = removals.at(position)
                if removal is not None:
                    removed[index] = removal

            self._write_removed(chunk, rows, removed)
            if sides is not None:
                clustered = rows.assign(cluster=clusters[start:end])
                self._write_sides(clustered, sides.sides[start:end])
            start = end

    def write_flags(self, flags: Iterable[Flag]) -> None:
        """Write what is odd in which row."""
        self._flags.write(flag_frame(flags))

    def close(self) -> None:
        """Finish all files."""
        for writer in (*self._sides.values(), self._set_aside, self._changes, self._flags):
            writer.close()

    def _write_removed(
        self, chunk: PreparedChunk, rows: pd.DataFrame, removed: Mapping[int, tuple[str, str]]
    ) -> None:
        """Write the rows that the chunk's steps set aside, the removed rows, and the changes."""
        set_aside, changes = chunk.set_aside(), chunk.changes()
        self._collect_examples(rows, set_aside)

        self._set_aside.write(set_aside)
        # A removed row is listed as it came in, not as cleaning left it.
        before = dict(zip(changes["row_id"], changes["before"], strict=True))
        for step in ("validation", "cleaning", "split"):
            reasons = {index: reason for index, (at, reason) in removed.items() if at == step}
            self._set_aside.write(_removed_frame(step, rows, reasons, before))

        # A row that was changed and then removed is listed with the removed rows only.
        removed_ids = set(rows["row_id"].to_numpy()[list(removed)].tolist())
        self._changes.write(changes[~changes["row_id"].isin(removed_ids)])

    def _write_sides(self, rows: pd.DataFrame, sides: npt.NDArray[np.str_]) -> None:
        for side, writer in self._sides.items():
            rows_of_side = rows[sides == side]
            writer.write(rows_of_side)
            self._clusters[side].update(rows_of_side["cluster"])

    def _collect_examples(self, rows: pd.DataFrame, set_aside: pd.DataFrame) -> None:
        # A row that its chunk set aside has no texts any more, only its content before.
        lines = set_aside[set_aside["row_id"].isin(self._example_ids)]
        for row_id, before in zip(lines["row_id"].tolist(), lines["before"], strict=True):
            self.examples[row_id] = (before or "")[:_EXAMPLE_CHARACTERS]

        for record in records_of(rows[rows["row_id"].isin(self._example_ids)]):
            text = " | ".join(texts_of(record))
            self.examples[int(record["row_id"])] = text[:_EXAMPLE_CHARACTERS]


def _removed_frame(
    step: str, rows: pd.DataFrame, reasons: Mapping[int, str], before: Mapping[int, str]
) -> pd.DataFrame:
    """Return the set-aside frame of rows that a step removes.

    Args:
        step: The step.
        rows: The rows of a chunk.
        reasons: Reasons of the removed rows, by their index in the chunk.
        before: Contents of changed rows before cleaning, by row id.
    """
    # Validation sees rows before cleaning, so its rows have no content after it.
    lines = []
    records = records_of(rows.iloc[list(reasons)])
    for record, reason in zip(records, reasons.values(), strict=True):
        content, row_id = content_text(record), int(record["row_id"])
        after = None if step == "validation" else content
        lines.append((row_id, reason, before.get(row_id, content), after))
    return set_aside_frame(step, lines)
