import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tunetrail.config import FeatureEngineeringConfig
from tunetrail.data.feature_engineering.features import STATISTICS, engineer_features
from tunetrail.data.rows import rows_frame
from tunetrail.samples import Sample, SampleKind

CONFIG = FeatureEngineeringConfig()


def frame() -> pd.DataFrame:
    contents = [("one two", "three"), ("äöü", "x"), ("a b c", "d e f"), ("p", "q")]
    return rows_frame(
        (
            number,
            Sample(
                kind=SampleKind.LLM, shape="completion", content={"input": first, "output": second}
            ),
        )
        for number, (first, second) in enumerate(contents)
    )


def texts(*contents: str) -> pd.DataFrame:
    return rows_frame(
        (number, Sample(kind=SampleKind.EMBEDDING, shape="text", content={"text": text}))
        for number, text in enumerate(contents)
    )


def statistics(text: str) -> dict[str, Any]:
    rows = engineer_features(texts(text), np.array([1]), 8, CONFIG).rows
    return {name: rows[name].iloc[0] for name in STATISTICS}


def test_engineer_features_adds_statistics_of_all_texts() -> None:
    result = engineer_features(frame(), np.array([4, 9, 6, 2]), 8, CONFIG)
    assert result.rows["token_count"].tolist() == [4, 9, 6, 2]
    assert result.rows["characters"].tolist() == [12, 4, 10, 2]
    assert result.rows["words"].tolist() == [3, 2, 6, 2]
    wanted = {"0.0": 2.0, "0.25": 3.5, "0.5": 5.0, "0.75": 6.75, "0.95": 8.55, "1.0": 9.0}
    assert result.quantiles["token_count"] == pytest.approx(wanted)
    assert set(result.quantiles) == set(STATISTICS)
    assert [str(result.rows[name].dtype) for name in STATISTICS] == ["int64"] * 4 + ["float64"] * 3
    json.dumps(result.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", 3),
        ("No end", 1),
        ("Pi is 3.14 in version 1.2.3", 1),
        ('He said "stop!" Then he left...', 2),
        ("\u6211\u6765\u4e86\u3002\u4f60\u5462\uff1f\uff01", 2),
        ("Well\u2026 \u201cYes.\u201d", 2),
        ("Well?! Yes.", 2),
        ("", 0),
        (" \n", 0),
    ],
)
def test_engineer_features_counts_sentences(text: str, sentences: int) -> None:
    assert statistics(text)["sentences"] == sentences


def test_engineer_features_describes_words() -> None:
    found = statistics("The the 42 cats")
    assert (found["mean_word_length"], found["lexical_diversity"]) == (3.0, 0.75)
    assert found["digits_share"] == pytest.approx(2 / 15)
    empty = statistics("")
    assert [empty[name] for name in ("mean_word_length", "digits_share", "lexical_diversity")] == [
        0.0,
        0.0,
        0.0,
    ]


@pytest.mark.parametrize(
    "text", ["." * 1_000_000 + "x", "\x00" * 1_000_000, '."' * 500_000, "\ud800" * 10]
)
def test_engineer_features_takes_linear_time_on_any_text(text: str) -> None:
    assert statistics(text)["characters"] == len(text)


def test_engineer_features_counts_languages_where_rows_have_one() -> None:
    rows = texts("a", "b", "c", "d").assign(language=["en", "de", "en", None])
    assert engineer_features(rows, np.ones(4, dtype=np.int64), 8, CONFIG).to_dict()[
        "languages"
    ] == {"en": 2, "de": 1}
    assert engineer_features(texts("a"), np.array([1]), 8, CONFIG).to_dict()["languages"] == {}


def test_engineer_features_plans_the_packing_of_a_language_models_rows() -> None:
    found = engineer_features(frame(), np.array([4, 20, 4, 2]), 8, CONFIG).to_dict()["packing"]
    assert (found["packs"], found["tokens"], found["fill"], found["too_long"]) == (3, 18, 0.75, 0)
    assert engineer_features(texts("a"), np.array([1]), 8, CONFIG).to_dict()["packing"] is None
    preference = {"prompt": "a", "chosen": "b", "rejected": "c"}
    pairs = rows_frame([(1, Sample(kind=SampleKind.LLM, shape="preference", content=preference))])
    assert engineer_features(pairs, np.array([3]), 8, CONFIG).to_dict()["packing"] is None


@pytest.mark.parametrize(
    ("max_length", "truncated", "warned"), [(9, 0, False), (8, 1, True), (1, 4, True)]
)
def test_engineer_features_warns_of_truncated_rows(
    max_length: int, truncated: int, warned: bool
) -> None:
    result = engineer_features(frame(), np.array([4, 9, 6, 2]), max_length, CONFIG)
    assert (result.truncated, result.truncated_share) == (truncated, truncated / 4)
    assert bool(result.warnings) == warned


def test_engineer_features_keeps_quiet_below_the_share() -> None:
    config = FeatureEngineeringConfig(warn_truncated_share=0.5)
    assert engineer_features(frame(), np.array([4, 9, 6, 2]), 8, config).warnings == ()


@pytest.mark.parametrize(("rows", "counts"), [(frame(), [1, 2]), (frame().iloc[:0], [])])
def test_engineer_features_refuses_counts_that_do_not_fit(
    rows: pd.DataFrame, counts: list[int]
) -> None:
    with pytest.raises(ValueError, match="token_counts must hold one count for each row"):
        engineer_features(rows, np.array(counts, dtype=np.int64), 8, CONFIG)
