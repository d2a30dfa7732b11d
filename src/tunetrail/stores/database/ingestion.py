"""Store rows in the database: checked, numbered and committed chunk by chunk.

Equal rows of one ingest are numbered by occurrence (first, second, ...). So ingesting a file twice
adds nothing, and yet a row that a file holds twice is stored twice.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from types import NoneType
from typing import Any, TypeGuard, TypeVar

from sqlalchemy import Connection

from tunetrail.config import check_identifier
from tunetrail.data.conventions.reading import IngestAccount, RowReader
from tunetrail.errors import SampleError
from tunetrail.plain_values import NOT_PLAIN, plain_values, texts_as_json
from tunetrail.samples import BrokenRow, LeftOut, Sample, SampleKind, SourceRow
from tunetrail.stores.database.connection import (
    DatabaseConnection,
    is_storable,
    json_text,
    lock_until_commit,
    storable,
)
from tunetrail.stores.database.insertion import insert_missing, insert_missing_values
from tunetrail.stores.database.tables import RejectedSampleRow, SampleRow, SessionRow, now

_Item = TypeVar("_Item")
CHUNK_SIZE = 20_000
"""Rows per transaction. Each transaction writes most pages of the index of digests, in which rows
lie in no order: with 1,000 rows SQLite takes twice as long."""
# A chunk of long rows ends here: memory depends on the longest row, not on how many there are.
_MOST_CHARACTERS = 16_000_000
# The values of a row, except for the session and the time.
_SAMPLE_COLUMNS = (
    "kind",
    "shape",
    "content",
    "group_name",
    "timestamp",
    "weight",
    "metadata",
    "digest",
    "occurrence",
)
_REJECTED_COLUMNS = ("kind", "source", "row_number", "reason", "row", "digest", "occurrence")
_WITH_POSITION = (SourceRow, BrokenRow)
_SCALARS = frozenset((str, int, bool, NoneType))

Derive = Callable[[Mapping[str, Any]], Iterable[Sample | LeftOut]]
"""Turns a row into samples and left-out pieces; raises `SampleError` for a malformed row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestReport:
    """What became of the rows: received = added + already_present + rejected.

    Attributes:
        received: Number of samples and rejected rows; a row may become several samples.
        added: Number of samples that were stored.
        already_present: Number of samples that were there before.
        rejected: Number of rows, or pieces of them, that were stored with the reason.
        account: What the rows were read as, and from which columns nothing is learnt.
    """

    received: int = 0
    added: int = 0
    already_present: int = 0
    rejected: int = 0
    account: IngestAccount = field(default_factory=IngestAccount, compare=False, metadata=NOT_PLAIN)

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


class Occurrences:
    """Numbers the equal items of one ingestion, and tells afterwards which ones it had."""

    def __init__(self) -> None:
        # 64 bits instead of the whole digest, so that the numbers of a million rows fit into
        # memory. A collision only numbers a row differently.
        self._seen: dict[int, int] = {}

    def number(self, digest: str) -> int:
        """Return the number of this occurrence of an item, from 1."""
        key = int(digest[:16], 16)
        occurrence = self._seen.get(key, 0) + 1
        self._seen[key] = occurrence
        return occurrence

    def includes(self, digest: str, occurrence: int) -> bool:
        """Tell whether the ingestion had an item that often."""
        return occurrence <= self._seen.get(int(digest[:16], 16), 0)


def parsed_rows(
    rows: Iterable[Mapping[str, Any] | BrokenRow], reader: RowReader, source: str
) -> Iterator[Sample | Rejection]:
    """Yield the samples or the rejection of each row, then what several rows became together."""
    counted = reader.account.counted(rows)
    yield from derived_items(counted, reader.read, reader.kind, source)
    for row_number, item in reader.finish():
        try:
            yield _storable_item(item, source, row_number)
        except SampleError as error:
            text = _row_text(item.content if isinstance(item, Sample) else item.row)
            yield _rejection(reader.kind, source, row_number, str(error), text)


def accounted(
    items: Iterable[Sample | Rejection], account: IngestAccount
) -> Iterator[Sample | Rejection]:
    """Yield the items, and count the rejected ones by reason."""
    for item in items:
        if isinstance(item, Rejection):
            account.add_rejection(item.row_number, item.reason, item.source)
        yield item


def derived_items(
    rows: Iterable[Mapping[str, Any] | BrokenRow], derive: Derive, kind: SampleKind, source: str
) -> Iterator[Sample | Rejection]:
    """Yield what `derive` makes of each row, in order; a malformed row becomes one rejection."""
    whole_source = source
    for row_number, row in enumerate(rows, start=1):
        # A row of a file knows better than its number here where an editor shows it.
        if isinstance(row, _WITH_POSITION) and row.position is not None:
            source, row_number = row.source or whole_source, row.position
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
    # Its type first: asking an abstract class takes as long as parsing a column.
    if type(row) is not SourceRow and not isinstance(row, Mapping):
        raise SampleError(f"row must be a mapping of columns to values, got {type(row).__name__}.")

    items: list[Sample | Rejection] = []
    for item in derive(row):
        items.append(item if _is_plain(item) else _storable_item(item, source, row_number))
    return items


def _is_plain(item: Sample | LeftOut) -> TypeGuard[Sample]:
    """Tell whether an item is a sample with nothing to check but what parsing has checked."""
    return type(item) is Sample and item.group is None and not item.metadata


