"""Lineage: which samples a registered version and the versions before it have learnt from."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.pipeline.families import ModelFamily
from tunetrail.pipeline.session_rows import session_frames
from tunetrail.stores.database import DatabaseManager

RowIds = npt.NDArray[np.int64]
"""Ids of samples in the database, ascending and distinct."""


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """Reads from the database what the versions of a family have learnt from."""

    database: DatabaseManager
    family: ModelFamily

    def row_ids(self, versions: list[str]) -> RowIds:
        """Return the samples that any of some versions has learnt from, as far as is known."""
        learnt = [self.database.learnt_rows(self.family.name, version) for version in versions]
        known = [row_ids for row_ids in learnt if row_ids is not None]
        return reduce(np.union1d, known, np.empty(0, dtype=np.int64))

    def sessions(self, row_ids: RowIds) -> Iterator[Iterator[pd.DataFrame]]:
        """Yield for each session that has some of the samples the frames of all of its samples."""
        if not len(row_ids):
            return
        session_ids = self.database.sessions_in_range(
            self.family.kind, int(row_ids[0]), int(row_ids[-1])
        )
        for session_id in session_ids:
            yield session_frames(self.database, session_id, self.family)
