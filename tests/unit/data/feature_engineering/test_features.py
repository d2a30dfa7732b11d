import json

import numpy as np
import pandas as pd
import pytest

from tunetrail.config import FeatureEngineeringConfig
from tunetrail.data.feature_engineering.features import engineer_features
from tunetrail.data.rows import rows_frame
from tunetrail.samples import Sample, SampleKind

CONFIG = FeatureEngineeringConfig()


def frame() -> pd.DataFrame:
    contents = [("one two", "three"), ("äöü", "x"), ("a b c", "d e f"), ("p", "q")]
    return rows_frame(
        (
            row_id,
            Sample(
                kind=SampleKind.LLM, shape="completion", content={"input": first, "output": second}
            ),
        )
        for row_id, (first, second) in enumerate(contents)
    )


def test_engineer_features_adds_the_lengths_of_all_texts() -> None:
    result = engineer_features(frame(), np.array([4, 9, 6, 2]), 8, CONFIG)

    assert result.rows["token_count"].tolist() == [4, 9, 6, 2]
    assert result.rows["characters"].tolist() == [12, 4, 10, 2]
    expected = {"0.0": 2.0, "0.25": 3.5, "0.5": 5.0, "0.75": 6.75, "0.95": 8.55, "1.0": 9.0}
    assert result.quantiles["token_count"] == pytest.approx(expected)
    assert set(result.quantiles) == {"token_count", "characters"}
    assert result.rows[["token_count", "characters"]].dtypes.eq("int64").all()
    json.dumps(result.to_dict(), allow_nan=False)


@pytest.mark.parametrize("text", ["", "\x00" * 1_000_000, "\ud800" * 10])
def test_engineer_features_measures_any_text(text: str) -> None:
    sample = Sample(kind=SampleKind.EMBEDDING, shape="text", content={"text": text})

    rows = engineer_features(rows_frame([(1, sample)]), np.array([1]), 8, CONFIG).rows

    assert rows["characters"].tolist() == [len(text)]


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
