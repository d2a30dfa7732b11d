"""The ledger: the append-only record of every promotion decision."""

import dataclasses
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import insert, select

from tunetrail.errors import DatabaseError
from tunetrail.plain_values import NOT_PLAIN, plain_values
from tunetrail.stores.connection import DatabaseConnection, storable
from tunetrail.stores.tables import PromotionRow, now


@dataclass(frozen=True, kw_only=True, slots=True)
class PromotionRecord:
    """One decision about one model version, refused ones included.

    Attributes:
        model_name: The registered model.
        version: The candidate's version.
        decision: What was decided, such as `promoted` or `refused`.
        reason: Why, in a sentence.
        previous_version: The version that `root` pointed to, None if there was none.
        metric: The metric that decided.
        before: Its value for the previous version.
        after: Its value for the candidate.
        improvement: The measured improvement.
        lower: Lower bound of the improvement's interval.
        upper: Upper bound of the improvement's interval.
        run_id: The training run.
        mlflow_run_id: The MLflow run.
        session_id: The session whose samples were trained on.
        test_rows: Sketch of the test rows that decided, see `tunetrail.evaluation.looks`; None if
            unknown.
        learnt_rows: The ids of the samples that the version has learnt from, its ancestors
            included, see `pack_row_ids`; None if unknown, and when lines are read: they may be
            large, and `read_learnt_rows` returns them.
        digest: Digest of the version's files; None before digests were kept.
        record_id: The number of the line; set when it is read.
        created_at: The time of the decision; set when it is read.
    """

    model_name: str
    version: str
    decision: str
    reason: str
    previous_version: str | None = None
    metric: str | None = None
    before: float | None = None
    after: float | None = None
    improvement: float | None = None
    lower: float | None = None
    upper: float | None = None
    run_id: str | None = None
    mlflow_run_id: str | None = None
    session_id: str | None = None
    test_rows: Sequence[str] | None = field(default=None, metadata=NOT_PLAIN)
    learnt_rows: bytes | None = field(default=None, metadata=NOT_PLAIN)
    digest: str | None = None
    record_id: int | None = None
    created_at: datetime | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, without the sketch of the test rows."""
        return plain_values(self)


def append_promotion(database: DatabaseConnection, record: PromotionRecord) -> int:
    """Append a line and return its number; the record's own number and time are ignored."""
    values = dataclasses.asdict(record) | {"created_at": now(), "reason": storable(record.reason)}
    # The database numbers the lines, so that their ids are in the order of the decisions.
    del values["record_id"]

    statement = insert(PromotionRow).values(values).returning(PromotionRow.id)
    with database.transaction() as connection:
        return connection.execute(statement).scalar_one()


def read_promotions(
    database: DatabaseConnection, model_name: str | None = None
) -> list[PromotionRecord]:
    """Return the ledger of one model or of all models, oldest decision first."""
    columns = [column for column in PromotionRow.__table__.columns if column.key != "learnt_rows"]
    statement = select(*columns).order_by(PromotionRow.id)
    if model_name is not None:
        statement = statement.where(PromotionRow.model_name == model_name)

    with database.reading() as connection:
        rows = [dict(row) for row in connection.execute(statement).mappings()]
    return [PromotionRecord(record_id=row.pop("id"), **row) for row in rows]


def read_learnt_rows(
    database: DatabaseConnection, model_name: str, version: str
) -> npt.NDArray[np.int64] | None:
    """Return the ids of the samples that a version has learnt from, ascending; None if unknown."""
    row = PromotionRow
    statement = (
        select(row.learnt_rows)
        .where(row.model_name == model_name, row.version == version, row.learnt_rows.is_not(None))
        .order_by(row.id.desc())
        .limit(1)
    )
    with database.reading() as connection:
        packed = connection.scalar(statement)
    if packed is None:
        return None

    try:
        return unpack_row_ids(packed)
    except (zlib.error, ValueError) as error:
        raise DatabaseError(
            f"learnt_rows of {model_name} version {version} can't be read: {error}. "
            "Restore the database from a backup."
        ) from error


def pack_row_ids(row_ids: npt.ArrayLike) -> bytes:
    """Return row ids as a few bits each: the compressed gaps between them."""
    distinct = np.unique(np.asarray(row_ids, dtype=np.int64))
    # Samples of a session mostly have neighbouring ids, so most gaps are 1 to 3.
    gaps = np.diff(distinct, prepend=0)
    return zlib.compress(gaps.astype("<i8").tobytes())


def unpack_row_ids(packed: bytes) -> npt.NDArray[np.int64]:
    """Return what `pack_row_ids` packed, ascending and distinct."""
    gaps = np.frombuffer(zlib.decompress(packed), dtype="<i8")
    return np.cumsum(gaps, dtype=np.int64)