def _storable_item(item: Sample | LeftOut, source: str, row_number: int) -> Sample | Rejection:
    if isinstance(item, Sample):
        _check_storable(item)
        return item
    return _rejection(item.kind, source, row_number, item.reason, _row_text(item.row))


def _check_storable(sample: Sample) -> None:
    """Raise an error for a group or metadata that a database can't hold."""
    group = sample.group
    if group is not None and not is_storable(group):
        raise SampleError("group must be valid Unicode without NUL characters.")
    # Only for the errors: the metadata are written when the sample is stored.
    if sample.metadata and not _SCALARS.issuperset(map(type, sample.metadata.values())):
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
    logged: Occurrences | None = None,
) -> IngestReport:
    """Store samples and rejections in one transaction per chunk, and return what became of them.

    Args:
        database: The database.
        session_id: The session of the items.
        items: The items.
        chunk_size: Most items per transaction.
        on_progress: Called after each chunk with the number of items so far.
        logged: Numbers the items, whose samples are marked as logged; None for items of a file.
    """
    check_identifier("session_id", session_id)
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}.")

    # Over all chunks, as a row and its repetition may be in different ones.
    occurrences = Occurrences() if logged is None else logged
    chunks = _bounded_chunks(items, occurrences, chunk_size)
    is_logged = None if logged is None else True
    report = IngestReport()
    with database.connection() as connection, ThreadPoolExecutor(max_workers=1) as writer:

        def write(chunk: _Chunk) -> int:
            work = partial(_write_chunk, session_id=session_id, chunk=chunk, logged=is_logged)
            return database.write(connection, work)

        for chunk, added in _written_meanwhile(chunks, write, writer):
            samples = len(chunk.samples)
            rejected = len(chunk.rejected)
            report = IngestReport(
                received=report.received + samples + rejected,
                added=report.added + added,
                already_present=report.already_present + samples - added,
                rejected=report.rejected + rejected,
            )
            if on_progress is not None:
                on_progress(report.received)

    return report


@dataclass(kw_only=True, slots=True)
class _Chunk:
    """Rows of one transaction."""

    samples: list[tuple[Any, ...]] = field(default_factory=list)
    rejected: list[tuple[Any, ...]] = field(default_factory=list)


def _bounded_chunks(
    items: Iterable[Sample | Rejection], occurrences: Occurrences, most_items: int
) -> Iterator[_Chunk]:
    """Yield chunks that end at a number of items or, with long rows, at a number of characters."""
    chunk = _Chunk()
    count = length = 0
    for item in items:
        if isinstance(item, Sample):
            row, characters = _sample_row(item, occurrences)
            chunk.samples.append(row)
        else:
            row, characters = _rejected_row(item, occurrences)
            chunk.rejected.append(row)

        count += 1
        length += characters
        if count == most_items or length > _MOST_CHARACTERS:
            yield chunk
            chunk = _Chunk()
            count = length = 0

    if count:
        yield chunk


def _written_meanwhile(
    chunks: Iterable[_Chunk], write: Callable[[_Chunk], int], writer: ThreadPoolExecutor
) -> Iterator[tuple[_Chunk, int]]:
    """Yield each chunk with the number of its samples that were added, in order.

    A chunk is written while the next one is read and checked: within a statement, the driver of a
    database lets other threads run. At most two chunks are in memory.
    """
    writing: tuple[_Chunk, Future[int]] | None = None
    for chunk in chunks:
        if writing is not None:
            yield writing[0], writing[1].result()
        writing = chunk, writer.submit(write, chunk)

    if writing is not None:
        yield writing[0], writing[1].result()


def _write_chunk(
    connection: Connection, session_id: str, chunk: _Chunk, logged: bool | None
) -> int:
    """Insert the rows of a chunk that are missing, and return how many samples were added."""
    # Two transactions that insert equal rows in different orders would wait for each other: one
    # process at a time writes into a session. Sorted rows would do as well, but ids follow the
    # file's order, and so do the splits.
    lock_until_commit(connection, f"session {session_id}")

    created_at = now()
    # With each chunk instead of once: an ingest without rows leaves no empty session.
    session = {"session_id": session_id}
    insert_missing(connection, SessionRow, [session], created_at=created_at)

    constant = {"session_id": session_id, "created_at": created_at}
    added = insert_missing_values(
        connection, SampleRow, _SAMPLE_COLUMNS, chunk.samples, logged=logged, **constant
    )
    insert_missing_values(
        connection, RejectedSampleRow, _REJECTED_COLUMNS, chunk.rejected, **constant
    )
    return added


def chunked(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Yield lists of up to `size` items."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _sample_row(sample: Sample, occurrences: Occurrences) -> tuple[tuple[Any, ...], int]:
    """Return the values of `_SAMPLE_COLUMNS`, and the number of characters of the JSON in them."""
    content, digest = sample.written()
    content = content or json_text(sample.content)
    metadata = sample.metadata
    further = (texts_as_json(metadata) or json_text(metadata)) if metadata else "{}"

    row = (
        str(sample.kind),
        sample.shape,
        content,
        sample.group,
        sample.timestamp,
        sample.weight,
        further,
        digest,
        occurrences.number(digest),
    )
    return row, len(content) + len(further)


def _rejected_row(item: Rejection, occurrences: Occurrences) -> tuple[tuple[Any, ...], int]:
    """Return the values of `_REJECTED_COLUMNS`, and the number of characters of the row's text."""
    digest = item.digest
    row = (
        str(item.kind),
        item.source,
        item.row_number,
        item.reason,
        item.row,
        digest,
        occurrences.number(digest),
    )
    return row, len(item.row)
