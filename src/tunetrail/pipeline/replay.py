"""Replay: train rows of earlier sessions that a training learns again, so that it forgets nothing.

Only rows that root has learnt from are replayed: what it doesn't know can't be forgotten, and what
it has learnt was never held out. A replayed session is prepared again as a whole, so that its rows
are cleaned, and fall on the same sides as in its own training.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tunetrail.config import Settings
from tunetrail.data.flow.prepared import PreparedSession
from tunetrail.data.rows import (
    SESSION_COLUMN,
    object_series,
    rows_digest,
    rows_of_shapes,
    stacked_rows,
)
from tunetrail.errors import ConfigError, SampleError
from tunetrail.pipeline.additional_shapes import without_twins
from tunetrail.pipeline.lineage import Lineage, RowIds
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.pipeline.model_loader import ModelLoader
from tunetrail.pipeline.preparing import build_preparation
from tunetrail.pipeline.session_rows import session_frames
from tunetrail.reporting.readable import counted
from tunetrail.samples import shape_named
from tunetrail.stores.database.benchmark import session_quotas

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ReplayedRows:
    """Rows of earlier sessions to learn again.

    Attributes:
        rows: Prepared rows, with their session in `SESSION_COLUMN`.
        learnt: Number of train rows that could be drawn, by session.
        twins: Ids of rows that were drawn and left out: near-duplicates of held-out rows.
    """

    rows: pd.DataFrame
    learnt: Mapping[str, int]
    twins: tuple[int, ...] = ()

    @property
    def by_session(self) -> dict[str, pd.DataFrame]:
        """The rows of each session that has some."""
        sessions = self.rows[SESSION_COLUMN]
        frames = {session: self.rows[sessions == session] for session in self.learnt}
        return {session: frame for session, frame in frames.items() if len(frame)}

    @property
    def counts(self) -> dict[str, int]:
        """Number of rows of each session that has some."""
        return {session: len(rows) for session, rows in self.by_session.items()}

    @property
    def in_words(self) -> str:
        """Return, for example, `96 rows: s1 64, s2 32`."""
        counts = [f"{session} {count}" for session, count in self.counts.items()]
        return f"{counted(len(self.rows), 'row')}: {', '.join(counts)}"

    def to_dict(self) -> dict[str, Any]:
        """Return the counts and digests, JSON-serialisable."""
        sessions = {}
        for session, rows in self.by_session.items():
            sessions[session] = {
                "rows": len(rows),
                "learnt": self.learnt[session],
                "digest": rows_digest(rows),
            }
        return {"rows": len(self.rows), "sessions": sessions, "twins_of_held_out": list(self.twins)}


def earlier_sessions(
    settings: Settings, lineage: Lineage | None, root: str | None, own_sessions: Collection[str]
) -> dict[str, RowIds]:
    """Return what root has learnt from each earlier session.

    Args:
        settings: All that can be set; `replay` is above 0.
        lineage: Knows what root has learnt from; None without a database.
        root: The version that is root; None before the first promotion.
        own_sessions: The sessions that are trained on.

    Raises:
        ConfigError: There are none.
    """
    if lineage is None:
        reason = "no database says what it has learnt from"
    elif root is None:
        reason = f"there is no root of {lineage.family.name} yet"
    else:
        learnt = lineage.rows_by_session(lineage.row_ids([root]))
        earlier = {name: ids for name, ids in learnt.items() if name not in own_sessions}
        if earlier:
            return earlier
        known = ", ".join(learnt) or "no session that the ledger knows"
        reason = f"version {root} of {lineage.family.name} has learnt from {known}"

    raise ConfigError(
        f"replay must be 0 until root has learnt from an earlier session, got "
        f"{settings.replay:g}: {reason}. Leave it out this time."
    )


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Draws the rows that a training replays.

    Attributes:
        family: The family of the model.
        settings: All that can be set; `replay` is above 0.
        lineage: Knows what root has learnt from.
        sessions: What root has learnt from each earlier session.
        models: Loads the base model.
        base: Folder of the base model, whose tokenizer counts tokens; None if it isn't found.
    """

    family: ModelFamily
    settings: Settings
    lineage: Lineage
    sessions: Mapping[str, RowIds]
    models: ModelLoader
    base: str | None = None

    def draw(self, train: pd.DataFrame, held_out: pd.DataFrame, folder: Path) -> ReplayedRows:
        """Return the rows to replay, the same for the same seed and sessions.

        Near-duplicates of rows that any of the sessions holds out are left out.

        Args:
            train: The train side of the sessions that are trained on.
            held_out: Their validation and test sides.
            folder: Where the earlier sessions are prepared.

        Raises:
            SampleError: No earlier session has rows of the objective that is trained for.
        """
        objective = shape_named(train["shape"].iloc[0]).objective
        pools, held_out_sides = {}, [held_out]
        for session_id, row_ids in self._sessions_of(objective).items():
            session = self._prepare(session_id, objective, folder / session_id)
            session_train = session.frame("train")
            pools[session_id] = session_train[session_train["row_id"].isin(row_ids)]
            held_out_sides += [session.frame("validation"), session.frame("test")]

        learnt = {session_id: len(pool) for session_id, pool in pools.items()}
        # A share above 0 replays something, however small the session is.
        most = max(1, round(self.settings.replay * len(train)))
        quotas = session_quotas(learnt, most)
        drawn_frames = []
        for session_id, pool in pools.items():
            drawn = pool.sample(quotas[session_id], random_state=self.settings.seed)
            in_order = drawn.sort_values("row_id").reset_index(drop=True)
            names = object_series([session_id] * len(in_order))
            drawn_frames.append(in_order.assign(**{SESSION_COLUMN: names}))

        rows = stacked_rows(drawn_frames)
        similarity = self.settings.split.near_duplicate_similarity
        replayed = without_twins(rows, stacked_rows(held_out_sides), similarity)
        twins = sorted(set(rows["row_id"].tolist()) - set(replayed["row_id"].tolist()))
        return ReplayedRows(rows=replayed, learnt=learnt, twins=tuple(twins))

    def _sessions_of(self, objective: str) -> dict[str, RowIds]:
        """Return the earlier sessions with rows of an objective.

        Raises:
            SampleError: None has such rows.
        """
        sessions, unsuitable = {}, []
        for session_id, row_ids in self.sessions.items():
            if self._shapes(session_id, objective):
                sessions[session_id] = row_ids
            else:
                counts = self.lineage.database.count_shapes(session_id, self.family.kind)
                unsuitable.append(f"{session_id} ({', '.join(counts)})")

        if not sessions:
            raise SampleError(
                f"replay must be 0 if no earlier session has {objective} samples, got "
                f"{self.settings.replay:g} after {', '.join(unsuitable)}. Leave it out."
            )
        if unsuitable:
            logger.warning(
                "%s: sessions without %s samples aren't replayed: %s",
                self.family.name,
                objective,
                ", ".join(unsuitable),
            )
        return sessions

    def _shapes(self, session_id: str, objective: str) -> list[str]:
        """Return the shapes of an objective that a session has samples of."""
        shapes = self.lineage.database.count_shapes(session_id, self.family.kind)
        return [shape for shape in shapes if shape_named(shape).objective == objective]

    def _prepare(self, session_id: str, objective: str, folder: Path) -> PreparedSession:
        """Prepare an earlier session as its own training did; the chunks are in the cache."""
        family, settings = self.family, self.settings
        shapes = self._shapes(session_id, objective)
        stored_frames = session_frames(self.lineage.database, session_id, family)
        frames = (rows_of_shapes(frame, shapes) for frame in stored_frames)
        preparation = build_preparation(family, settings, self.base, self.models)

        # Without its warnings: they were given when the session was trained on.
        session = preparation.run(frames, folder)
        if session.stopped is not None:
            raise SampleError(f"session {session_id} can't be replayed: {session.stopped}")
        return session
