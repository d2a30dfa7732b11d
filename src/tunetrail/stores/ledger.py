"""The ledger: the append-only record of every promotion decision. It has no way to change or delete a line."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select

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
        previous_version: The version that root pointed to, if any.
        metric: The metric that decided.
        before: Its value for the previous version.
        after: Its value for the candidate.
        improvement: The measured improvement.
        lower: Lower bound of the improvement's interval.
        upper: Upper bound of the improvement's interval.
        run_id: The training run.
        mlflow_run_id: The MLflow run.
        session_id: The session that was learnt from.
        record_id: The line's number, given by the database.
        created_at: When it was recorded, given by the database's client.
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
    record_id: int | None = None
    created_at: datetime | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return dataclasses.asdict(self) | {
            "created_at": None if self.created_at is None else self.created_at.isoformat()
        }


def append_promotion(database: DatabaseConnection, record: PromotionRecord) -> int:
    """Append a line and return its number; `record_id` and `created_at` of the record are ignored."""
    values = dataclasses.asdict(record) | {"created_at": now(), "reason": storable(record.reason)}
    del values["record_id"]
    with database.transaction() as connection:
        return connection.execute(
            insert(PromotionRow).values(values).returning(PromotionRow.id)
        ).scalar_one()


def read_promotions(
    database: DatabaseConnection, model_name: str | None = None
) -> list[PromotionRecord]:
    """Return the lines of one model or of all, the oldest first."""
    statement = select(PromotionRow.__table__).order_by(PromotionRow.id)
    if model_name is not None:
        statement = statement.where(PromotionRow.model_name == model_name)
    with database.transaction() as connection:
        rows = connection.execute(statement).mappings().all()
    return [_record(row) for row in rows]


def _record(row: Mapping[Any, Any]) -> PromotionRecord:
    values = dict(row)
    return PromotionRecord(record_id=values.pop("id"), **values)
