import json
import math
from typing import Any

import pandas as pd
import pytest

from tunetrail.config import ValidationConfig
from tunetrail.data.rows import object_series, rows_frame
from tunetrail.data.validation import validate
from tunetrail.errors import SampleError
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
}


def frame(shape: str, *contents: dict[str, Any]) -> pd.DataFrame:
    kind = LLM if shape in ("completion", "chat", "document") else EMBEDDING
    samples = [Sample(kind=kind, shape=shape, content={**GOOD[shape], **content}) for content in contents]
    return rows_frame(enumerate(samples, start=1))


@pytest.mark.parametrize("shape", GOOD)
def test_validate_passes_good_rows_of_every_shape(shape: str) -> None:
    rows = frame(shape, {}, {})
    kind = LLM if shape in ("completion", "chat", "document") else EMBEDDING
    result = validate(rows, kind, ValidationConfig())
    pd.testing.assert_frame_equal(result.rows, rows)
    assert len(result.set_aside) == 0 and result.checked == 2
    json.dumps(result.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("shape", "broken", "reason"),
    [
        ("pair", {"anchor": " \n\t"}, "anchor is empty"),
        ("pair", {"positive": None}, "positive is missing"),
        ("pair", {"positive": 3}, "positive is not a string"),
        ("pair", {"negative": 3}, "negative is not a string"),
        ("pair", {"anchor": "x" * 51}, "anchor is longer than 50 characters"),
        ("score", {"score": math.inf}, "score is not a finite number"),
        ("score", {"score": math.nan}, "score is missing"),
        ("score", {"score": "high"}, "score is not a finite number"),
        ("score", {"score": True}, "score is not a finite number"),
        ("label", {"label": " "}, "label is empty"),
        ("vector", {"embedding": [0.0, 0.0]}, "embedding has a norm of zero"),
        ("vector", {"embedding": [1.0, math.nan]}, "embedding is not a non-empty list of finite numbers"),
        ("vector", {"embedding": []}, "embedding is not a non-empty list of finite numbers"),
        ("vector", {"embedding": [1.0, "2"]}, "embedding is not a non-empty list of finite numbers"),
        ("vector", {"embedding": [[1.0], [2.0]]}, "embedding is not a non-empty list of finite numbers"),
        ("vector", {"embedding": [1.0, 2.0, 3.0]}, "embedding has not the 2 dimensions of most rows"),
        ("completion", {"output": ""}, "output is empty"),
        ("chat", {"messages": [{"role": "assistant", "content": " "}]}, "messages has no assistant turn with text"),
        ("chat", {"messages": "hello"}, "messages is not a list of {role, content}"),
        ("chat", {"messages": [{"role": "assistant", "content": "x" * 51}]}, "messages is longer than 50 characters"),
        ("document", {"text": "\u3000"}, "text is empty"),
    ],
)
def test_validate_sets_a_broken_row_aside_with_its_reason(shape: str, broken: dict[str, Any], reason: str) -> None:
    kind = LLM if shape in ("completion", "chat", "document") else EMBEDDING
    result = validate(frame(shape, {}, broken, {}), kind, ValidationConfig(max_characters=50))
    assert list(result.rows["row_id"]) == [1, 3]
    assert result.set_aside[["row_id", "step", "reason"]].values.tolist() == [[2, "validation", reason]]
    assert result.reasons == {reason: 1}


def test_validate_sets_short_texts_aside() -> None:
    result = validate(
        frame("text", {"text": "long enough"}, {"text": "short"}), EMBEDDING, ValidationConfig(min_characters=6)
    )
    assert result.set_aside["reason"].tolist() == ["text is shorter than 6 characters"]


def test_validate_names_all_reasons_of_a_row_once() -> None:
    rows = frame("pair", {}, {}, {"anchor": "", "positive": None})
    result = validate(rows, EMBEDDING, ValidationConfig())
    assert result.set_aside["reason"].tolist() == ["anchor is empty; positive is missing"]


