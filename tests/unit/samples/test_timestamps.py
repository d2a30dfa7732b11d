import math
import warnings
from datetime import UTC, date, datetime, timedelta, timezone

import numpy
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunetrail.errors import SampleError
from tunetrail.samples import (
    SampleKind,
    checked_timestamp,
    parse_sample,
)

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
VALUES = {"score": 0.5, "embedding": [1.0, 2.0], "messages": CHAT}
EMBEDDING, LLM = SampleKind.EMBEDDING, SampleKind.LLM


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-11-24T12:00:00Z", "2026-11-24T12:00:00+00:00"),
        ("2026-11-24T13:30:00+01:30", "2026-11-24T12:00:00+00:00"),
        (" 2026-11-24 12:00:00.25 ", "2026-11-24T12:00:00.250000+00:00"),
        ("2026-11-24", "2026-11-24T00:00:00+00:00"),
        ("20261124", "2026-11-24T00:00:00+00:00"),
        ("24.11.2026", "2026-11-24T00:00:00+00:00"),
        ("1.3.2026 9:05", "2026-03-01T09:05:00+00:00"),
        ("01.03.2026, 13:05:59", "2026-03-01T13:05:59+00:00"),
        ("2026/11/24 12:00", "2026-11-24T12:00:00+00:00"),
        (1_764_000_000, "2025-11-24T16:00:00+00:00"),
        (1_764_000_000.5, "2025-11-24T16:00:00.500000+00:00"),
        (1_764_000_000_500, "2025-11-24T16:00:00.500000+00:00"),
        ("1764000000", "2025-11-24T16:00:00+00:00"),
        ("1764000000.5", "2025-11-24T16:00:00.500000+00:00"),
        ("1764000000500", "2025-11-24T16:00:00.500000+00:00"),
        (numpy.int64(1_764_000_000), "2025-11-24T16:00:00+00:00"),
        (-1, "1969-12-31T23:59:59+00:00"),
        (date(2026, 11, 24), "2026-11-24T00:00:00+00:00"),
        (datetime(2026, 11, 24, 12), "2026-11-24T12:00:00+00:00"),
        (
            datetime(2026, 11, 24, 12, tzinfo=timezone(timedelta(hours=2))),
            "2026-11-24T10:00:00+00:00",
        ),
        (pandas.Timestamp("2026-11-24T12:00:00.123456789Z"), "2026-11-24T12:00:00.123456+00:00"),
    ],
)
def test_parse_sample_brings_timestamps_to_utc(value, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # pandas warns that nanoseconds are dropped
        sample = parse_sample({"text": "a", "timestamp": value}, LLM)
    assert (sample.timestamp, sample.metadata) == (expected, {})


@pytest.mark.parametrize("value", ["31.02.2026", "03/04/2026", "1.3.26", "24.11.2026 25:00"])
def test_parse_sample_refuses_a_date_that_is_none_or_two(value):
    with pytest.raises(SampleError, match=r"^timestamp must be ISO 8601, .* got "):
        parse_sample({"text": "a", "timestamp": value}, LLM)


@pytest.mark.parametrize("value", [None, math.nan, pandas.NaT])
def test_parse_sample_takes_an_absent_timestamp(value):
    assert parse_sample({"text": "a", "timestamp": value}, LLM).timestamp is None


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            "yesterday",
            "2026-13-01",
            "20261124120000",
            "9" * 10_000,
            "2026-11-24\x00",
            "\ud800",
        ),
        *(
            True,
            math.inf,
            10**400,
            1e15,
            -1e15,
            [],
            {},
            "0001-01-01T00:00:00+14:00",
            "9999-12-31T23:59:59-01:00",
        ),
    ],
)
def test_parse_sample_refuses_what_is_no_moment(value):
    message = (
        r"timestamp must be ISO 8601, Unix seconds or milliseconds, got .*\. Write it like 2026-11"
    )
    with pytest.raises(SampleError, match=message):
        parse_sample({"text": "a", "timestamp": value}, LLM)


@pytest.mark.parametrize(
    "column", ["time", "timestep", "created_timestamp", "timestamp_ms", "created_at", "x" * 10**6]
)
def test_parse_sample_keeps_columns_that_only_resemble_timestamp(column):
    assert parse_sample({"text": "a", column: 1}, LLM).metadata == {column: 1}


MOMENTS = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=st.timezones())


@given(MOMENTS, MOMENTS)
def test_checked_timestamp_sorts_as_time_does(first, second):
    texts = [checked_timestamp(first.isoformat()), checked_timestamp(second)]
    assert (texts[0] < texts[1]) == (first.astimezone(UTC) < second.astimezone(UTC))
    assert [checked_timestamp(text) for text in texts] == texts
    assert datetime.fromisoformat(texts[0]) == first.astimezone(UTC)
