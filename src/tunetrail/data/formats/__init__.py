"""Turn files, folders, URLs and queries into rows: one module per format."""

from tunetrail.data.formats.reading import (
    Row,
    Source,
    check_rows,
    count_rows,
    peek_rows,
    position_unit,
    read_rows,
    reading_notes,
    shown_source,
)
from tunetrail.data.formats.sql_rows import DatabaseQuery

__all__ = [
    "DatabaseQuery",
    "Row",
    "Source",
    "check_rows",
    "count_rows",
    "peek_rows",
    "position_unit",
    "read_rows",
    "reading_notes",
    "shown_source",
]
