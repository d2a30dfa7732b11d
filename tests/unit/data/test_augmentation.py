import json
from typing import Any

import pandas as pd
import pytest

from tunetrail.config import AugmentationConfig
from tunetrail.data.augmentation import augment
from tunetrail.data.rows import object_series, rows_frame
from tunetrail.samples import Sample, SampleKind

TEXT = "one two three four five"
HALF = AugmentationConfig(method="word_dropout", share=0.5, word_dropout=0.3)
CONTENTS: dict[str, dict[str, Any]] = {
    "pair": {"anchor": TEXT, "positive": TEXT, "negative": TEXT},
    "score": {"sentence1": TEXT, "sentence2": TEXT, "score": 0.5},
    "label": {"text": TEXT, "label": TEXT},
    "vector": {"text": TEXT, "embedding": [1.0]},
    "text": {"text": TEXT},
    "completion": {"input": TEXT, "output": TEXT},
    "chat": {"messages": [{"role": "assistant", "content": TEXT}]},
    "document": {"text": TEXT},
}


def frame(shape: str, count: int = 10, **content: Any) -> pd.DataFrame:
    kind = SampleKind.LLM if shape in ("completion", "chat", "document") else SampleKind.EMBEDDING
    sample = Sample(kind=kind, shape=shape, content=CONTENTS[shape] | content, group="g")
    return rows_frame((number + 100, sample) for number in range(count)).assign(
        cluster=object_series([f"k{number}" for number in range(count)])
    )


@pytest.mark.parametrize(
    ("shape", "varied"),
    [("pair", "anchor"), ("label", "text"), ("vector", "text"), ("text", "text"), ("completion", "input")],
)
def test_augment_drops_words_from_the_read_column_only(shape: str, varied: str) -> None:
    rows = frame(shape)
    result = augment(rows, HALF, seed=0)
    added = result.rows.iloc[10:]
    assert result.added == 5 and added["row_id"].tolist() == [-1, -2, -3, -4, -5]
    parents = rows.set_index("row_id").loc[added["parent_id"].astype(int)]
    assert added["parent_id"].is_unique
    assert added["cluster"].tolist() == parents["cluster"].tolist()
    for column in rows.columns.drop(["row_id", varied]):
        assert added[column].tolist() == parents[column].tolist()
    for text in added[varied]:
        words = text.split(" ")
        assert 0 < len(words) < 5 and words == [word for word in TEXT.split() if word in words]


@pytest.mark.parametrize("shape", CONTENTS)
def test_augment_keeps_the_original_rows_as_they_are(shape: str) -> None:
    rows = frame(shape)
    result = augment(rows, HALF, seed=0)
    assert result.rows["parent_id"].iloc[:10].isna().all()
    pd.testing.assert_frame_equal(result.rows.iloc[:10].drop(columns="parent_id"), rows)
    json.dumps(result.to_dict())


@pytest.mark.parametrize("shape", ["score", "chat", "document"])
def test_augment_skips_shapes_that_it_would_falsify_and_says_so(shape: str) -> None:
    result = augment(frame(shape), HALF, seed=0)
    assert result.added == 0 and len(result.rows) == 10
    assert f"leaves {shape} rows as they are" in result.notes[0]


def test_augment_makes_no_row_from_a_single_word() -> None:
    result = augment(frame("text", text="word"), HALF, seed=0)
    assert result.added == 0 and "asks for 5 rows, 0 could be made" in result.notes[0]


def test_augment_follows_the_seed() -> None:
    first, again, other = (augment(frame("text"), HALF, seed).rows["text"].tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_augment_keeps_line_breaks_between_the_words_that_stay() -> None:
    result = augment(frame("completion", input="a = 1\n    b = 2\n    c = 3"), HALF, seed=0)
    assert any("\n    " in text for text in result.rows["input"].iloc[10:])


@pytest.mark.parametrize("config", [AugmentationConfig(), AugmentationConfig(method="word_dropout", share=0.0)])
def test_augment_adds_nothing_when_turned_off(config: AugmentationConfig) -> None:
    result = augment(frame("text"), config, seed=0)
    assert result.added == 0 and result.notes == () and "parent_id" in result.rows
