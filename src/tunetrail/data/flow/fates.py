"""Fates: where each row of a session ends up, and the files that it is written to. Decides nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tunetrail.data import row_files
from tunetrail.data.flow.chunk_steps import PreparedChunk
from tunetrail.data.flow.prepared import CHANGES, SET_ASIDE, side_file
from tunetrail.data.rows import content_text, records_of, set_aside_frame, texts_of
from tunetrail.data.splits import SIDES, Sides

_ALSO_WRITTEN = ("cluster", "token_count", "characters", "language")
_EXAMPLE_CHARACTERS = 300


@dataclass(frozen=True, kw_only=True)
class Fates:
    """Why rows of a session go, by step and position: what its checks and its duplicates take out.

    Attributes:
        validation: Reasons of the checks.
        cleaning: Reasons of the duplicates.
        split: The reason why none of the other rows gets a side, if that is so.
    """

    validation: Mapping[int, str]
    cleaning: Mapping[int, str]
    split: str | None = None

    def step_of(self, position: int) -> tuple[str, str] | None:
        """Return the step that takes a row out and its reason, None for a row that stays."""
        if position in self.validation:
            return "validation", self.validation[position]
        if position in self.cleaning:
            return "cleaning", self.cleaning[position]
        return None if self.split is None else ("split", self.split)


class FateWriter:
    """Writes every row to the file of its side, or to that of the rows set aside, chunk by chunk."""

    def __init__(self, folder: Path, kind: str, shapes: Sequence[str]) -> None:
        columns = [*row_files.columns_of_shapes(kind, shapes), *_ALSO_WRITTEN]
        (folder / "rows").mkdir(exist_ok=True)
        self._sides = {
            side: row_files.RowWriter(side_file(folder, side), row_files.schema_of(columns))
            for side in SIDES
        }
        self._set_aside = row_files.RowWriter(folder / SET_ASIDE, row_files.SET_ASIDE_SCHEMA)
        self._changes = row_files.RowWriter(folder / CHANGES, row_files.SET_ASIDE_SCHEMA)
        self._clusters: dict[str, set[str]] = {side: set() for side in SIDES}

    @property
    def rows_by_side(self) -> dict[str, int]:
        """Number of rows written to each side."""
        return {side: writer.rows for side, writer in self._sides.items()}

    @property
    def clusters_by_side(self) -> dict[str, int]:
        """Number of clusters of twins on each side."""
        return {side: len(clusters) for side, clusters in self._clusters.items()}

    def write(
        self,
        chunks: Sequence[PreparedChunk],
        fates: Fates,
        sides: Sides | None,
        clusters: Sequence[str],
        wanted: set[int],
    ) -> dict[int, str]:
        """Write all chunks and return the texts of the wanted rows; where rows have no side, none is written."""
        examples: dict[int, str] = {}
        start = 0
        for chunk in chunks:
            rows, early, changes = chunk.rows(), chunk.set_aside(), chunk.changes()
            examples.update(_example_texts(rows, early, wanted))
            fate_of = {
                each: fate
                for each in range(len(rows))
                if (fate := fates.step_of(start + each)) is not None
            }
            self._set_aside.write(early)
            before = dict(zip(changes["row_id"], changes["before"], strict=True))
            for step in ("validation", "cleaning", "split"):
                going = [each for each, (of_step, _) in fate_of.items() if of_step == step]
                self._set_aside.write(_going(step, rows, going, fate_of, before))
            gone = set(rows["row_id"].to_numpy()[list(fate_of)].tolist())
            self._changes.write(changes[[row_id not in gone for row_id in changes["row_id"]]])
            if sides is not None:
                here = sides.sides[start : start + len(rows)]
                framed = rows.assign(cluster=clusters[start : start + len(rows)])
                for side, writer in self._sides.items():
                    writer.write(framed[here == side])
                    self._clusters[side].update(framed.loc[here == side, "cluster"])
            start += len(rows)
        for writer in (*self._sides.values(), self._set_aside, self._changes):
            writer.close()
        return examples


def _going(
    step: str,
    rows: pd.DataFrame,
    positions: Sequence[int],
    fate_of: Mapping[int, tuple[str, str]],
    before: Mapping[int, str],
) -> pd.DataFrame:
    lines = []
    for position, record in zip(positions, records_of(rows.iloc[list(positions)]), strict=True):
        content, row_id = content_text(record), int(record["row_id"])
        after = None if step == "validation" else content
        lines.append((row_id, fate_of[position][1], before.get(row_id, content), after))
    return set_aside_frame(step, lines)


def _example_texts(rows: pd.DataFrame, set_aside: pd.DataFrame, wanted: set[int]) -> dict[int, str]:
    found = {}
    for row_id, before in zip(set_aside["row_id"].tolist(), set_aside["before"], strict=True):
        if row_id in wanted:
            found[row_id] = before or ""
    for position in np.flatnonzero(rows["row_id"].isin(wanted)):
        record = {
            str(name): value
            for name, value in rows.loc[position].to_dict().items()
            if value is not None
        }
        found[int(record["row_id"])] = " | ".join(texts_of(record))
    return {row_id: text[:_EXAMPLE_CHARACTERS] for row_id, text in found.items()}
