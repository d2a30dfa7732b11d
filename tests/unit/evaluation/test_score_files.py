from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pyarrow.lib import ArrowException

from tunetrail.evaluation.language_scores import language_scores
from tunetrail.evaluation.score_files import read_scores, write_scores
from tunetrail.evaluation.scores import Scores, scores_from


def ranked() -> Scores:
    values = {
        "ndcg_at_10": np.array([1.0, 1 / 3, 0.0]),
        "best_rank": np.array([1, 3, 17], dtype=np.int64),
        "top_wrong_row": np.array([None, 12, 13], dtype=object),
        "top_wrong_hash": np.array([None, None, None], dtype=object),
        "is_first": np.array([True, False, False]),
    }
    scores = scores_from(values, "ndcg_at_10")
    return replace(
        scores,
        row_ids=[3, 1, 2],
        clusters=["a", "b", "a"],
        documents=20,
        corpus="c",
        scored_rows=3,
        side_rows=4,
    )


@pytest.mark.parametrize(
    "scores", [ranked(), language_scores(np.array([1.0, 2.5]), np.array([1, 2]), np.array([3, 9]))]
)
def test_scores_come_back_with_every_value_and_its_type(scores: Scores, tmp_path: Path) -> None:
    write_scores(scores, tmp_path / "scores.parquet")
    back = read_scores(tmp_path / "scores.parquet")

    assert back.to_dict() == scores.to_dict()
    assert (back.row_ids, back.clusters) == (scores.row_ids, scores.clusters)
    assert list(back.per_example) == list(scores.per_example)
    for name, values in scores.per_example.items():
        assert back.per_example[name].dtype == values.dtype
        assert back.per_example[name].tolist() == values.tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]


def test_a_value_that_is_not_a_number_stays_one(tmp_path: Path) -> None:
    scores = ranked()
    scores.per_example["ndcg_at_10"][1] = np.nan
    write_scores(scores, tmp_path / "scores.parquet")
    back = read_scores(tmp_path / "scores.parquet")
    assert np.isnan(back.per_example["ndcg_at_10"]).tolist() == [False, True, False]


def test_a_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    write_scores(ranked(), path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ArrowException):
        read_scores(path)
