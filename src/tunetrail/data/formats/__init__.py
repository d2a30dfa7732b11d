"""Turn files, folders, URLs and queries into rows: one module per format."""

from tunetrail.data.formats.file_format import FileFormat, Row
from tunetrail.data.formats.files import SourceFile, opened
from tunetrail.data.formats.lines import text_lines
from tunetrail.data.formats.reading import (
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
    "FileFormat",
    "Row",
    "Source",
    "SourceFile",
    "check_rows",
    "count_rows",
    "opened",
    "peek_rows",
    "position_unit",
    "read_rows",
    "reading_notes",
    "shown_source",
    "text_lines",
]
