"""Rows of additional shapes, which an embedding model is trained on as well but not judged by."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import pyarrow as pa

from tunetrail.config import FurtherLossesConfig, Settings
from tunetrail.data import row_files
from tunetrail.data.flow.prepared import PreparedSession
from tunetrail.data.rows import SESSION_COLUMN, object_series, rows_of_shapes
from tunetrail.data.twins.duplicates import cluster_keys
from tunetrail.errors import SampleError
from tunetrail.pipeline.kept_preparation import keep_report
from tunetrail.pipeline.preparing import prepare_sessions
from tunetrail.pipeline.session_rows import SessionRows
from tunetrail.pipeline.stage_context import StageContext


@dataclass(kw_only=True)
class AdditionalShapes:
    """The rows of the shapes of `embedding.also_train`.

    Attributes:
        context: The run.
        frames: The rows by shape and session, as they came.
    """

    context: StageContext
    frames: dict[str, dict[str, list[pd.DataFrame]]] = field(default_factory=dict)

    @property
    def losses(self) -> dict[str, str]:
        """The losses of the additional shapes by shape; empty for a family that has none."""
        settings = self.context.settings
        if not self.context.family.further_shapes(settings):
            return {}
        return settings.embedding.also_train.losses

    def collect(
        self, session_id: str, rows: pd.DataFrame | Iterable[pd.DataFrame]
    ) -> Iterator[pd.DataFrame]:
        """Yield all rows of a session, and remember the rows of the additional shapes."""
        # In passing, since the rows may be a stream that can be read only once.
        for frame in [rows] if isinstance(rows, pd.DataFrame) else rows:
            for shape in self.losses:
                rows_of_shape = rows_of_shapes(frame, [shape])
                if len(rows_of_shape):
                    of_sessions = self.frames.setdefault(shape, {})
                    of_sessions.setdefault(session_id, []).append(rows_of_shape)
            yield frame

    def prepare(self, held_out: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Any]]:
        """Return the train side of each additional shape, and what became of its rows by shape.

        The rows are prepared like the others. The report of each shape's preparation and the rows
        that it set aside go to the run's artifacts, in `data/SHAPE`.

        Args:
            held_out: Rows of the shape to score on; their twins are left out.

        Raises:
            SampleError: There are no rows of a shape, or they can't be trained on.
        """
        sides, reports = [], {}
        for shape in self.losses:
            session = self._prepare_shape(shape)
            # Each shape is split by itself: its train side may hold twins of other held-out rows.
            train = self._with_session(session.frame("train"), shape)
            learnt = without_twins(train, held_out, self._similarity)
            if learnt.empty:
                raise SampleError(
                    f"embedding.also_train.{shape} must be null if the session has no rows for it: "
                    f"all {len(train)} {shape} samples to learn from are near-duplicates of "
                    "validation or test rows. Leave it out."
                )

            twins = set(map(int, train["row_id"])) - set(map(int, learnt["row_id"]))
            sides.append(learnt)
            reports[shape] = {
                "validation": session.validation_dict(),
                "cleaning": session.cleaning_dict(),
                "split": session.split_dict(),
                "rows": len(learnt),
                "twins_of_held_out": sorted(twins),
            }

        return _stacked(sides), reports

    def _with_session(self, rows: pd.DataFrame, shape: str) -> pd.DataFrame:
        """Return the rows with their session, also if only one of several has the shape."""
        if len(self.context.sessions) == 1 or SESSION_COLUMN in rows:
            return rows
        (session_id,) = self.frames[shape]
        return rows.assign(**{SESSION_COLUMN: object_series([session_id] * len(rows))})

    def _prepare_shape(self, shape: str) -> PreparedSession:
        context = self.context
        if shape not in self.frames:
            raise SampleError(
                f"embedding.also_train.{shape} must be null if the session has no {shape} "
                f"samples, got {self.losses[shape]!r}. Leave it out, or log such samples."
            )

        settings = _settings_of_shape(context.settings, shape)
        sessions = {
            session_id: SessionRows(rows=frames)
            for session_id, frames in self.frames[shape].items()
        }
        folder, base = context.state.folder / shape, context.base.path
        session = prepare_sessions(context.family, settings, base, context.models, sessions, folder)

        title = f"{context.name}, {shape} samples"
        max_length = settings.embedding.max_length
        keep_report(context.run, session, context.model_type, title, max_length, f"data/{shape}")
        if session.stopped is not None:
            raise SampleError(f"{shape} samples of embedding.also_train: {session.stopped}")
        return session

    @property
    def _similarity(self) -> float:
        return self.context.settings.split.near_duplicate_similarity


def without_twins(rows: pd.DataFrame, held_out: pd.DataFrame, similarity: float) -> pd.DataFrame:
    """Return the rows that share no cluster of twins with a held-out row, whatever their shapes.

    Args:
        rows: To learn from.
        held_out: To be scored on.
        similarity: As for `cluster_keys`.
    """
    # Both frames at once: a row has its twin's cluster only if they are compared.
    clusters = cluster_keys(pd.concat([held_out, rows], ignore_index=True), similarity)
    held_out_clusters = set(clusters[: len(held_out)])
    is_twin = [cluster in held_out_clusters for cluster in clusters[len(held_out) :]]
    return rows[~pd.Series(is_twin, index=rows.index, dtype=bool)].reset_index(drop=True)


def _stacked(sides: list[pd.DataFrame]) -> pd.DataFrame:
    """Return rows of several shapes as one frame; pandas itself would make NaN of absent values."""
    columns = dict.fromkeys(column for side in sides for column in side.columns)
    schema = row_files.schema_of(list(columns))
    tables = [row_files.table_of(side, schema) for side in sides]
    return row_files.frame_of(pa.concat_tables(tables))


def _settings_of_shape(settings: Settings, shape: str) -> Settings:
    """Return settings under which a shape's rows are prepared as if they were the only ones."""
    # Loss and teacher were chosen for the main shape and may not fit this one.
    embedding = replace(
        settings.embedding, shape=shape, also_train=FurtherLossesConfig(), loss="auto", teacher=None
    )
    return replace(settings, embedding=embedding)
