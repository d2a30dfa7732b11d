import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunetrail.config import HardNegativesConfig
from tunetrail.data.feature_engineering import hard_negatives
from tunetrail.data.feature_engineering.hard_negatives import MiningResult, mine
from tunetrail.data.rows import rows_frame
from tunetrail.data.twins.duplicates import normalized
from tunetrail.errors import SampleError
from tunetrail.samples import Sample, SampleKind


def pairs(count: int, **columns: list[Any]) -> pd.DataFrame:
    contents = [
        {"anchor": f"question {n}", "positive": f"answer {n}", "negative": None}
        for n in range(count)
    ]
    rows = rows_frame(
        (10 + n, Sample(kind=SampleKind.EMBEDDING, shape="pair", content=content))
        for n, content in enumerate(contents)
    )
    return rows.assign(
        **{name: pd.Series(values, dtype=object) for name, values in columns.items()}
    )


def at(*cosines: float) -> np.ndarray:
    """Unit vectors whose cosine to (1, 0) is the one given."""
    return np.array([[cosine, (1 - cosine**2) ** 0.5] for cosine in cosines], dtype=np.float32)


def mined(rows: pd.DataFrame, *cosines: float, seed: int = 0, **config: Any) -> MiningResult:
    """Mine where every anchor is (1, 0), so that a passage is equally near to all of them."""
    config = {"enabled": True, "margin": 0.1} | config
    queries = np.tile(np.array([[1, 0]], dtype=np.float32), (len(rows), 1))
    return mine(rows, queries, at(*cosines), HardNegativesConfig(**config), seed)


def negatives(result: MiningResult) -> list[str | None]:
    return list(result.rows["negative"])


def test_mine_takes_the_hardest_that_is_not_nearly_as_near_as_the_positive() -> None:
    result = mined(pairs(4), 0.9, 0.85, 0.8, 0.1)

    # limits: 0.81, 0.765, 0.72, 0.09
    assert negatives(result) == ["answer 2", "answer 3", "answer 3", None]
    assert (result.mined, result.kept, result.without, result.passages) == (3, 0, 1, 4)
    assert result.filtered == 1 + 2 + 2 + 3
    assert result.similarity == pytest.approx(
        {"0.0": 0.1, "0.25": 0.1, "0.5": 0.1, "0.75": 0.45, "1.0": 0.8}
    )
    assert result.positive_similarity["0.5"] == pytest.approx(0.85)
    assert result.warnings == (
        "1 of 4 pairs (25%) have no hard negative: all of their 50 candidates may be true answers. "
        "Raise feature_engineering.hard_negatives.candidates or lower its margin.",
    )

    json.dumps(result.to_dict(), allow_nan=False)


def test_mine_allows_exactly_the_limit_and_is_stricter_below_zero() -> None:
    assert negatives(mined(pairs(2), 1.0, 0.5, margin=0.5)) == ["answer 1", None]
    assert negatives(mined(pairs(2), -0.5, -0.54, margin=0.1)) == [None, None]
    assert negatives(mined(pairs(2), -0.5, -0.56, margin=0.1)) == ["answer 1", None]


@pytest.mark.parametrize("column", ["cluster", "group"])
def test_mine_takes_no_passage_of_the_same_source(column: str) -> None:
    rows = pairs(4, **{column: ["a", "a", "b", None]})

    assert negatives(mined(rows, 0.9, 0.8, 0.7, 0.6))[:2] == ["answer 2", "answer 2"]

    nothing_in_common = pairs(4, **{column: [None, None, float("nan"), float("nan")]})
    assert negatives(mined(nothing_in_common, 0.9, 0.8, 0.7, 0.6)) == [
        "answer 1",
        "answer 2",
        "answer 3",
        None,
    ]


def test_mine_bars_a_passage_with_any_of_the_rows_that_have_it() -> None:
    rows = pairs(4, cluster=["a", "b", "a", "d"], positive=["own", "Shared", "shared!", "other"])
    result = mined(rows, 0.9, 0.8, 0.8, 0.1)
    assert result.passages == 3
    assert negatives(result)[0] == "other"


def test_mine_takes_no_known_answer_of_an_equal_anchor() -> None:
    rows = pairs(4, anchor=["What is it?", "what is it", "Who?", "When?"])
    assert negatives(mined(rows, 0.9, 0.8, 0.7, 0.6))[0] == "answer 2"


def test_mine_takes_no_passage_that_is_the_anchor_itself() -> None:
    rows = pairs(3, positive=["answer", "Question 0.", "other"])
    assert negatives(mined(rows, 0.9, 0.5, 0.4))[0] == "other"


def test_mine_keeps_a_negative_that_a_row_has_unless_told_to_replace_it() -> None:
    rows = pairs(3, negative=["given", "", "given too"])
    result = mined(rows, 0.9, 0.8, 0.1)

    assert negatives(result) == ["given", "answer 2", "given too"]
    assert (result.mined, result.kept, result.without) == (1, 2, 0)

    replaced = mined(rows, 0.9, 0.8, 0.1, replace=True)
    assert negatives(replaced) == [
        "answer 1",
        "answer 2",
        "given too",
    ]  # nothing is allowed for the last
    assert (replaced.mined, replaced.kept, replaced.without) == (2, 1, 0)
    assert list(rows["negative"]) == ["given", "", "given too"]


