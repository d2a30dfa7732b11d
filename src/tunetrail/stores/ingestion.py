"""Store rows in the database: checked, numbered and committed chunk by chunk.

Equal rows of one ingest are numbered by occurrence (first, second, ...). So ingesting a file twice
adds nothing, and yet a row that a file holds twice is stored twice.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from tunetrail.config import check_identifier
from tunetrail.errors import SampleError
from tunetrail.plain_values import plain_values
from tunetrail.samples import BrokenRow, LeftOut, Sample, SampleKind, parse_sample
from tunetrail.stores.connection import DatabaseConnection, json_text, storable
from tunetrail.stores.tables import Base, RejectedSampleRow, SampleRow, SessionRow, now

_Item = TypeVar("_Item")

Derive = Callable[[Mapping[str, Any]], Iterable[Sample | LeftOut]]
"""Turns a row into samples and left-out pieces; raises `SampleError` for a malformed row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestReport:
    """What became of the rows: received = added + already_present + rejected."""

    received: int = 0
    added: int = 0
    already_present: int = 0
    rejected: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return plain_values(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """A row that can't become a sample, or a left-out piece, with its source and the reason."""

    kind: SampleKind
    source: str
    row_number: int
    reason: str
    row: str

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of kind and row: equal for equal rows, wherever they come from."""
        # Without source and number: the same file under another name adds nothing.
        return hashlib.sha256(f"{self.kind}\n{self.row}".encode()).hexdigest()


def parsed_rows(
    rows: Iterable[Mapping[str, Any] | BrokenRow], kind: SampleKind, source: str
) -> Iterator[Sample | Rejection]:
    """Yield a sample or a rejection for each row, in order."""
    return derived_items(rows, lambda row: (parse_sample(row, kind),), kind, source)


def derived_items(
    rows: Iterable[Mapping[str, Any] | BrokenRow], derive: Derive, kind: SampleKind, source: str
) -> Iterator[Sample | Rejection]:
    """Yield what `derive` makes of each row, in order; a malformed row becomes one rejection."""
    for row_number, row in enumerate(rows, start=1):
        if isinstance(row, BrokenRow):
            yield _rejection(kind, source, row_number, row.reason, row.text)
            continue
        try:
            yield from _derive_items(row, derive, source, row_number)
        except SampleError as error:
            yield _rejection(kind, source, row_number, str(error), _row_text(row))
        # A row that is nested too deep or contains itself must not stop the ingest of the file.
        except (RecursionError, ValueError):
            reason = "row must be plain JSON, not too deep, got more."
            yield _rejection(kind, source, row_number, reason, _row_text(row))


def _derive_items(
    row: Mapping[str, Any], derive: Derive, source: str, row_number: int
) -> list[Sample | Rejection]:
    # All or nothing: a row that fails halfway has not stored its first samples.
    if not isinstance(row, Mapping):
        raise SampleError(f"row must be a mapping of columns to values, got {type(row).__name__}.")

    items: list[Sample | Rejection] = []
    for item in derive(row):
        if isinstance(item, Sample):
            _check_storable(item)
            items.append(item)
        else:
            text = _row_text(item.row)
            items.append(_rejection(item.kind, source, row_number, item.reason, text))
    return items


def _check_storable(sample: Sample) -> None:
    """Raise an error for a group or metadata that a database can't hold."""
    if sample.group is not None and storable(sample.group) != sample.group:
        raise SampleError("group must be valid Unicode without NUL characters.")
    # Only for the errors: the metadata are written when the sample is stored.
    if sample.metadata:
        json_text(sample.metadata)


def _rejection(kind: SampleKind, source: str, row_number: int, reason: str, row: str) -> Rejection:
    return Rejection(
        kind=kind,
        source=storable(source),
        row_number=row_number,
        reason=storable(reason),
        row=storable(row),
    )


def _row_text(row: Any) -> str:
    try:
        return json_text(row)
    except (RecursionError, ValueError):
        return f"a {type(row).__name__} that can't be written as JSON"


def store(
    database: DatabaseConnection,
    session_id: str,
    items: Iterable[Sample | Rejection],
    *,
    chunk_size: int,
    on_progress: Callable[[int], None] | None = None,
) -> IngestReport:
    """Store samples and rejections in one transaction per chunk, and return what became of them.

    `on_progress` is called after each chunk with the number of items so far.
    """
    check_identifier("session_id", session_id)
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}.")

    # Over all chunks, as a row and its repetition may be in different ones.
    seen: Counter[int] = Counter()
    report = IngestReport()
    for chunk in chunked(items, chunk_size):
        samples = [
            _sample_values(item, session_id, seen) for item in chunk if isinstance(item, Sample)
        ]
        rejected = [
            _rejection_values(item, session_id, seen)
            for item in chunk
            if isinstance(item, Rejection)
        ]

        # With each chunk instead of once: an ingest without rows leaves no empty session.
        session = {"session_id": session_id, "created_at": now()}
        with database.transaction() as connection:
            insert_missing(connection, SessionRow, [session])
            added = insert_missing(connection, SampleRow, samples)
            insert_missing(connection, RejectedSampleRow, rejected)

        report = IngestReport(
            received=report.received + len(chunk),
            added=report.added + added,
            already_present=report.already_present + len(samples) - added,
            rejected=report.rejected + len(rejected),
        )
        if on_progress is not None:
            on_progress(report.received)

    return report


def chunked(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Yield lists of up to `size` items."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def insert_missing(connection: Connection, table: type[Base], values: list[dict[str, Any]]) -> int:
    """Insert the rows whose unique key isn't there yet, and return how many were inserted."""
    if not values:
        return 0
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    # A conflict means that this row was stored before, or by another process just now.
    statement = insert(table).on_conflict_do_nothing()
    # SQLAlchemy otherwise doesn't keep the row count of an insert.
    options = {"preserve_rowcount": True}
    return connection.execute(statement, values, execution_options=options).rowcount


def _occurrence(seen: Counter[int], digest: str) -> int:
    # 64 bits instead of the whole digest, so that the numbers of a million rows fit into memory.
    # A collision only numbers a row differently.
    key = int(digest[:16], 16)
    seen[key] += 1
    return seen[key]


def _sample_values(sample: Sample, session_id: str, seen: Counter[int]) -> dict[str, Any]:
    digest = sample.digest
    return {
        "session_id": session_id,
        "kind": str(sample.kind),
        "shape": sample.shape,
        "content": dict(sample.content),
        "group_name": sample.group,
        "timestamp": sample.timestamp,
        "weight": sample.weight,
        "metadata": dict(sample.metadata),
        "digest": digest,
        "occurrence": _occurrence(seen, digest),
        "created_at": now(),
    }


def _rejection_values(rejection: Rejection, session_id: str, seen: Counter[int]) -> dict[str, Any]:
    digest = rejection.digest
    return {
        "session_id": session_id,
        "kind": str(rejection.kind),
        "source": rejection.source,
        "row_number": rejection.row_number,
        "reason": rejection.reason,
        "row": rejection.row,
        "digest": digest,
        "occurrence": _occurrence(seen, digest),
        "created_at": now(),
    }
