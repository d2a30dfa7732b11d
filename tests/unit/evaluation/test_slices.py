import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tunetrail.errors import UserError
from tunetrail.evaluation.language_scores import language_scores
from tunetrail.evaluation.scores import Scores, scores_from, similarity_scores
from tunetrail.evaluation.slices import (
    COLUMNS,
    attributes_of,
    embedding_clusters,
    score_slices,
    weakest_first,
)

ROWS = 300


def ranked(values: np.ndarray, clusters: list[str] | None = None) -> Scores:
    scores = scores_from({"ndcg_at_10": np.asarray(values, dtype=np.float64)}, "ndcg_at_10")
    records = [{"cluster": cluster} for cluster in clusters or []]
    return scores.identified(records) if clusters else scores


def drawn_attributes(generator: np.random.Generator) -> pd.DataFrame:
    """Four sources of which one has 20 % of the rows, six labels, two languages, and lengths."""
    table = pd.DataFrame(
        {
            "source": generator.choice(list("wxyz"), ROWS, p=[0.2, 0.3, 0.3, 0.2]),
            "label": generator.choice(list("abcdef"), ROWS),
            "language": generator.choice(["en", "de"], ROWS),
            "characters": generator.integers(10, 500, ROWS),
        }
    )
    return attributes_of(table, ("source",))


