import math
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunetrail.config import CheckConfig, RowChecksConfig, ValidationConfig
from tunetrail.data.checks.validation import check_rows
from tunetrail.data.rows import object_series, rows_frame
from tunetrail.samples import Sample, SampleKind

EMBEDDING, LLM = SampleKind.EMBEDDING, SampleKind.LLM
GOOD: dict[str, dict[str, Any]] = {
    "pair": {"anchor": "a", "positive": "b", "negative": None},
    "score": {"sentence1": "a", "sentence2": "b", "score": 0.5},
    "label": {"text": "a", "label": "b"},
    "vector": {"text": "a", "embedding": [1.0, 2.0]},
    "text": {"text": "a"},
    "completion": {"input": "a", "output": "b"},
    "chat": {"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": "b"}]},
    "document": {"text": "a"},
    "preference": {"prompt": "a", "chosen": "b", "rejected": "c"},
}
USER, ASSISTANT = {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}


def kind_of(shape: str) -> SampleKind:
    return LLM if shape in ("completion", "chat", "document", "preference") else EMBEDDING


def frame(shape: str, *contents: dict[str, Any]) -> pd.DataFrame:
    samples = [
        Sample(kind=kind_of(shape), shape=shape, content={**GOOD[shape], **content})
        for content in contents
    ]
    return rows_frame(enumerate(samples, start=1))


@pytest.mark.parametrize("shape", GOOD)
def test_check_rows_passes_good_rows_of_every_shape(shape: str) -> None:
    rows = frame(shape, {}, {})
    result = check_rows(rows, kind_of(shape), ValidationConfig())
    pd.testing.assert_frame_equal(result.rows[list(rows)], rows)
    assert len(result.set_aside) == len(result.flags) == 0


@pytest.mark.parametrize(
    ("shape", "broken", "check", "reason"),
    [
        ("pair", {"anchor": " \n\t"}, "rows.empty", "anchor is empty"),
        ("pair", {"positive": None}, "rows.missing", "positive is missing"),
        ("pair", {"positive": 3}, "rows.wrong_type", "positive is not a string of valid Unicode"),
        (
            "pair",
            {"anchor": "\ud800"},
            "rows.wrong_type",
            "anchor is not a string of valid Unicode",
        ),
        ("pair", {"negative": 3}, "rows.wrong_type", "negative is not a string of valid Unicode"),
        ("pair", {"anchor": "x" * 51}, "rows.too_long", "anchor is longer than 50 characters"),
        ("pair", {"anchor": " b"}, "rows.constant", "anchor equals positive"),
        ("text", {"text": "la la la la"}, "rows.constant", "a text is one word, 4 times"),
        ("score", {"score": math.inf}, "rows.wrong_type", "score is not a finite number"),
        ("score", {"score": math.nan}, "rows.missing", "score is missing"),
        ("score", {"score": "high"}, "rows.wrong_type", "score is not a finite number"),
        ("score", {"score": True}, "rows.wrong_type", "score is not a finite number"),
        ("score", {"score": 10**400}, "rows.wrong_type", "score is not a finite number"),
        ("label", {"label": " "}, "rows.empty", "label is empty"),
        ("vector", {"embedding": [0.0, 0.0]}, "vectors.zero_norm", "embedding has a norm of zero"),
        (
            "vector",
            {"embedding": [1.0, math.nan]},
            "vectors.not_finite",
            "embedding holds numbers that are not finite",
        ),
        (
            "vector",
            {"embedding": []},
            "rows.wrong_type",
            "embedding is not a non-empty list of numbers",
        ),
        (
            "vector",
            {"embedding": [1.0, "2"]},
            "rows.wrong_type",
            "embedding is not a non-empty list of numbers",
        ),
        (
            "vector",
            {"embedding": [[1.0], [2.0]]},
            "rows.wrong_type",
            "embedding is not a non-empty list of numbers",
        ),
        ("completion", {"output": ""}, "rows.empty", "output is empty"),
        (
            "chat",
            {"messages": [USER, {**ASSISTANT, "content": " "}]},
            "rows.empty",
            "messages has no assistant turn with text",
        ),
        (
            "chat",
            {"messages": "hello"},
            "rows.wrong_type",
            "messages is not a list of {role, content}",
        ),
        (
            "chat",
            {"messages": [{"role": "robot", "content": "x"}]},
            "rows.wrong_type",
            "messages is not a list of {role, content}",
        ),
        (
            "chat",
            {"messages": [USER, {**ASSISTANT, "content": "x" * 51}]},
            "rows.too_long",
            "messages is longer than 50 characters",
        ),
        (
            "chat",
            {"messages": [ASSISTANT, USER]},
            "conversations.turn_order",
            "messages has turns out of order",
        ),
        ("document", {"text": "\u3000"}, "rows.empty", "text is empty"),
        ("preference", {"rejected": None}, "rows.missing", "rejected is missing"),
        ("preference", {"chosen": " "}, "rows.empty", "chosen is empty"),
        (
            "preference",
            {"prompt": ["a"]},
            "rows.wrong_type",
            "prompt is not a string of valid Unicode",
        ),
        ("preference", {"rejected": "b\n"}, "rows.constant", "chosen equals rejected"),
        ("preference", {"chosen": "la la la la"}, "rows.constant", "a text is one word, 4 times"),
    ],
)
def test_check_rows_sets_a_broken_row_aside_with_its_reason(
    shape: str, broken: dict[str, Any], check: str, reason: str
) -> None:
    result = check_rows(
        frame(shape, {}, broken, {}), kind_of(shape), ValidationConfig(max_characters=50)
    )

    assert list(result.rows["row_id"]) == [1, 3]
    assert result.set_aside[["row_id", "step", "reason"]].values.tolist() == [
        [2, "validation", reason]
    ]
    assert result.flags.values.tolist() == [[2, check, reason]]


