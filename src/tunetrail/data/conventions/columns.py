"""Columns by the user's own mapping, and the columns from which nothing is learnt."""

from collections.abc import Iterable, Mapping
from typing import Any

from tunetrail.data.conventions.convention import Row
from tunetrail.errors import SampleError, did_you_mean
from tunetrail.samples import BrokenRow, SourceRow

Mapped = Mapping[str, str]
"""The column of a file, by the name under which it is read."""

_SUGGESTED = {
    "timestamp": "created_at create_time created date datetime time updated_at created_utc",
    "group": "conversation_id session_id thread_id document_id doc_id user_id customer_id",
    "label": "category intent class topic target department tag",
    "score": "similarity similarity_score relatedness rating stars",
    "weight": "sample_weight importance",
}
# The column that an application may have meant, by a name that is usual for it.
_SUGGESTIONS = {name: target for target, names in _SUGGESTED.items() for name in names.split()}


def read_mapping(text: str) -> dict[str, str]:
    """Return the mapping of `anchor=question,positive=answer`: file's column by name.

    Raises:
        SampleError: The text isn't of this form, or names a column twice.
    """
    mapping: dict[str, str] = {}
    for pair in text.split(","):
        target, equals, source = map(str.strip, pair.partition("="))
        if not (target and equals and source):
            raise SampleError(
                f"--columns must be a list of NAME=COLUMN, got {pair!r}. "
                "Write it like anchor=question,positive=answer."
            )
        if target in mapping:
            raise SampleError(f"--columns must map {target} once, got it twice. Remove one.")
        mapping[target] = source
    return mapping


def check_targets(mapping: Mapped, known: Iterable[str], kind: str) -> None:
    """Raise `SampleError` for a target that no sample of the kind has."""
    names = sorted(known)
    for target in mapping:
        if target not in names:
            raise SampleError(
                f"--columns must map to a column of {kind} samples, got {target!r}."
                f"{did_you_mean(target, names)} `tunetrail ingest --help` lists them."
            )


def columns_of(rows: Iterable[SourceRow | BrokenRow]) -> set[str]:
    """Return the names of all columns of some rows."""
    columns: set[str] = set()
    for row in rows:
        if not isinstance(row, BrokenRow):
            columns.update(map(str, row))
    return columns


def check_sources(mapping: Mapped, columns: Iterable[str]) -> None:
    """Raise `SampleError` for a source that a file doesn't have, or a target that it has already.

    Args:
        mapping: The mapping.
        columns: The columns of the file's first rows.
    """
    present = sorted(set(columns))
    for target, source in mapping.items():
        if source not in present:
            raise SampleError(
                f"--columns must name columns of the file, got {source!r}."
                f"{did_you_mean(source, present)} The file has {', '.join(present)}."
            )
        # Read under another name itself, as in a swap, the column is free.
        if target in present and target not in mapping.values():
            raise SampleError(
                f"--columns must map to a column that the file lacks, got {target!r}, which it "
                f"has. Read the file's own {target!r} under another name as well."
            )


def renamed(row: Row, mapping: Mapped) -> dict[str, Any]:
    """Return a row with its columns under the names that a mapping gives them."""
    sources = set(mapping.values())
    result = {column: value for column, value in row.items() if column not in sources}
    result.update({target: row[source] for target, source in mapping.items() if source in row})
    return result


def suggestion(column: str, known: Iterable[str]) -> str:
    """Return ` (is it timestamp?)` for a usual name of a column that samples have, or nothing."""
    target = _SUGGESTIONS.get(column.strip().casefold())
    return f" (is it {target}?)" if target in set(known) else ""
