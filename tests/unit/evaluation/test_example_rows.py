import math
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tunetrail.errors import UserError
from tunetrail.evaluation.comparison import compare
from tunetrail.evaluation.example_rows import (
    CANDIDATE,
    FOLD,
    REFERENCE,
    ExampleRows,
    ScoredRun,
    example_table,
    join_tables,
    read_example_rows,
    write_example_rows,
)
from tunetrail.evaluation.language_scores import language_scores
from tunetrail.evaluation.ranking import retrieval_scores
from tunetrail.evaluation.scores import Scores, similarity_scores


def vectors(seed: int, rows: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 8))


def ranked(seed: int) -> Scores:
    return retrieval_scores(
        vectors(seed, 30), vectors(seed + 100, 60), [[row] for row in range(30)]
    )


def correlated(seed: int) -> Scores:
    gold = np.random.default_rng(0).normal(size=30)
    return similarity_scores(vectors(seed, 30), vectors(seed + 100, 30), gold)


def written(seed: int) -> Scores:
    drawn = np.random.default_rng(seed)
    return language_scores(drawn.uniform(1.0, 9.0, 30), np.arange(1, 31), np.arange(2, 32))


def identified(scores: Scores) -> Scores:
    records = [{"row_id": 7 * row, "cluster": f"c{row // 2}"} for row in range(30)]
    return scores.identified(records)


def details() -> pd.DataFrame:
    hashes = [f"hash {row}" for row in range(30)]
    sources = ["web"] * 10 + [None] * 20
    prices = np.where(np.arange(30) < 5, np.nan, 2.5)
    columns = {"text_hash": hashes, "source": sources, "price": prices, "tokens": np.arange(30)}
    return pd.DataFrame(columns, index=[7 * row for row in range(30)]).iloc[::-1]


def rows_of(after: Scores, before: Scores, **changes: object) -> ExampleRows:
    run = ScoredRun(
        model_type="embedding",
        shape="pair",
        metric=after.metric,
        against="models:/embedding/3",
        run_id="ab12",
        metrics=after.metrics,
        reference_metrics=before.metrics,
        documents=60,
        corpus="f00",
        own_columns=("source", "price"),
    )
    return ExampleRows(run=run, table=example_table(after, before, details(), **changes))


@pytest.mark.parametrize("score", [ranked, correlated, written])
def test_scores_of_a_file_equal_the_scores_that_were_written(score, tmp_path: Path) -> None:
    after, before = identified(score(1)), identified(score(2))
    path = tmp_path / "rows.parquet"

    write_example_rows(rows_of(after, before), path)
    rows = read_example_rows(path)

    for model, scores in ((CANDIDATE, after), (REFERENCE, before)):
        stored = rows.scores(model)
        assert stored.metric == scores.metric and stored.corpus == "f00" and stored.documents == 60
        assert stored.metrics == pytest.approx(scores.metrics, abs=1e-12, rel=0.0)
        assert (stored.row_ids, stored.clusters) == (scores.row_ids, scores.clusters)
    again = compare(
        rows.scores(REFERENCE), rows.scores(), bootstrap_samples=200, confidence=0.95, seed=1
    )
    assert again.examples == 30 and again.clusters == 15


def test_mean_of_the_column_is_the_metric(tmp_path: Path) -> None:
    after, before = identified(ranked(1)), identified(ranked(2))
    path = tmp_path / "rows.parquet"

    write_example_rows(rows_of(after, before), path)
    table = pd.read_parquet(path)

    for name in ("ndcg_at_10", "mrr_at_10", "recall_at_1"):
        assert table[name].mean() == pytest.approx(after.metrics[name], abs=1e-12, rel=0.0)
        reference_mean = table[f"reference_{name}"].mean()
        assert reference_mean == pytest.approx(before.metrics[name], abs=1e-12, rel=0.0)


def test_file_keeps_what_is_known_of_each_row(tmp_path: Path) -> None:
    rows = rows_of(identified(written(1)), identified(written(2)))
    path = tmp_path / "rows.parquet"

    write_example_rows(rows, path)
    stored = read_example_rows(path)

    pd.testing.assert_frame_equal(stored.table, rows.table)
    assert stored.run == rows.run
    assert stored.table["text_hash"].tolist() == [f"hash {row}" for row in range(30)]
    assert stored.table["source"].tolist() == ["web"] * 10 + [None] * 20
    assert math.isnan(stored.table["price"][0]) and stored.table["price"][5] == 2.5
    # The tokens that the metric counts, not those of the whole row.
    assert stored.table["tokens"].tolist() == list(range(1, 31))
    assert stored.table["fold"].isna().all() and set(stored.table["side"]) == {"test"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_rows_of_folds_are_scored_by_themselves() -> None:
    after, before = identified(ranked(1)), identified(ranked(2))
    rows = rows_of(after, before)
    folds = example_table(after, before, details(), side=FOLD, folds=[row % 3 for row in range(30)])
    folds = folds.drop(columns="source").assign(price=None)
    both = ExampleRows(run=rows.run, table=join_tables([rows.table, folds]))

    assert both.scores(CANDIDATE, FOLD).metrics == pytest.approx(after.metrics)
    assert both.scores(CANDIDATE, FOLD).corpus is None
    assert both.scores().examples == 30
    assert list(both.table) == list(rows.table) and len(both.table) == 60
    assert both.table["source"].tolist() == rows.table["source"].tolist() + [None] * 30
    assert both.table["fold"].tolist()[30:33] == [0, 1, 2] and both.table["fold"].isna().sum() == 30
    assert both.table["price"].dtype == "float64" and both.table["price"][30:].isna().all()
    with pytest.raises(
        UserError, match=r"side must be one that .* run ab12 have \(test\), got 'fold'"
    ):
        rows.scores(CANDIDATE, FOLD)


def test_scores_that_do_not_name_their_rows_have_no_details(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_example_rows(rows_of(ranked(1), ranked(2)), path)

    table = read_example_rows(path).table

    assert table[["row_id", "cluster", "text_hash", "source"]].isna().all(axis=None)
    assert read_example_rows(path).scores().clusters is None


def test_a_missing_value_stays_one(tmp_path: Path) -> None:
    after = identified(ranked(1))
    after.per_example["mrr_at_10"][3] = np.nan
    path = tmp_path / "rows.parquet"

    write_example_rows(rows_of(after, identified(ranked(2))), path)

    assert np.isnan(read_example_rows(path).table["mrr_at_10"][3])


@pytest.mark.parametrize("content", [b"", b"PAR1", None])
def test_another_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "rows.parquet"
    if content is None:
        pd.DataFrame({"a": [1]}).to_parquet(path)
    else:
        path.write_bytes(content)

    with pytest.raises(
        UserError, match=r"rows\.parquet must be the rows of an evaluation, got .*Train again"
    ):
        read_example_rows(path)