def test_check_rows_flags_what_is_odd_and_keeps_the_row() -> None:
    rows = frame(
        "text",
        {"text": "plain"},
        {"text": "cafÃ© au lait, sâ€™il vous plaÃ®t"},
        {"text": "lost \ufffd"},
    )

    result = check_rows(rows, EMBEDDING, ValidationConfig())

    assert len(result.rows) == 3 and len(result.set_aside) == 0
    assert result.flags[["row_id", "check"]].values.tolist() == [
        [2, "rows.encoding"],
        [3, "rows.encoding"],
    ]


def test_check_rows_does_as_the_check_is_configured() -> None:
    rows = frame("pair", {}, {"anchor": "b"}, {"anchor": "\ufffd"})
    off = CheckConfig(severity="off")
    config = ValidationConfig(
        rows=RowChecksConfig(constant=off, encoding=CheckConfig(set_aside=True))
    )

    result = check_rows(rows, EMBEDDING, config)

    assert result.rows["row_id"].tolist() == [1, 2] and result.flags["check"].tolist() == [
        "rows.encoding"
    ]


def test_check_rows_sets_short_texts_aside() -> None:
    rows = frame("text", {"text": "long enough"}, {"text": "short"})
    result = check_rows(rows, EMBEDDING, ValidationConfig(min_characters=6))
    assert result.set_aside["reason"].tolist() == ["text is shorter than 6 characters"]


def test_check_rows_names_all_reasons_of_a_row_once() -> None:
    result = check_rows(
        frame("pair", {}, {}, {"anchor": "", "positive": None}), EMBEDDING, ValidationConfig()
    )
    assert result.set_aside["reason"].tolist() == ["anchor is empty; positive is missing"]


def test_check_rows_checks_each_shape_of_a_mixed_llm_frame() -> None:
    contents = [("completion", {}), ("chat", {}), ("document", {"text": ""}), ("document", {})]
    samples = [
        Sample(kind=LLM, shape=shape, content={**GOOD[shape], **content})
        for shape, content in contents
    ]

    result = check_rows(rows_frame(enumerate(samples)), LLM, ValidationConfig())

    assert list(result.rows["shape"]) == ["completion", "chat", "document"]
    assert result.set_aside["row_id"].tolist() == [2]


