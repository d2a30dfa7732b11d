"""The vocabulary of samples: kinds, shapes, and the check that turns a row into a sample.

Knows nothing of files or databases.
"""

from tunetrail.samples.parsing import (
    BrokenRow,
    LeftOut,
    Sample,
    SourceRow,
    find_shape,
    parse_sample,
)
from tunetrail.samples.shapes import (
    COMMON_COLUMNS,
    GROUP_COLUMN,
    TIMESTAMP_COLUMN,
    TOOLS_COLUMN,
    WEIGHT_COLUMN,
    ColumnType,
    SampleKind,
    SampleShape,
    all_shapes,
    column_type,
    holds_turns,
    is_document,
    is_sample_kind,
    register_shape,
    sample_kinds,
    shape_named,
    shapes_of_kind,
)
from tunetrail.samples.timestamps import checked_timestamp
from tunetrail.samples.typing import is_converted, typed_value

__all__ = [
    "COMMON_COLUMNS",
    "GROUP_COLUMN",
    "TIMESTAMP_COLUMN",
    "TOOLS_COLUMN",
    "WEIGHT_COLUMN",
    "BrokenRow",
    "ColumnType",
    "LeftOut",
    "Sample",
    "SampleKind",
    "SampleShape",
    "SourceRow",
    "all_shapes",
    "checked_timestamp",
    "column_type",
    "find_shape",
    "holds_turns",
    "is_converted",
    "is_document",
    "is_sample_kind",
    "parse_sample",
    "register_shape",
    "sample_kinds",
    "shape_named",
    "shapes_of_kind",
    "typed_value",
]
