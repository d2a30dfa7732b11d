"""The benchmark: test rows of every session, on which later candidates are scored as well.

It grows with each session and is bounded: where there are more rows than allowed, every session
keeps an equal share, chosen by a hash of the rows' content.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, select

from tunetrail.plain_values import plain_values
from tunetrail.stores.database.connection import DatabaseConnection, json_text, lock_until_commit
from tunetrail.stores.database.ingestion import chunked
from tunetrail.stores.database.insertion import insert_missing
from tunetrail.stores.database.tables import BenchmarkRow, now

_ROWS_AT_ONCE = 500


@dataclass(frozen=True, kw_only=True)
class BenchmarkRecord:
    """A row of the benchmark.

    Attributes:
        session_id: The session that it was held out from.
        row_id: The id of its sample.
        shape: The shape of the sample.
        cluster: The rows of one cluster are no independent evidence.
        digest: A hash of its content: of equal rows, the first one stays.
        record: The row as it was scored.
    """

    session_id: str
    row_id: int
    shape: str
    cluster: str
    digest: str
    record: Mapping[str, Any]


def read_benchmark(
    database: DatabaseConnection, model_name: str, shape: str
) -> list[BenchmarkRecord]:
    """Return the benchmark's rows of a shape, oldest first."""
    row = BenchmarkRow
    columns = (row.session_id, row.row_id, row.shape, row.cluster, row.digest, row.record)
    statement = (
        select(*columns).where(row.model_name == model_name, row.shape == shape).order_by(row.id)
    )
    with database.reading() as connection:
        return [BenchmarkRecord(**line) for line in connection.execute(statement).mappings()]


def extend_benchmark(
    database: DatabaseConnection,
    model_name: str,
    records: Iterable[BenchmarkRecord],
    limit: int,
) -> None:
    """Add rows to a model's benchmark, except those that it has, and cut it to its size.

    Args:
        database: Holds the benchmark.
        model_name: The registered model.
        records: The rows.
        limit: Most rows of a shape.
    """
    rows = list(map(plain_values, records))
    for row in rows:
        row["record"] = json_text(row["record"])
    shapes = sorted({row["shape"] for row in rows})

    def extend(connection: Connection) -> None:
        # Two trainings that add the same rows in different orders would wait for each other.
        lock_until_commit(connection, f"benchmark of {model_name}")
        constant = {"model_name": model_name, "created_at": now()}
        for chunk in chunked(rows, _ROWS_AT_ONCE):
            insert_missing(connection, BenchmarkRow, chunk, **constant)
        for shape in shapes:
            _delete_surplus(connection, model_name, shape, limit)

    with database.connection() as connection:
        database.write(connection, extend)


def _delete_surplus(connection: Connection, model_name: str, shape: str, limit: int) -> None:
    """Delete the rows of a shape that a benchmark has too many of."""
    row = BenchmarkRow
    statement = select(row.id, row.session_id, row.digest)
    statement = statement.where(row.model_name == model_name, row.shape == shape)
    rows = [(line.id, line.session_id, line.digest) for line in connection.execute(statement)]
    for row_ids in chunked(surplus_rows(rows, limit), _ROWS_AT_ONCE):
        connection.execute(delete(row).where(row.id.in_(row_ids)))


def surplus_rows(rows: Sequence[tuple[int, str, str]], limit: int) -> list[int]:
    """Return the ids of the rows that a benchmark has too many of.

    Args:
        rows: The id, the session and the digest of each row.
        limit: Number of rows that stay at most.
    """
    quotas = session_quotas(Counter(session for _, session, _ in rows), limit)
    surplus = []
    # In the order of the digests, so that the choice neither depends on time nor on other rows.
    for row_id, session, _ in sorted(rows, key=lambda row: row[2]):
        if quotas[session]:
            quotas[session] -= 1
        else:
            surplus.append(row_id)
    return surplus


def session_quotas(sizes: Mapping[str, int], limit: int) -> dict[str, int]:
    """Return how many rows each session keeps: all, or an equal share of what the others leave.

    Args:
        sizes: Number of rows by session.
        limit: Number of rows that all sessions keep together, at most.
    """
    quotas = {}
    remaining = limit
    # The smallest first: what they don't need is for the larger ones.
    by_size = sorted(sizes, key=lambda session: (sizes[session], session))
    for position, session in enumerate(by_size):
        share = remaining // (len(by_size) - position)
        quotas[session] = min(sizes[session], share)
        remaining -= quotas[session]
    return quotas
