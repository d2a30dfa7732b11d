import json
import random

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunetrail.config import SplitConfig
from tunetrail.data.rows import object_series, rows_frame
from tunetrail.data.sides import SIDES
from tunetrail.data.splits import Split, check_no_leak, make_folds, split_rows
from tunetrail.errors import ConfigError, SampleError
from tunetrail.samples import Sample, SampleKind

WORDS = [
    "".join(random.Random(index).choices("abcdefghijklmnop", k=4 + index % 5))
    for index in range(3000)
]


def frame(texts: list[str], groups: list[str | None] | None = None) -> pd.DataFrame:
    groups = groups or [None] * len(texts)
    return rows_frame(
        (
            row_id,
            Sample(kind=SampleKind.EMBEDDING, shape="text", content={"text": text}, group=group),
        )
        for row_id, (text, group) in enumerate(zip(texts, groups, strict=True))
    )


def varied(seed: int, count: int, words: int = 20) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=words)) for _ in range(count)]


def sides(split: Split) -> dict[int, str]:
    return {row_id: side for side in SIDES for row_id in getattr(split, side)["row_id"]}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 60), st.integers(0, 20))
def test_split_rows_keeps_planted_twins_and_groups_on_one_side(
    seed: int, count: int, grouped: int
) -> None:
    texts = varied(seed, count)
    exact, near = [text.upper() + "!" for text in texts], [f"{text} indeed" for text in texts]
    groups = [f"g{index}" if index < min(grouped, count - 3) else None for index in range(count)]
    strangers = varied(seed + 1, count)
    rows = frame(texts + exact + near + strangers, [*groups, *[None] * (2 * count), *groups])

    split = split_rows(rows, SplitConfig())

    side = sides(split)
    for index in range(count):
        assert side[index] == side[count + index] == side[2 * count + index]
        assert groups[index] is None or side[index] == side[3 * count + index]

    everything = pd.concat([split.train, split.validation, split.test])
    assert sorted(everything["row_id"]) == rows["row_id"].tolist()

    fold_of = {}
    for fold in (
        make_folds(split.train, min(3, split.train["cluster"].nunique()), seed)
        if len(split.train) > 8
        else []
    ):
        fold_of.update(dict.fromkeys(fold.validation["row_id"], fold.number))

    for index in range(count):
        assert fold_of.get(index) == fold_of.get(count + index) == fold_of.get(2 * count + index)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(60, 90), st.integers(0, 60))
