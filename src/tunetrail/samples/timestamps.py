"""Timestamps of samples: many ways to write a moment become ISO 8601 in UTC."""

import numbers
import re
from datetime import UTC, date, datetime, time
from typing import Any

from tunetrail.errors import SampleError
from tunetrail.samples.shapes import TIMESTAMP_COLUMN
from tunetrail.samples.values import shortened

_AS_RETURNED = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\+00:00")
# Seconds or milliseconds. Other lengths are left to ISO 8601: 20261124 is a date.
_UNIX_TEXT = re.compile(r"[0-9]{9,10}(\.[0-9]{1,9})?|[0-9]{12,13}")
_DAY_FIRST = re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4})(?:,? +(\d{1,2}:\d{2}(?::\d{2})?))?")
# Dates with dots begin with the day, and those with slashes here with the year. 03/04/2026 is left
# out: it is in March for some and in April for others.
_YEAR_FIRST = re.compile(r"(\d{4})/(\d{1,2})/(\d{1,2})(?: +(\d{1,2}:\d{2}(?::\d{2})?))?")
# As seconds, this would be the year 5138.
_LEAST_MILLISECONDS = 1e11


def checked_timestamp(value: Any, column: str = TIMESTAMP_COLUMN) -> str:
    """Return a moment as ISO 8601 in UTC, such as `2026-11-24T12:00:00+00:00`.

    These texts sort in the order of their moments.

    Args:
        value: ISO 8601, `24.11.2026 12:00` or `2026/11/24 12:00` (UTC if it names no zone), a date
            or datetime, or Unix seconds, or milliseconds if above 1e11. Text of 9 or 10 digits
            counts as seconds, of 12 or 13 as milliseconds.
        column: The name of the value in the error message.

    Raises:
        SampleError: The value is none of these, or outside the years 1 to 9999.
    """
    # ValueError: not a time at all. OverflowError and OSError: outside the years of datetime.
    try:
        # Many logs write what is returned: reading it shows that there is such a moment.
        if type(value) is str and _AS_RETURNED.fullmatch(value):
            datetime.fromisoformat(value)
            return value
        moment = _moment(value)
        return (moment if moment.tzinfo is UTC else moment.astimezone(UTC)).isoformat()
    except (ValueError, OverflowError, OSError) as error:
        raise SampleError(
            f"{column} must be ISO 8601, Unix seconds or milliseconds, got {shortened(value)}. "
            "Write it like 2026-11-24T12:00:00+00:00, or leave it out."
        ) from error


def _read_date(text: str) -> datetime:
    """Return the moment of a text; raises `ValueError` if it is none."""
    try:
        return datetime.fromisoformat(text)
    # Only now: nearly all timestamps are ISO 8601, and there may be millions of them.
    except ValueError:
        if match := _DAY_FIRST.fullmatch(text):
            day, month, year, clock = match.groups()
        elif match := _YEAR_FIRST.fullmatch(text):
            year, month, day, clock = match.groups()
        else:
            raise

    midnight = datetime(int(year), int(month), int(day))
    if clock is None:
        return midnight
    hour, minute, second = map(int, [*clock.split(":"), "0"][:3])
    return midnight.replace(hour=hour, minute=minute, second=second)


def is_timestamp(value: Any) -> bool:
    """Tell whether a value is a moment as stored samples have it: text in ISO 8601."""
    try:
        return isinstance(value, str) and datetime.fromisoformat(value) is not None
    except ValueError:
        return False


def _moment(value: Any) -> datetime:
    """Return the moment that a text, a number or a date stands for, in UTC if it names no zone."""
    if isinstance(value, str):
        text = value.strip()
        value = float(text) if _UNIX_TEXT.fullmatch(text) else _read_date(text)

    if isinstance(value, datetime):
        # Subclasses with nanoseconds (pandas) become plain datetimes.
        is_plain = type(value) is datetime
        moment = value if is_plain else datetime.combine(value.date(), value.timetz())
        # A time without a zone is read as UTC: logs of servers usually are.
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    # A date without a time is its midnight.
    if isinstance(value, date):
        return datetime.combine(value, time(), UTC)

    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError("no moment")
    # Whatever would be thousands of years away in seconds was meant in milliseconds.
    seconds = float(value)
    if abs(seconds) > _LEAST_MILLISECONDS:
        seconds /= 1000
    return datetime.fromtimestamp(seconds, UTC)
