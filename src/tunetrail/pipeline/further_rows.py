"""Rows of further shapes that an embedding model is trained on beside those that it's judged by."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from tunetrail.config import FurtherLossesConfig, Settings
from tunetrail.data import row_files
from tunetrail.data.rows import rows_of_shapes
from tunetrail.data.twins.duplicates import cluster_keys
from tunetrail.errors import SampleError
from tunetrail.learning.models.catalog import ResolvedModel
from tunetrail.pipeline.families import EMBEDDING
from tunetrail.pipeline.preparing import build_preparation, keep_report, prepare_rows
from tunetrail.stores.tracking import TrackedRun


@dataclass(kw_only=True)
class FurtherRows:
    """The rows of the shapes of `embedding.also_train`.

    Attributes:
        settings: All that can be set.
        name: Of the session.
        frames: The rows by shape, as they came.
    """

    settings: Settings
    name: str
    frames: dict[str, list[pd.DataFrame]] = field(default_factory=dict)

    def noting(self, rows: pd.DataFrame | Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        """Yield all rows, and keep those of the further shapes."""
        for frame in [rows] if isinstance(rows, pd.DataFrame) else rows:
            for shape in self.settings.embedding.also_train.losses:
                found = rows_of_shapes(frame, [shape])
                if len(found):
                    self.frames.setdefault(shape, []).append(found)
            yield frame

    def prepared(
        self, run: TrackedRun, folder: Path, base: ResolvedModel, held_out: pd.DataFrame
    ) -> tuple[pd.DataFrame, dict[str, Any]]:
        """Return the train side of each further shape, prepared like the other rows, and what became of them by shape.

        The report of each shape's preparation and the rows that it set aside are kept in the run, in `data/SHAPE`.

        Args:
            run: Keeps the reports.
            folder: A folder is made in it for each shape, with all that preparation writes.
            base: The model whose tokenizer and vectors are used.
            held_out: Rows of the shape to score on; their twins are left out.

        Raises:
            SampleError: There are no rows of a shape, or they can't be trained on.
        """
        sides, accounts = [], {}
        for shape in self.settings.embedding.also_train.losses:
            if shape not in self.frames:
                raise SampleError(
                    f"embedding.also_train.{shape} must be null where the session has no {shape} samples, got "
                    f"{self.settings.embedding.also_train.losses[shape]!r}. Leave it out, or log samples of it."
                )
            settings = _settings_of(self.settings, shape)
            preparation = build_preparation(EMBEDDING, settings, base.path)
            session = prepare_rows(
                EMBEDDING, settings, preparation, self.frames[shape], folder / shape
            )
            title, folder_of_shape = f"{self.name}, {shape} samples", f"data/{shape}"
            keep_report(
                run, session, EMBEDDING.name, title, settings.embedding.max_length, folder_of_shape
            )
            if session.stopped is not None:
                raise SampleError(f"{shape} samples of embedding.also_train: {session.stopped}")
            train = session.frame("train")
            learnt = without_twins(train, held_out, settings.split.near_duplicate_similarity)
            if learnt.empty:
                raise SampleError(
                    f"embedding.also_train.{shape} must be null where the session has no rows for it: all {len(train)} "
                    f"{shape} samples to learn from are twins of rows that are held out to score on. Leave it out."
                )
            sides.append(learnt)
            accounts[shape] = {
                "validation": session.validation_dict(),
                "cleaning": session.cleaning_dict(),
                "split": session.split_dict(),
                "rows": len(learnt),
                "twins_of_held_out": sorted(
                    set(map(int, train["row_id"])) - set(map(int, learnt["row_id"]))
                ),
            }
        schema = row_files.schema_of(
            list(dict.fromkeys(column for side in sides for column in side.columns))
        )
        tables = [
            row_files.table_of(side, schema) for side in sides
        ]  # pandas would make NaN of what a shape lacks
        return row_files.frame_of(pa.concat_tables(tables)), accounts


def without_twins(rows: pd.DataFrame, held_out: pd.DataFrame, similarity: float) -> pd.DataFrame:
    """Return the rows that share no cluster of twins with a held-out row, whatever the shapes of the two.

    Args:
        rows: To learn from.
        held_out: To be scored on.
        similarity: As for `cluster_keys`.
    """
    keys = cluster_keys(pd.concat([held_out, rows], ignore_index=True), similarity)
    held, own = set(keys[: len(held_out)]), keys[len(held_out) :]
    return rows[[key not in held for key in own]].reset_index(drop=True)


def _settings_of(settings: Settings, shape: str) -> Settings:
    embedding = replace(
        settings.embedding, shape=shape, also_train=FurtherLossesConfig(), loss="auto", teacher=None
    )
    return replace(settings, embedding=embedding)