def test_mine_looks_at_ranks_from_skip_top_to_candidates() -> None:
    cosines = (1.0, 0.6, 0.5, 0.4, 0.3)
    assert negatives(mined(pairs(5), *cosines, skip_top=2))[0] == "answer 3"
    assert negatives(mined(pairs(5), 0.2, *cosines[1:], candidates=4))[0] is None
    assert negatives(mined(pairs(5), *cosines, skip_top=30)) == [None] * 5
    assert mined(pairs(5), 0.2, *cosines[1:], candidates=2).filtered == 2 + 0 + 1 + 2 + 2


def test_mine_draws_at_random_from_all_that_is_allowed() -> None:
    cosines = (1.0, 0.95, 0.6, 0.5, 0.4)
    drawn = {
        seed: negatives(mined(pairs(5), *cosines, seed=seed, sampling="random", candidates=3))
        for seed in range(30)
    }

    assert {drawn_texts[0] for drawn_texts in drawn.values()} == {
        "answer 2",
        "answer 3",
    }  # 1 is too near, 4 not a candidate
    assert negatives(mined(pairs(5), *cosines, seed=3, sampling="random", candidates=3)) == drawn[3]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 25),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["hardest", "random"]),
    st.integers(0, 3),
)
def test_mine_never_breaks_its_rules(count: int, seed: int, sampling: str, skip_top: int) -> None:
    generator = np.random.default_rng(seed)
    rows = pairs(
        count,
        anchor=[f"Question {n}?" for n in generator.integers(0, count, count)],
        positive=[f"answer {n}" for n in generator.integers(0, count, count)],
        cluster=[f"cluster {n}" for n in generator.integers(0, count, count)],
    )
    queries, passages = (generator.normal(size=(count, 3)).astype(np.float32) for _ in range(2))
    text_vector = dict(zip(rows["positive"], passages, strict=True))
    passages = np.array([text_vector[text] for text in rows["positive"]])
    for vectors in (queries, passages):
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    text_vector = dict(zip(rows["positive"], passages, strict=True))
    config = HardNegativesConfig(candidates=7, skip_top=skip_top, sampling=sampling)

    result = mine(rows, queries, passages, config, seed)

    assert result.mined + result.kept + result.without == count

    answers: dict[str, set[str]] = {}
    for row in rows.to_dict("records"):
        answers.setdefault(normalized(row["anchor"]), set()).add(row["positive"])
    for query, positive, row in zip(queries, passages, result.rows.to_dict("records"), strict=True):
        if row["negative"] is None:
            continue
        near = float(query @ positive)
        assert float(query @ text_vector[row["negative"]]) <= near - 0.05 * abs(near) + 1e-6
        assert row["negative"] not in answers[normalized(row["anchor"])]
        assert row["cluster"] not in set(rows.loc[rows["positive"] == row["negative"], "cluster"])


def test_mine_gives_the_same_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(1)
    queries, passages = (generator.normal(size=(40, 8)).astype(np.float32) for _ in range(2))
    config = HardNegativesConfig(sampling="random", candidates=9)

    whole = mine(pairs(40), queries, passages, config, 5)

    monkeypatch.setattr(hard_negatives, "_SIMILARITIES_AT_ONCE", 3 * 40)
    assert negatives(mine(pairs(40), queries, passages, config, 5)) == negatives(whole)
    assert 0 < whole.mined < 40


def test_mine_of_no_rows_and_of_one() -> None:
    empty = mine(
        pairs(1).iloc[:0],
        np.zeros((0, 4), np.float32),
        np.zeros((0, 4), np.float32),
        HardNegativesConfig(),
        0,
    )

    assert (empty.mined, empty.passages, empty.to_dict()["similarity"]) == (0, 0, {})
    assert negatives(mined(pairs(1), 0.5)) == [None]
    assert negatives(mined(pairs(2).drop(columns="negative"), 0.9, 0.5)) == ["answer 1", None]


def test_mine_refuses_vectors_that_do_not_fit() -> None:
    two = np.ones((2, 4), np.float32)
    with pytest.raises(ValueError, match=r"must be \[3, dimensions\], got \(2, 4\) and \(2, 4\)"):
        mine(pairs(3), two, two, HardNegativesConfig(), 0)
    with pytest.raises(ValueError, match="rows must be pairs, got text"):
        mine(pairs(2).assign(shape="text"), two, two, HardNegativesConfig(), 0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_mine_refuses_a_vector_that_is_not_finite(value: float) -> None:
    broken = np.ones((3, 2), np.float32)
    broken[1, 0] = value
    message = "the vector of positive must be finite, got NaN or infinity for row_id 11 and 0 other rows. Turn off"
    with pytest.raises(SampleError, match=message):
        mine(pairs(3), np.ones((3, 2), np.float32), broken, HardNegativesConfig(), 0)
