"""Convert values to the types of their columns, whatever format they were written in.

CSV has text only, Parquet has decimals, and people write numbers in quotes: a column means the same
in each of them.
"""

import json
from decimal import Decimal
from typing import Any

from tunetrail.samples.shapes import ColumnType, column_type, holds_turns

_NUMBERS = (ColumnType.NUMBER, ColumnType.WEIGHT)
_CONVERTED = (str, Decimal)


def is_converted(column: str) -> bool:
    """Tell whether a column holds something other than text that may be written as text."""
    kind = column_type(column)
    return kind in _NUMBERS or kind is ColumnType.VECTOR or holds_turns(column)


def typed_value(value: Any, column: str) -> Any:
    """Return a value in the type of its column, or as it is if it can't be converted."""
    if not isinstance(value, _CONVERTED):
        return value
    try:
        if column_type(column) in _NUMBERS:
            return float(value)
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError, OverflowError):
        return value
