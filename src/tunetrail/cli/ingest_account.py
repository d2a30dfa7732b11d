"""Lines that `tunetrail ingest` prints: what rows were read as, and what nothing is learnt from."""

from collections.abc import Iterator

from tunetrail.collecting import Collection
from tunetrail.data.conventions.reading import IngestAccount
from tunetrail.data.conversations.rating_scales import RatingScale
from tunetrail.data.formats import position_unit
from tunetrail.reporting.readable import counted


def read_as_lines(account: IngestAccount, scale: RatingScale | None = None) -> Iterator[str]:
    """Yield a line for the scale of ratings, if there are any, and for each convention."""
    if scale is not None:
        yield f"numbers under rating are read as {scale}"
    for name, rows in account.read_as.most_common():
        yield f"read as {name}: {counted(rows, 'row')}"


def unlearnt_lines(account: IngestAccount, source: str) -> Iterator[str]:
    """Yield a line for each reason of rejection, then for each column that isn't used."""
    for rejections in account.rejections.values():
        rows = rejections.rows
        first = ", ".join(map(str, rejections.first_rows))
        more = ", …" if rows > len(rejections.first_rows) else ""
        place = rejections.source or source
        unit = position_unit(place) + ("s" if len(rejections.first_rows) > 1 else "")
        yield f"  {counted(rows, 'row')}: {rejections.reason} ({unit} {first}{more} of {place})"

    for column, rows in account.unused.most_common():
        suggestion = account.suggestions[column]
        yield f"kept, not learnt from: {column}{suggestion}, {counted(rows, 'row')}"
    if any(account.suggestions.values()):
        column, hint = next(pair for pair in account.suggestions.items() if pair[1])
        target = hint.removeprefix(" (is it ").removesuffix("?)")
        yield f"  To use it: --columns {target}={column}"


def collection_line(session_id: str, collection: Collection) -> str:
    """Return what became of the rows that an application has logged since the last time."""
    parts = [f"{counted(collection.added, 'sample')} added"]
    if collection.taken_back:
        parts.append(f"{collection.taken_back} taken back after later feedback")
    if collection.rejected:
        parts.append(f"{counted(collection.rejected, 'row')} rejected (kept with the reason)")
    if collection.unknown_feedback:
        parts.append(f"feedback on {counted(collection.unknown_feedback, 'unknown row')}")
    return f"logged by applications for session {session_id}: {', '.join(parts)}"


def first_reason(account: IngestAccount) -> str:
    """Return the commonest reason of rejection with its number of rows, for an error."""
    rejections = max(account.rejections.values(), key=lambda rejections: rejections.rows)
    return f"{counted(rejections.rows, 'row')}: {rejections.reason}"