def test_check_rows_treats_a_blank_negative_as_absent() -> None:
    result = check_rows(
        frame("pair", {"negative": " "}, {"negative": "n"}), EMBEDDING, ValidationConfig()
    )
    assert result.rows["negative"].tolist() == [None, "n"]


def test_check_rows_sets_rows_of_foreign_shapes_and_groups_of_other_types_aside() -> None:
    rows = frame("text", {}, {}, {}, {}).assign(
        shape=object_series(["text", "document", 5, "text"]),
        group=object_series([None, None, None, ["g"]]),
    )

    result = check_rows(rows, EMBEDDING, ValidationConfig())

    assert result.rows["row_id"].tolist() == [1]
    assert [reason.split(",")[0] for reason in result.set_aside["reason"]] == [
        "shape is not one of label",
        "shape is not one of label",
        "group is not a string",
    ]


def test_check_rows_accepts_frames_with_gaps_and_without_optional_columns() -> None:
    rows = frame("pair", {"anchor": ""}, {}, {}).iloc[[0, 2]].drop(columns="negative")
    result = check_rows(rows, EMBEDDING, ValidationConfig())
    assert result.rows["row_id"].tolist() == [3] and result.set_aside["row_id"].tolist() == [1]


def test_check_rows_masks_what_it_keeps_of_a_row() -> None:
    rows = frame("pair", {"anchor": "", "positive": "secret"})
    result = check_rows(
        rows, EMBEDDING, ValidationConfig(), lambda text: text.replace("secret", "[SECRET]")
    )
    assert "secret" not in str(result.set_aside.values.tolist())


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(shape=st.sampled_from(sorted(GOOD)), data=st.data())
def test_check_rows_accounts_for_every_row_whatever_its_values(
    shape: str, data: st.DataObject
) -> None:
    contents = data.draw(
        st.lists(
            st.fixed_dictionaries({}, optional={column: ANYTHING for column in GOOD[shape]}),
            min_size=1,
            max_size=5,
        )
    )

    result = check_rows(frame(shape, *contents), kind_of(shape), ValidationConfig())

    ids = [*result.rows["row_id"], *result.set_aside["row_id"]]
    assert sorted(ids) == list(range(1, len(contents) + 1))
    assert all(isinstance(reason, str) and reason for reason in result.set_aside["reason"])


def test_check_rows_takes_nan_and_values_of_other_shapes_as_absent() -> None:
    rows = frame("text", {}, {}).assign(
        label=object_series([3, None]), group=object_series([math.nan, "g"])
    )
    result = check_rows(rows, EMBEDDING, ValidationConfig())
    assert list(result.rows["label"]) == [None, None] and list(result.rows["group"]) == [None, "g"]


def test_check_rows_gives_numbers_as_floats() -> None:
    scores = check_rows(frame("score", {"score": 10**30}), EMBEDDING, ValidationConfig()).rows[
        "score"
    ]

    vectors = check_rows(
        frame("vector", {"embedding": [1, 10**30]}), EMBEDDING, ValidationConfig()
    ).rows["embedding"]

    assert [type(value) for value in (*scores, *vectors[0])] == [float] * 3


def test_check_rows_keeps_what_there_is_of_a_row_without_a_shape() -> None:
    rows = frame("chat", {"messages": [{"content": 3}]}).assign(shape=object_series([None]))
    before = check_rows(rows, LLM, ValidationConfig()).set_aside["before"]
    assert "content" in before[0]


def test_check_rows_takes_a_rejected_answer_that_repeats_itself() -> None:
    result = check_rows(frame("preference", {"rejected": "la la la la"}), LLM, ValidationConfig())
    assert len(result.rows) == 1 and len(result.flags) == 0


@pytest.mark.parametrize("weight", [0.0, -1.0, math.inf, "heavy", True, 10**400])
def test_check_rows_sets_rows_of_impossible_weights_aside(weight: Any) -> None:
    rows = frame("text", {}, {}, {}).assign(weight=object_series([2, weight, None]))
    result = check_rows(rows, EMBEDDING, ValidationConfig())
    assert result.set_aside["reason"].tolist() == ["weight is not a number above 0"]
    assert result.rows["weight"].tolist() == [2.0, None] and type(result.rows["weight"][0]) is float