def test_validate_checks_each_shape_of_a_mixed_llm_frame() -> None:
    contents = [("completion", {}), ("chat", {}), ("document", {"text": ""}), ("document", {})]
    samples = [Sample(kind=LLM, shape=shape, content={**GOOD[shape], **content}) for shape, content in contents]
    result = validate(rows_frame(enumerate(samples)), LLM, ValidationConfig())
    assert list(result.rows["shape"]) == ["completion", "chat", "document"]
    assert result.set_aside["row_id"].tolist() == [2]


def test_validate_treats_a_blank_negative_as_absent_and_says_so() -> None:
    result = validate(frame("pair", {"negative": " "}, {"negative": "n"}), EMBEDDING, ValidationConfig())
    assert result.rows["negative"].tolist() == [None, "n"]
    assert "1 of 2 rows have an empty negative" in result.warnings[0]


@pytest.mark.parametrize(
    ("rows", "warning"),
    [
        (frame("pair", {"anchor": "b"}, {}), "1 of 2 pairs have an anchor equal to their positive"),
        (frame("score", {}, {}), "all 2 scores equal 0.5"),
        (frame("label", {}, {}), "all 2 rows have the label 'b'"),
        (frame("label", {"label": "x"}, {"label": "y"}), "every label occurs once"),
    ],
)
def test_validate_warns_of_rows_that_teach_nothing(rows: pd.DataFrame, warning: str) -> None:
    result = validate(rows, EMBEDDING, ValidationConfig())
    assert len(result.rows) == 2
    assert any(warning in text for text in result.warnings)


def test_validate_stops_above_the_rejected_share_with_counts_and_the_commonest_reason() -> None:
    rows = frame("text", {}, {"text": ""}, {"text": ""}, {"text": "x" * 9})
    with pytest.raises(
        SampleError, match=r"at most 50% of all, got 3 of 4; commonest reason: text is empty \(2 rows\)"
    ):
        validate(rows, EMBEDDING, ValidationConfig(max_characters=8))
    assert len(validate(rows, EMBEDDING, ValidationConfig(max_characters=8, max_rejected_share=0.75)).rows) == 1


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        (frame("text"), EMBEDDING, "rows must hold at least one embedding sample, got 0"),
        (frame("text", {}), LLM, "shapes must be those of llm samples, got text"),
        (
            frame("text", {"text": ""}),
            EMBEDDING,
            "got 1 of 1; commonest reason: text is empty .* Mend or remove them.$",
        ),
        (frame("pair", {}).drop(columns="positive"), EMBEDDING, "columns of pair rows must be .*positive"),
        (
            rows_frame(
                (number, Sample(kind=EMBEDDING, shape=shape, content=GOOD[shape]))
                for number, shape in enumerate(["pair", "label", "label"])
            ),
            EMBEDDING,
            r"one shape, got label \(2\), pair \(1\). Choose one, for example embedding.shape=label",
        ),
    ],
)
def test_validate_refuses_frames_that_it_cannot_mend(rows: pd.DataFrame, kind: SampleKind, message: str) -> None:
    with pytest.raises(SampleError, match=message):
        validate(rows, kind, ValidationConfig(max_rejected_share=1.0))


def test_validate_accepts_a_frame_with_gaps_in_its_index() -> None:
    rows = frame("text", {"text": ""}, {}, {}).iloc[[0, 2]]
    result = validate(rows, EMBEDDING, ValidationConfig())
    assert result.rows["row_id"].tolist() == [3] and result.set_aside["row_id"].tolist() == [1]


def test_validate_accepts_pairs_without_a_negative_column() -> None:
    rows = frame("pair", {}, {}).drop(columns="negative").assign(group=object_series(["g", None]))
    assert len(validate(rows, EMBEDDING, ValidationConfig()).rows) == 2
