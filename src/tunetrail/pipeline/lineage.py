"""Lineage: which samples a registered version and the versions before it have learnt from."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import reduce

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.pipeline.session_rows import session_frames
from tunetrail.stores.database.manager import DatabaseManager

RowIds = npt.NDArray[np.int64]
"""Ids of samples in the database, ascending and distinct."""


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """Reads from the database what the versions of a family have learnt from, once per version.

    Attributes:
        database: Holds the ledger and the sessions.
        family: The family.
        prefix: Beginning of the names of registered models.
    """

    database: DatabaseManager
    family: ModelFamily
    prefix: str = ""
    _known_rows: dict[str, RowIds] = field(default_factory=dict, init=False, repr=False)

    def row_ids(self, versions: Iterable[str]) -> RowIds:
        """Return the samples that any of some versions has learnt from, as far as is known."""
        learnt = map(self._rows_of, versions)
        known = [row_ids for row_ids in learnt if row_ids is not None]
        return reduce(np.union1d, known, np.empty(0, dtype=np.int64))

    def unknown_versions(self, versions: Iterable[str]) -> list[str]:
        """Return the versions of which the ledger doesn't say what they have learnt from."""
        return [version for version in versions if self._rows_of(version) is None]

    def _rows_of(self, version: str) -> RowIds | None:
        row_ids = self._known_rows.get(version)
        if row_ids is None:
            row_ids = self.database.learnt_rows(f"{self.prefix}{self.family.name}", version)
        # What isn't known yet may be: another run moves root before it writes to the ledger.
        if row_ids is not None:
            self._known_rows[version] = row_ids
        return row_ids

    def rows_by_session(self, row_ids: RowIds) -> dict[str, RowIds]:
        """Return the samples by the session that they belong to, the oldest session first."""
        if not len(row_ids):
            return {}
        kind = self.family.kind
        by_session = {}
        for session_id in self.database.sessions_in_range(kind, int(row_ids[0]), int(row_ids[-1])):
            own_ids = np.array(self.database.sample_ids(session_id, kind), dtype=np.int64)
            own_rows = np.intersect1d(own_ids, row_ids)
            # Ids lie in its range, but they may all belong to other sessions.
            if len(own_rows):
                by_session[session_id] = own_rows
        return by_session

    def sessions(self, row_ids: RowIds) -> Iterator[Iterator[pd.DataFrame]]:
        """Yield for each session that has some of the samples the frames of all of its samples."""
        if not len(row_ids):
            return
        session_ids = self.database.sessions_in_range(
            self.family.kind, int(row_ids[0]), int(row_ids[-1])
        )
        for session_id in session_ids:
            yield session_frames(self.database, session_id, self.family)
