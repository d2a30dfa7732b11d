"""The benchmark of a family: test rows of earlier sessions, on which candidates are scored too."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from tunetrail.data.rows import SESSION_COLUMN, texts_of_rows
from tunetrail.fingerprints import value_fingerprint
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.stores.database.manager import BenchmarkRecord, DatabaseManager


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Reads and extends the benchmark of a family for the training of a session.

    Attributes:
        database: Holds the benchmark.
        family: The family.
        session_ids: The sessions that are trained on: their rows are compared as test rows.
        prefix: Beginning of the names of registered models, each with a benchmark of its own.
        row_ids: The rows that are read, of a run that is repeated; None for all.
    """

    database: DatabaseManager
    family: ModelFamily
    session_ids: Sequence[str]
    prefix: str = ""
    row_ids: Collection[int] | None = None

    @property
    def _model_name(self) -> str:
        return f"{self.prefix}{self.family.name}"

    def rows(self, shape: str) -> tuple[pd.DataFrame, dict[int, str]]:
        """Return the rows of the other sessions that have a shape, and the session of each row."""
        records = [
            record
            for record in self.database.read_benchmark(self._model_name, shape)
            if record.session_id not in self.session_ids
            and (self.row_ids is None or record.row_id in self.row_ids)
        ]
        session_of_row = {record.row_id: record.session_id for record in records}

        # As in any frame of rows: absent values are None, which only this type keeps.
        rows = pd.DataFrame([record.record for record in records], dtype=object)
        if records:
            rows["row_id"] = rows["row_id"].astype("int64")
        return rows.where(rows.notna(), None), session_of_row

    def extend(self, test: pd.DataFrame, limit: int) -> None:
        """Add the rows of a test side."""
        self.database.extend_benchmark(self._model_name, self._records(test), limit)

    def _records(self, test: pd.DataFrame) -> Iterator[BenchmarkRecord]:
        # JSON knows no other absent value than None.
        plain_rows = test.astype(object).where(test.notna(), None)
        for record, texts in zip(plain_rows.to_dict("records"), texts_of_rows(test), strict=True):
            row_id = int(record["row_id"])
            yield BenchmarkRecord(
                session_id=record.pop(SESSION_COLUMN, self.session_ids[0]),
                row_id=row_id,
                shape=record["shape"],
                cluster=str(record["cluster"]),
                digest=value_fingerprint(texts),
                record=record,
            )