def drawn_scores(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Values as of nDCG, many of them 1, and a newer model that is a little better."""
    before = np.where(generator.uniform(size=ROWS) < 0.4, 1.0, generator.uniform(size=ROWS))
    changed = generator.uniform(size=ROWS) < 0.3
    after = np.where(changed, before + generator.normal(0.03, 0.15, ROWS), before)
    return before, np.clip(after, 0.0, 1.0)


@pytest.mark.processes  # 15 seconds
def test_a_damaged_source_ranks_first_in_95_of_100_seeds() -> None:
    lost, weak = 0, 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        attributes = drawn_attributes(generator)
        before, after = drawn_scores(generator)
        is_damaged = (attributes["source"] == "w").to_numpy()

        # Of a regression, the older model knows nothing; broken rows are bad for both.
        regressed = np.where(is_damaged, after * 0.7, after)
        slices = score_slices(
            ranked(before), ranked(regressed), attributes, confidence=0.95, seed=seed
        )
        lost += slices.loc[0, ["attribute", "value"]].tolist() == ["source", "w"]

        broken = [np.where(is_damaged, values * 0.5, values) for values in (before, after)]
        slices = score_slices(*map(ranked, broken), attributes, confidence=0.95, seed=seed)
        first = weakest_first(slices).loc[0, ["attribute", "value"]].tolist()
        weak += first == ["source", "w"]

    assert lost >= 95 and weak >= 95


@pytest.mark.processes  # 8 seconds
def test_corrected_intervals_hold_for_all_slices_at_once() -> None:
    corrected, alone = 0, 0
    for seed in range(100):
        generator = np.random.default_rng(1000 + seed)
        before = generator.uniform(size=ROWS)
        # No slice differs from another: the true improvement is 0.
        after = before + generator.normal(0.0, 0.2, ROWS)
        slices = score_slices(
            ranked(before), ranked(after), drawn_attributes(generator), confidence=0.95, seed=seed
        )
        misses = (slices["corrected_lower"] > 0.0) | (slices["corrected_upper"] < 0.0)
        corrected += bool(misses.any())
        alone += bool(((slices["lower"] > 0.0) | (slices["upper"] < 0.0)).any())

    # Of 100 searches, 5 are expected; without the correction, most would name a slice.
    assert corrected <= 11
    assert alone > 3 * corrected


def test_slices_tell_the_means_of_their_rows() -> None:
    generator = np.random.default_rng(0)
    before, after = drawn_scores(generator)
    source = np.array(["a", "b"], dtype=object)[np.arange(ROWS) % 2]

    slices = score_slices(
        ranked(before),
        ranked(after),
        pd.DataFrame({"source": source}),
        confidence=0.95,
        seed=1,
    )

    assert list(slices.columns) == list(COLUMNS) and len(slices) == 2
    line = slices[slices["value"] == "a"].iloc[0]
    assert (line["rows"], line["clusters"]) == (150, 150)
    assert line["before"] == pytest.approx(before[::2].mean())
    assert line["after"] == pytest.approx(after[::2].mean())
    assert line["improvement"] == pytest.approx(line["after"] - line["before"])
    assert line["gap"] == pytest.approx(after[::2].mean() - after.mean())
    assert line["corrected_lower"] < line["lower"] < line["improvement"]
    assert line["improvement"] < line["upper"] < line["corrected_upper"]


@pytest.mark.parametrize("kind", ["language model", "correlation"])
def test_slices_of_metrics_that_are_no_mean(kind: str) -> None:
    generator = np.random.default_rng(3)
    is_damaged = np.arange(ROWS) < 60
    attributes = pd.DataFrame({"source": np.where(is_damaged, "bad", "good").astype(object)})
    if kind == "language model":
        sizes = generator.integers(5, 50, ROWS)
        nats = generator.uniform(1.0, 2.0, ROWS) * sizes
        before = language_scores(nats, sizes, sizes)
        after = language_scores(np.where(is_damaged, 1.2, 0.95) * nats, sizes, sizes)
    else:
        vectors = generator.normal(size=(ROWS, 8))
        noise = generator.normal(size=(2, ROWS, 8))
        near = vectors + 0.2 * noise[0]
        gold = (vectors * near).sum(axis=1) / np.linalg.norm(near, axis=1)
        gold /= np.linalg.norm(vectors, axis=1)
        before = similarity_scores(vectors, near, gold)
        worse = np.where(is_damaged[:, np.newaxis], near + noise[1], near)
        after = similarity_scores(vectors, worse, gold)

    slices = score_slices(before, after, attributes, confidence=0.95, seed=1)

    first = slices.iloc[0]
    assert first["value"] == "bad" and first["corrected_upper"] < 0.0
    rows = np.flatnonzero(is_damaged)
    assert first["before"] == pytest.approx(before.statistic(rows))
    assert first["after"] == pytest.approx(after.statistic(rows))


def test_a_slice_needs_20_clusters_and_must_leave_rows_out() -> None:
    generator = np.random.default_rng(0)
    before, after = drawn_scores(generator)
    # 60 rows of one value in 19 clusters, 240 of another in 240, and a value of all rows.
    clusters = [f"c{row % 19}" for row in range(60)] + [f"d{row}" for row in range(240)]
    value = np.where(np.arange(ROWS) < 60, "few", "many").astype(object)
    attributes = pd.DataFrame({"source": value, "language": np.full(ROWS, "en", dtype=object)})

    slices = score_slices(
        ranked(before, clusters), ranked(after, clusters), attributes, confidence=0.95, seed=1
    )

    assert slices[["attribute", "value"]].to_numpy().tolist() == [["source", "many"]]


def test_rows_of_one_cluster_are_no_further_evidence() -> None:
    generator = np.random.default_rng(0)
    before, after = drawn_scores(generator)
    source = np.array(["a", "b"], dtype=object)[np.arange(ROWS) % 2]
    attributes = pd.DataFrame({"source": source})
    copies = [f"c{row:03}" for row in range(ROWS)] * 2

    once = score_slices(ranked(before), ranked(after), attributes, confidence=0.95, seed=1)
    twice = score_slices(
        ranked(np.tile(before, 2), copies),
        ranked(np.tile(after, 2), copies),
        pd.concat([attributes] * 2, ignore_index=True),
        confidence=0.95,
        seed=1,
    )

    assert twice["rows"].tolist() == [300, 300] and twice["clusters"].tolist() == [150, 150]
    for column in ("lower", "upper", "corrected_lower", "gap_upper"):
        assert twice[column].to_numpy() == pytest.approx(once[column].to_numpy())


@pytest.mark.parametrize("rows", [1, 39])
def test_few_rows_have_no_slices(rows: int) -> None:
    values = ranked(np.linspace(0.1, 0.9, rows))
    attributes = pd.DataFrame({"source": np.array(["a", "b"] * rows, dtype=object)[:rows]})
    slices = score_slices(values, values, attributes, confidence=0.95, seed=1)
    assert slices.empty or slices["corrected_upper"].isna().all()
    assert weakest_first(slices[:0]).empty


@pytest.mark.parametrize("value", [None, 0.5])
def test_models_that_tie_everywhere_get_no_interval(value: float | None) -> None:
    drawn = np.random.default_rng(0).uniform(size=ROWS)
    values = ranked(np.full(ROWS, value) if value else drawn)
    attributes = pd.DataFrame(
        {"source": np.array(["a", "b", "b"], dtype=object)[np.arange(ROWS) % 3]}
    )

    slices = score_slices(values, values, attributes, confidence=0.95, seed=1)

    assert (slices["improvement"] == 0.0).all()
    bounds = ["lower", "upper", "corrected_lower", "corrected_upper"]
    assert slices[bounds].isna().all(axis=None)
    # Equal rows have no spread, so no bounds of the gap either.
    assert slices["gap_lower"].isna().all() == (value is not None)


def test_values_that_are_not_finite_are_refused() -> None:
    values = np.linspace(0.0, 1.0, ROWS)
    broken = np.where(np.arange(ROWS) < 2, np.nan, values)
    attributes = pd.DataFrame({"source": np.full(ROWS, "a", dtype=object)})
    with pytest.raises(UserError, match=r"ndcg_at_10 must be finite for every row, got 2 of 300"):
        score_slices(ranked(values), ranked(broken), attributes, confidence=0.95, seed=1)


def test_attributes_divide_numbers_by_quarters_and_keep_what_is_unknown() -> None:
    table = pd.DataFrame(
        {
            "characters": pd.array(range(100), dtype="Int64"),
            "language": pd.Series(["en", None] * 50, dtype=object),
            "stars": [1.0, 2.0, float("nan"), 2.0] * 25,
            "price": np.append(np.linspace(0.0, 1000.5, 99), np.nan),
            "ndcg_at_10": np.linspace(0.0, 1.0, 100),
        }
    )

    attributes = attributes_of(table, ("stars", "price"))

    assert list(attributes) == ["characters", "language", "stars", "price"]
    assert attributes["price"].tolist()[::33] == ["0 to 245", "255 to 500", "510 to 745", None]
    lengths = attributes["characters"].value_counts(sort=False).to_dict()
    assert lengths == {"0 to 24": 25, "25 to 49": 25, "50 to 74": 25, "75 to 99": 25}
    assert attributes["language"].tolist()[:2] == ["en", None]
    assert attributes["stars"].tolist()[:4] == ["1", "2", None, "2"]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([511.0, np.nan, 1_000_000.0], ["511", None, "1000000"]),
        (pd.array([511, None, 384], "Int64"), ["511", None, "384"]),
        ([0.5, 2.0, np.nan], ["0.5", "2", None]),
        (["4.0", "a", None], ["4.0", "a", None]),
    ],
)
def test_whole_numbers_have_no_decimals_next_to_gaps(values: Any, texts: list[str | None]) -> None:
    table = pd.DataFrame({"embedding_cluster": values, "stars": values})

    attributes = attributes_of(table, ("stars",))

    assert attributes["embedding_cluster"].tolist() == texts
    assert attributes["stars"].tolist() == texts


def test_embedding_clusters_are_called_after_a_row_in_their_middle() -> None:
    generator = np.random.default_rng(0)
    centres = np.eye(4)[np.arange(80) % 2]
    vectors = centres + generator.normal(0.0, 0.05, (80, 4))
    row_ids = list(range(1000, 1080))

    clusters = embedding_clusters(vectors, row_ids, seed=1)
    again = embedding_clusters(vectors, row_ids, seed=1)

    assert clusters is not None and again is not None
    assert clusters.tolist() == again.tolist()
    assert len(set(clusters[::2])) == len(set(clusters[1::2])) == 1
    # Each middle row is in its own cluster.
    assert clusters[clusters[0] - 1000] == clusters[0] != clusters[1]


def test_embedding_clusters_of_few_or_equal_rows() -> None:
    assert embedding_clusters(np.eye(79), list(range(79)), seed=1) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        equal = embedding_clusters(np.ones((80, 4)), list(range(80)), seed=1)
    assert equal is not None and len(set(equal.tolist())) == 1
