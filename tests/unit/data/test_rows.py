import pytest

from tunetrail.data.rows import (
    SET_ASIDE_COLUMNS,
    content_columns,
    records_of,
    rows_digest,
    rows_frame,
    rows_of_shapes,
    set_aside_frame,
    shown,
    texts_of,
    texts_of_rows,
)
from tunetrail.errors import SampleError
from tunetrail.samples import COMMON_COLUMNS, Sample, SampleKind, parse_sample, shape_named

CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}


def llm_samples() -> list[tuple[int, Sample]]:
    contents = [
        {"input": "a", "output": "b", "group": 7},
        CHAT,
        {"text": "d", "timestamp": 1_764_000_000},
    ]
    return [
        (row_id + 10, parse_sample(content, SampleKind.LLM))
        for row_id, content in enumerate(contents)
    ]


def test_rows_frame_keeps_ids_shapes_and_absent_values_as_none() -> None:
    rows = rows_frame(llm_samples())

    assert list(rows.columns) == [
        "row_id",
        "shape",
        "input",
        "output",
        "messages",
        "tools",
        "text",
        *COMMON_COLUMNS,
    ]
    assert rows["row_id"].dtype == "int64" and list(rows["row_id"]) == [10, 11, 12]
    assert list(rows["shape"]) == ["completion", "chat", "document"]
    assert rows["input"].tolist() == ["a", None, None]
    assert rows["group"].tolist() == ["7", None, None]
    assert rows["timestamp"].tolist() == [None, None, "2025-11-24T16:00:00+00:00"]
    assert rows["timestamp"].dtype == object


def test_rows_frame_of_pairs_always_has_a_negative_column() -> None:
    rows = rows_frame([(1, parse_sample({"anchor": "a", "positive": "b"}, SampleKind.EMBEDDING))])
    assert rows["negative"].tolist() == [None]


def test_rows_frame_of_nothing_has_the_columns_that_every_frame_has() -> None:
    assert list(rows_frame([]).columns) == ["row_id", "shape", *COMMON_COLUMNS]


def test_records_of_rows_of_one_shape_have_a_timestamp_where_there_is_one() -> None:
    rows = rows_frame(llm_samples())
    assert records_of(rows_of_shapes(rows, ["document"])) == [
        {"row_id": 12, "shape": "document", "text": "d", "timestamp": "2025-11-24T16:00:00+00:00"}
    ]
    assert "timestamp" not in records_of(rows_of_shapes(rows, ["chat"]))[0]


def test_rows_digest_depends_on_content_not_on_ids_or_timestamps() -> None:
    rows = rows_frame(llm_samples())
    digest = rows_digest(rows)

    assert (
        digest
        == rows_digest(rows.assign(row_id=0, timestamp=None))
        == rows_digest(rows.drop(columns="timestamp"))
    )
    assert digest != rows_digest(rows.assign(group=None))


def test_rows_digest_depends_on_weights_where_there_are_any() -> None:
    rows = rows_frame(llm_samples())

    assert (
        rows_digest(rows)
        == rows_digest(rows.drop(columns="weight"))
        != rows_digest(rows.assign(weight=2.0))
    )


def test_weights_and_preferences_go_from_samples_to_records() -> None:
    preference = {"prompt": "p", "chosen": "c", "rejected": "r"}
    rows = rows_frame(
        (row_id, parse_sample(row, SampleKind.LLM))
        for row_id, row in enumerate([preference | {"weight": 2}, CHAT])
    )

    assert records_of(rows)[0] == {"row_id": 0, "shape": "preference", **preference, "weight": 2.0}
    assert "weight" not in records_of(rows)[1] and texts_of_rows(rows) == [
        ["p", "c", "r"],
        ["Hi", "Hello"],
    ]
    assert records_of(rows_of_shapes(rows, ["preference"]))[0]["weight"] == 2.0


def test_texts_of_rows_come_in_order_and_leave_out_what_is_no_text() -> None:
    assert texts_of_rows(rows_frame(llm_samples())) == [["a", "b"], ["Hi", "Hello"], ["d"]]
    assert texts_of({"shape": "label", "text": "t", "label": "l"}) == ["t"]
    assert texts_of({"shape": "pair", "anchor": "a", "positive": "p", "negative": None}) == [
        "a",
        "p",
    ]


def test_columns_of_a_frame_are_those_of_its_shapes() -> None:
    rows = rows_frame(llm_samples())
    assert content_columns(rows) == ["input", "output", "messages", "tools", "text"]


def test_shape_of_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(
        SampleError, match=r"shape must be one of pair.*got 'pairs'\. Did you mean 'pair'"
    ):
        shape_named("pairs")


def test_set_aside_frame_has_its_columns_even_when_empty() -> None:
    assert tuple(set_aside_frame("cleaning").columns) == SET_ASIDE_COLUMNS
    frame = set_aside_frame("cleaning", [(3, "because", "x", None)])
    assert frame.to_dict("records") == [
        {"row_id": 3, "step": "cleaning", "reason": "because", "before": "x", "after": None}
    ]


def test_shown_shortens_long_values() -> None:
    assert shown(None) is None
    assert shown([1.0]) == "[1.0]"
    assert len(str(shown("x" * 100_000))) == 20_003


def test_shown_masks_before_it_cuts() -> None:
    text = "x" * 19_995 + " secret word"
    assert "sec" not in str(
        shown(text, lambda shown_text: shown_text.replace("secret", "[SECRET]"))
    )