def test_split_rows_keeps_the_side_of_rows_when_the_session_grows(
    seed: int, count: int, more: int
) -> None:
    texts = varied(seed, count)
    added = varied(seed + 1, more) + [f"{text} indeed" for text in texts[: more // 2]]

    before, after = (
        sides(split_rows(frame(texts), SplitConfig())),
        sides(split_rows(frame(texts + added), SplitConfig())),
    )

    assert {row_id: after[row_id] for row_id in before} == before


def test_split_rows_reaches_the_shares_and_hears_only_the_salt() -> None:
    rows = frame(varied(0, 2000))
    split = split_rows(rows, SplitConfig(test_share=0.2, validation_share=0.1))

    assert 0.17 < len(split.test) / 2000 < 0.23 and 0.08 < len(split.validation) / 2000 < 0.12
    assert sides(split) == sides(
        split_rows(rows, SplitConfig(test_share=0.2, validation_share=0.1))
    )
    assert sides(split) != sides(
        split_rows(rows, SplitConfig(test_share=0.2, validation_share=0.1, salt="other"))
    )
    assert split.warnings == ()
    assert json.loads(json.dumps(split.to_dict()))["rows"]["test"] == len(split.test)


def test_split_rows_nests_a_larger_test_share() -> None:
    rows = frame(varied(0, 500))
    small = split_rows(rows, SplitConfig(test_share=0.1))
    large = split_rows(rows, SplitConfig(test_share=0.3))
    assert set(small.test["row_id"]) <= set(large.test["row_id"])


@pytest.mark.parametrize("count", [3, 4, 5, 10])
@pytest.mark.parametrize("share", [0.001, 0.15, 0.49])
def test_split_rows_leaves_no_side_empty(count: int, share: float) -> None:
    for seed in range(10):
        split = split_rows(
            frame(varied(seed, count)), SplitConfig(test_share=share, validation_share=share)
        )
        assert min(len(split.train), len(split.validation), len(split.test)) >= 1
        assert split.train.index.equals(pd.RangeIndex(len(split.train)))


def test_split_rows_learns_a_group_that_would_outweigh_a_held_out_side() -> None:
    rows = frame(varied(0, 300), ["one"] * 150 + [None] * 150)
    for salt in range(12):
        split = split_rows(rows, SplitConfig(salt=str(salt)))
        assert set(range(150)) <= set(split.train["row_id"])
        assert len(split.validation) > 20 and len(split.test) > 20


def test_split_rows_leaves_every_test_row_scorable_with_three_rows_a_label() -> None:
    texts = varied(3, 240)
    rows = frame(texts).assign(label=object_series([f"label {row % 80}" for row in range(240)]))

    split = split_rows(rows, SplitConfig())

    # 76 test rows, of which 6 could be scored, were 32 % of such rows.
    assert 0.13 < len(split.test) / 240 < 0.18
    assert set(split.test["label"]) <= set(split.train["label"])


@pytest.mark.parametrize("groups", [["g"] * 9, ["g"] * 5 + ["h"] * 4])
def test_split_rows_refuses_fewer_than_three_clusters(groups: list[str | None]) -> None:
    with pytest.raises(
        SampleError,
        match=r"at least 3 clusters of near-duplicates to be split, got [12] from 9 rows. Collect more",
    ):
        split_rows(frame(varied(0, 9), groups), SplitConfig())


def test_check_no_leak_raises_on_a_shared_cluster() -> None:
    rows = frame(["a", "b"]).assign(cluster=object_series(["k1", "k2"]))
    check_no_leak({"train": rows.iloc[:1], "test": rows.iloc[1:]})

    with pytest.raises(
        SampleError, match="clusters must be in one split only, got 1 both in train and in test"
    ):
        check_no_leak({"train": rows, "test": rows.iloc[1:]})


@pytest.mark.parametrize("n_splits", [2, 3, 7])
def test_make_folds_hold_out_every_row_once_in_balanced_folds(n_splits: int) -> None:
    train = split_rows(frame(varied(0, 200)), SplitConfig()).train
    folds = make_folds(train, n_splits, seed=1)

    assert [fold.number for fold in folds] == list(range(n_splits))

    held_out = pd.concat([fold.validation for fold in folds])["row_id"]
    assert sorted(held_out) == sorted(train["row_id"])

    sizes = [len(fold.validation) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    assert all(len(fold.train) + len(fold.validation) == len(train) for fold in folds)


def test_make_folds_follow_the_seed() -> None:
    train = split_rows(frame(varied(0, 100)), SplitConfig()).train
    first, again, of_another_seed = (
        make_folds(train, 4, seed)[0].validation["row_id"].tolist() for seed in (1, 1, 2)
    )
    assert first == again != of_another_seed


def test_make_folds_never_score_augmented_rows_nor_train_on_those_of_a_held_out_parent() -> None:
    train = frame(list("abcd")).assign(cluster=object_series(list("wxyz")))
    added = train.assign(row_id=-1 - train["row_id"], parent_id=train["row_id"])

    rows = pd.concat([train.assign(parent_id=pd.NA), added], ignore_index=True)

    for fold in make_folds(rows, 2, seed=0):
        assert (fold.validation["row_id"] >= 0).all()
        assert not set(fold.train["parent_id"].dropna()) & set(fold.validation["row_id"])
        assert len(fold.train) == 4


def test_make_folds_of_zero_splits_are_none() -> None:
    assert make_folds(frame(["a"]).assign(cluster="k"), 0, seed=0) == []


@pytest.mark.parametrize(
    ("clusters", "n_splits", "message"),
    [
        ("abc", 4, "cross_validation.n_splits must be at most 3, the number of clusters, .*got 4"),
        ("aaa", 2, r"cross_validation.n_splits must be 0 \(off\) for these 3 rows, got 2"),
        ("abc", 1, "cross_validation.n_splits must be at least 2, got 1"),
        ("abc", -1, "cross_validation.n_splits must be at least 2, got -1"),
    ],
)
def test_make_folds_refuse_impossible_numbers(clusters: str, n_splits: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_folds(
            frame(list("xyz")).assign(cluster=object_series(list(clusters))), n_splits, seed=0
        )
