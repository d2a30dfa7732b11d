import math
import subprocess
import sys
import warnings
from datetime import UTC, date, datetime, timedelta, timezone

import numpy
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunetrail.errors import SampleError
from tunetrail.samples import (
    BrokenRow,
    SampleKind,
    SampleShape,
    all_shapes,
    checked_timestamp,
    find_shape,
    parse_sample,
    register_shape,
    shape_named,
)

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
VALUES = {"score": 0.5, "embedding": [1.0, 2.0], "messages": CHAT}
EMBEDDING, LLM = SampleKind.EMBEDDING, SampleKind.LLM


@pytest.mark.parametrize("shape", all_shapes(), ids=lambda shape: f"{shape.kind}-{shape.name}")
def test_parse_sample_finds_every_shape_from_its_columns(shape):
    row = {column: VALUES.get(column, f"a {column}") for column in shape.columns}
    sample = parse_sample({**row, "group": 7, "origin": {"page": 1}, "nothing": None}, shape.kind)
    assert (sample.kind, sample.shape, sample.content) == (shape.kind, shape.name, row)
    assert (sample.group, sample.metadata) == ("7", {"origin": {"page": 1}})


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        (
            {},
            LLM,
            r"one of \[input, output; messages; text; prompt, chosen, rejected\] for llm samples, got \[\]",
        ),
        ({"ancor": "a", "positive": "b"}, EMBEDDING, "Did you mean 'anchor'"),
        ({"input": "a", "output": None}, LLM, r"got \[input\]"),
        ({"input": "a", "output": math.nan}, LLM, r"got \[input\]"),
        ({"text": 3}, LLM, r"text must be a string, got int \(3\)"),
        ({"text": "\ud800"}, LLM, "text must be valid Unicode, got a lone surrogate at 0"),
        ({"text": "a", "label": 1.5}, EMBEDDING, "label must be a string, got float"),
        ({"text": "a", "label": True}, EMBEDDING, "label must be a string, got bool"),
        (
            {"sentence1": "a", "sentence2": "b", "score": "x"},
            EMBEDDING,
            "score must be a finite number, got 'x'",
        ),
        (
            {"sentence1": "a", "sentence2": "b", "score": True},
            EMBEDDING,
            "score must be a finite number, got True",
        ),
        (
            {"sentence1": "a", "sentence2": "b", "score": math.inf},
            EMBEDDING,
            "score must be a finite number, got inf",
        ),
        (
            {"sentence1": "a", "sentence2": "b", "score": 10**400},
            EMBEDDING,
            "score must be a finite number, got 1000",
        ),
        (
            {"text": "a", "embedding": []},
            EMBEDDING,
            "embedding must be a non-empty list of numbers",
        ),
        (
            {"text": "a", "embedding": "1,2"},
            EMBEDDING,
            "embedding must be a non-empty list of numbers, got '1,2'",
        ),
        (
            {"text": "a", "embedding": [1, math.nan]},
            EMBEDDING,
            "embedding must be a finite number, got nan",
        ),
        ({"messages": []}, LLM, "messages must be a non-empty list"),
        ({"messages": ["hello"]}, LLM, r"messages\[0\] must have role and content, got 'hello'"),
        (
            {"messages": [{"role": "bot", "content": "a"}]},
            LLM,
            r"messages\[0\]\.role must be one of system, user",
        ),
        (
            {"messages": [{"role": "user", "content": 1}]},
            LLM,
            r"messages\[\]\.content must be a string, got int",
        ),
        ({"messages": CHAT[:1]}, LLM, "must have an assistant turn"),
        ({"text": "a", "group": 1.5}, LLM, "group must be a string or an integer, got float"),
        (
            {"anchor": "a", "positive": "b", "negativ": "c"},
            EMBEDDING,
            "column 'negativ' is unknown. Did you mean",
        ),
        ({"text": "a", "groups": "c"}, LLM, "column 'groups' is unknown. Did you mean 'group'"),
        (
            {"text": "a", "timestmp": 1},
            LLM,
            "column 'timestmp' is unknown. Did you mean 'timestamp'",
        ),
        (
            {"text": "a", "time_stamp": 1},
            LLM,
            "column 'time_stamp' is unknown. Did you mean 'timestamp'",
        ),
        ({"text": "a", "weights": 2}, LLM, "column 'weights' is unknown. Did you mean 'weight'"),
        ({"text": "a", "weight": "2"}, LLM, "weight must be a finite number, got '2'"),
        ({"text": "a", "weight": True}, LLM, "weight must be a finite number, got True"),
        ({"text": "a", "weight": math.inf}, EMBEDDING, "weight must be a finite number, got inf"),
        ({"text": "a", "weight": 0}, EMBEDDING, "weight must be above 0, got 0. Leave the row out"),
        ({"text": "a", "weight": -1.5}, LLM, "weight must be above 0, got -1.5"),
        ({"prompt": "a", "chosen": "b"}, LLM, r"got \[chosen, prompt\]"),
        (
            {"prompt": "a", "chosen": "b", "rejected": CHAT},
            LLM,
            "rejected must be a string, got list",
        ),
        (
            {"text": "a", "timestamp": "noon"},
            LLM,
            "timestamp must be ISO 8601, Unix seconds or milliseconds, got 'noon'. Write it",
        ),
    ],
)
def test_parse_sample_names_what_is_wrong(row, kind, message):
    with pytest.raises(SampleError, match=message):
        parse_sample(row, kind)


def test_parse_sample_takes_arrays_and_makes_numbers_floats():
    row = {"text": "a", "embedding": numpy.array([1, 2])}
    assert parse_sample(row, EMBEDDING).content["embedding"] == [1.0, 2.0]
    assert parse_sample({"text": "a", "label": 3}, EMBEDDING).content["label"] == "3"


