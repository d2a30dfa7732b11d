import math

import numpy
import pytest

from tunetrail.errors import SampleError
from tunetrail.samples import (
    BrokenRow,
    SampleKind,
    all_shapes,
    find_shape,
    parse_sample,
)

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
TOOLS = '[{"type": "function", "function": {"name": "f"}}]'
VALUES = {
    "score": 0.5,
    "embedding": [1.0, 2.0],
    "messages": CHAT,
    "prompt_messages": CHAT[:1],
    "tools": TOOLS,
    "accepted": True,
}
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
            r"\[input, output; messages; text; prompt, chosen, rejected; prompt_.*\] for llm samples, got \[\]",
        ),
        ({"ancor": "a", "positive": "b"}, EMBEDDING, "Did you mean 'anchor'"),
        ({"input": "a", "output": None}, LLM, r"got \[input\]"),
        ({"input": "a", "output": math.nan}, LLM, r"got \[input\]"),
        ({"text": 3}, LLM, r"text must be a string, got int \(3\)"),
        ({"text": "\ud800"}, LLM, "text must be valid Unicode, got a lone surrogate at 0"),
        ({"text": "a", "label": 1.5}, EMBEDDING, "label must be a string, got float"),
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
        ({"text": "a", "weight": "two"}, LLM, "weight must be a finite number, got 'two'"),
        ({"text": "a", "weight": True}, LLM, "weight must be a finite number, got True"),
        ({"text": "a", "weight": math.inf}, EMBEDDING, "weight must be a finite number, got inf"),
        ({"text": "a", "weight": 0}, EMBEDDING, "weight must be above 0, got 0. Leave the row out"),
        ({"text": "a", "weight": -1.5}, LLM, "weight must be above 0, got -1.5"),
        ({"prompt": "a", "chosen": "b"}, LLM, r"got \[chosen, prompt\]"),
        (
            {"prompt": "a", "chosen": "b", "rejected": CHAT},
            LLM,
            "chosen and rejected must differ in their last answer only",
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

    different = [
        ({"text": "b"}, LLM),
        ({"text": "a"}, EMBEDDING),
        ({"text": "a", "group": "g"}, LLM),
    ]
    assert len({plain.digest, *(parse_sample(row, kind).digest for row, kind in different)}) == 4


def test_find_shape_ignores_columns_that_no_shape_knows():
    assert find_shape(["input", "output", "date"], LLM).name == "completion"


def test_broken_row_holds_text_and_reason():
    assert BrokenRow(text="{", reason="line 1") == BrokenRow(text="{", reason="line 1")
