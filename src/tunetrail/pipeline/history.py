"""What a database knows of earlier trainings, for the stages of one run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunetrail.deployment.registry import ReadDigest, no_digest
from tunetrail.pipeline.benchmark import Benchmark
from tunetrail.pipeline.lineage import Lineage
from tunetrail.pipeline.looks import (
    CountLooks,
    ReadPromotionRows,
    no_looks,
    no_promotion_rows,
)
from tunetrail.stores.database.manager import DatabaseManager

ReadOwnColumns = Callable[[Sequence[int]], Mapping[int, Mapping[str, Any]]]
"""Takes row ids; returns, by row id, the columns that the user gave the rows and no shape knows."""


def no_own_columns(row_ids: Sequence[int]) -> Mapping[int, Mapping[str, Any]]:
    """Return nothing: rows that are in no database have no further columns."""
    return {}


@dataclass(frozen=True, kw_only=True)
class RunLedger:
    """The ledger, for the decisions on the candidates of one training run.

    Attributes:
        database: Holds the ledger.
        run_id: The training run.
        session_ids: The sessions that are learnt from.
    """

    database: DatabaseManager
    run_id: str
    session_ids: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class History:
    """What is known beyond the rows of a run; by default nothing, as without a database.

    Attributes:
        count_looks: Counts how often test rows were asked since root last moved; by default, every
            look is the first.
        lineage: Knows what registered versions have learnt from, so that test rows with twins
            among it are left out; None leaves none out.
        read_own_columns: Reads the columns of rows that no shape knows, by which the scores are
            divided.
        benchmark: Test rows of earlier sessions, on which the candidate is scored as well and
            which the test rows join; without it, nothing is known of forgetting.
        read_promotion_rows: Reads which test rows a version was promoted by; by default, root has
            no figure of its own.
        read_digest: Reads the digest of a version's files from the ledger; by default, the
            version's own tag tells it.
        ledger: Where the intent and the decision of a move of root are written down; without it,
            root moves without a record.
    """

    count_looks: CountLooks = no_looks
    lineage: Lineage | None = None
    read_own_columns: ReadOwnColumns = no_own_columns
    benchmark: Benchmark | None = None
    read_promotion_rows: ReadPromotionRows = no_promotion_rows
    read_digest: ReadDigest = no_digest
    ledger: RunLedger | None = None


NO_HISTORY = History()