def test_parse_sample_prefers_the_shape_with_most_columns():
    assert parse_sample({"text": "a", "label": "b"}, EMBEDDING).shape == "label"
    assert parse_sample({"text": "a", "label": "b"}, LLM).shape == "document"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-11-24T12:00:00Z", "2026-11-24T12:00:00+00:00"),
        ("2026-11-24T13:30:00+01:30", "2026-11-24T12:00:00+00:00"),
        (" 2026-11-24 12:00:00.25 ", "2026-11-24T12:00:00.250000+00:00"),
        ("2026-11-24", "2026-11-24T00:00:00+00:00"),
        ("20261124", "2026-11-24T00:00:00+00:00"),
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


@pytest.mark.parametrize("value", [None, math.nan, pandas.NaT])
def test_parse_sample_takes_an_absent_timestamp(value):
    assert parse_sample({"text": "a", "timestamp": value}, LLM).timestamp is None


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            "yesterday",
            "24.11.2026",
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


@pytest.mark.parametrize("column", ["height", "Weight", "weight_kg", "weighting"])
def test_parse_sample_keeps_columns_that_only_resemble_weight(column):
    assert parse_sample({"text": "a", column: 1}, LLM).metadata == {column: 1}


@pytest.mark.parametrize(
    ("value", "weight"), [(None, None), (math.nan, None), (2, 2.0), (numpy.float64(0.25), 0.25)]
)
def test_parse_sample_takes_a_weight_beside_the_content(value, weight):
    sample = parse_sample({"prompt": "a", "chosen": "b", "rejected": "c", "weight": value}, LLM)
    assert (sample.shape, sample.weight, sample.metadata) == ("preference", weight, {})
    assert sample.content == {"prompt": "a", "chosen": "b", "rejected": "c"}


def test_sample_digest_depends_on_kind_content_and_group_only():
    plain = parse_sample({"text": "a"}, LLM)
    assert plain.digest == parse_sample({"text": "a", "weight": 3}, LLM).digest
    assert plain.digest == parse_sample({"text": "a", "timestamp": 1_764_000_000}, LLM).digest
    assert plain.digest == "c175ccf3882e7734b8816268549167025fda1cd5434ee06e1b67ffa547b5867e"
    assert plain.digest == parse_sample({"text": "a", "origin": "x"}, LLM).digest
    others = [({"text": "b"}, LLM), ({"text": "a"}, EMBEDDING), ({"text": "a", "group": "g"}, LLM)]
    assert len({plain.digest, *(parse_sample(row, kind).digest for row, kind in others)}) == 4


def test_find_shape_ignores_columns_that_no_shape_knows():
    assert find_shape(["input", "output", "date"], LLM).name == "completion"


def test_shape_named_knows_the_shapes_of_a_kind():
    assert shape_named("pair", EMBEDDING).required == ("anchor", "positive")
    with pytest.raises(
        SampleError,
        match=r"shape must be one of completion, chat, document, preference .* got 'chats'\. Did you mean",
    ):
        shape_named("chats", LLM)


def test_broken_row_holds_text_and_reason():
    assert BrokenRow(text="{", reason="line 1") == BrokenRow(text="{", reason="line 1")


def test_shape_named_finds_a_shape_of_any_kind():
    assert shape_named("preference").kind is LLM
    with pytest.raises(SampleError, match=r"for llm samples, got 'pair'"):
        shape_named("pair", LLM)


def test_sample_kind_names_the_nearest_known_kind():
    assert SampleKind("llm") is LLM and f"{LLM}" == "llm"
    with pytest.raises(SampleError, match=r"one of embedding, llm, got 'embeding'\. Did you mean"):
        SampleKind("embeding")


@pytest.mark.parametrize(
    ("name", "identifying", "truncatable", "is_preference"),
    [
        ("pair", ("anchor", "positive"), ("anchor", "positive", "negative"), False),
        ("score", ("sentence1", "sentence2"), ("sentence1", "sentence2"), False),
        ("label", ("text",), ("text",), False),
        ("completion", ("input",), (), False),
        ("chat", (), (), False),
        ("document", ("text",), ("text",), False),
        ("preference", ("prompt",), (), True),
    ],
)
def test_shapes_derive_what_follows_from_their_target(
    name, identifying, truncatable, is_preference
):
    shape = shape_named(name)

    assert shape.identifying_texts == identifying
    assert shape.truncatable == truncatable
    assert shape.is_preference == is_preference


def test_register_shape_refuses_a_name_or_a_column_that_is_taken():
    with pytest.raises(SampleError, match="name of its own, got 'pair'"):
        register_shape(SampleShape(name="pair", kind=LLM, required=("text",)))
    with pytest.raises(SampleError, match="'score' of the shape grade must be of type NUMBER"):
        register_shape(SampleShape(name="grade", kind=LLM, required=("text", "score")))

    assert "grade" not in {shape.name for shape in all_shapes()}


def test_a_registered_kind_takes_its_shapes_to_another_process():
    program = """
import pickle, sys
from tunetrail.samples import SampleKind, SampleShape, register_shape
kind = SampleKind.register("ticket")
register_shape(SampleShape(name="ticket", kind=kind, required=("subject",)))
sys.stdout.buffer.write(pickle.dumps(kind))
"""
    pickled = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True
    ).stdout
    reading = (
        "import pickle, sys; kind = pickle.load(sys.stdin.buffer);"
        "from tunetrail.samples import parse_sample; print(parse_sample({'subject': 's'}, kind).shape)"
    )

    result = subprocess.run(
        [sys.executable, "-c", reading], input=pickled, capture_output=True, check=True
    )

    assert result.stdout.decode().strip() == "ticket"
