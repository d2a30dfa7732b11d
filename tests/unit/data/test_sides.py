import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunetrail.config import SplitConfig
from tunetrail.data.sides import SIDES, Sides, assign_sides


def uniform(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def content_sides(
    clusters: Sequence[str], labels: Sequence[str] | None = None, **shares: float
) -> Sides:
    return assign_sides(
        clusters, SplitConfig(**shares), timestamps=[None] * len(clusters), labels=labels
    )


def percent(assigned: Sides) -> list[float]:
    return [float(100.0 * (assigned.sides == side).mean()) for side in SIDES]


def drawn_percent(rows_of: Mapping[str, int]) -> list[float]:
    """The shares of the sides if every cluster, however large, follows its own draw."""
    rows: Counter[str] = Counter()
    for cluster, size in rows_of.items():
        draw = uniform("tunetrail" + cluster)
        rows["test" if draw < 0.15 else "validation" if draw < 0.3 else "train"] += size
    return [100.0 * rows[side] / rows.total() for side in SIDES]


def debian_clusters() -> dict[str, int]:
    """Rows by cluster as in 44,553 pairs from Debian: 13,986 clusters, one with 12,256 rows."""
    generator = np.random.default_rng(5)
    sizes = 1 + generator.geometric(0.47, size=13_983) - 1
    rows_of = {f"{index:05d}": int(size) for index, size in enumerate(sizes)}
    # Its own draw puts the largest one into the validation split, as it happened there.
    largest = next(f"g{name}" for name in range(100) if 0.15 <= uniform(f"tunetrailg{name}") < 0.3)
    return {**rows_of, largest: 12_256, "second": 1_100, "third": 560}


def in_rows(rows_of: Mapping[str, int]) -> list[str]:
    clusters = np.repeat(list(rows_of), list(rows_of.values()))
    return np.random.default_rng(0).permutation(clusters).tolist()


def test_clusters_above_one_percent_are_learnt_and_the_sides_get_their_shares() -> None:
    rows_of = debian_clusters()
    clusters = in_rows(rows_of)

    assigned = content_sides(clusters)

    train, validation, _ = drawn_percent(rows_of)
    assert train < 55.0 and validation > 35.0, "the draws alone must miss the shares"
    assert percent(assigned) == pytest.approx([70.0, 15.0, 15.0], abs=1.0)

    side_of = dict(zip(clusters, assigned.sides.tolist(), strict=True))
    large = [cluster for cluster, rows in rows_of.items() if rows > 0.01 * len(clusters)]
    assert len(large) == 3 and {side_of[cluster] for cluster in large} == {"train"}
    assert assigned.warnings == (
        f"the largest 3 clusters of near-duplicates have 13916 of {len(clusters)} rows, which are "
        "all learnt from and never scored. If they differ in what matters, give them finer groups.",
    )


def test_without_large_clusters_every_cluster_follows_its_draw() -> None:
    rows_of = {f"{index:05d}": 1 + index % 7 for index in range(2_000)}
    assert percent(content_sides(in_rows(rows_of))) == pytest.approx(drawn_percent(rows_of))


@pytest.mark.parametrize("groups", [40, 50, 70])
def test_a_session_of_equal_groups_is_drawn_from_them(groups: int) -> None:
    rows_of = {f"group {index}": 100 for index in range(groups)}
    assigned = content_sides(in_rows(rows_of))

    assert percent(assigned) == pytest.approx(drawn_percent(rows_of))
    assert not any("largest" in warning for warning in assigned.warnings)


@pytest.mark.parametrize("size", [150, 450, 5_000])
def test_next_to_one_giant_cluster_the_train_side_keeps_varied_rows(size: int) -> None:
    rows_of = {**{f"{index:05d}": 1 for index in range(500)}, "giant": size}
    clusters = in_rows(rows_of)

    sides = content_sides(clusters).sides

    of_small = sides[np.array(clusters) != "giant"]
    assert set(sides[np.array(clusters) == "giant"]) == {"train"}
    assert (of_small == "train").mean() > 0.3 and (of_small == "test").mean() > 0.14


def test_few_rows_a_label_overfill_no_held_out_side_and_each_test_label_is_learnt() -> None:
    # The audit's session: a third row of each label on a held-out side made 32 % test rows.
    labels = [f"label {row % 80}" for row in range(240)]
    clusters = [f"{row:04d}" for row in range(240)]

    assigned = content_sides(clusters, labels)

    train, validation, test = percent(assigned)
    assert train > 65.0 and 13.0 < validation < 18.0 and 13.0 < test < 18.0
    by_side = {
        side: {label for label, at in zip(labels, assigned.sides, strict=True) if at == side}
        for side in SIDES
    }
    assert by_side["train"] == set(labels)
    assert len(by_side["test"]) >= 25


def test_twenty_rows_a_label_are_on_all_sides_in_their_shares() -> None:
    labels = [f"label {row % 150}" for row in range(3_000)]
    clusters = [f"{row:04d}" for row in range(3_000)]

    assigned = content_sides(clusters, labels)

    assert percent(assigned) == pytest.approx([70.0, 15.0, 15.0], abs=1.5)
    for side in SIDES:
        at_side = {label for label, at in zip(labels, assigned.sides, strict=True) if at == side}
        assert len(at_side) >= 140
    assert assigned.warnings == ()


def test_labels_of_one_row_each_still_leave_no_side_empty() -> None:
    for count in (3, 10, 50):
        clusters = [str(row) for row in range(count)]
        assigned = content_sides(clusters, clusters)
        assert set(assigned.sides) == set(SIDES)


def test_a_warning_names_labels_only_if_they_moved_the_rows() -> None:
    clusters = [f"{row:04d}" for row in range(600)]
    labels = [f"label {row // 2}" if row < 600 else None for row in range(600)]
    labels[200:] = [f"only {row}" for row in range(400)]

    warnings = content_sides(clusters, labels).warnings

    assert len(warnings) == 3
    assert all("labels have only 1.2 different rows on average" in line for line in warnings)


def test_a_warning_names_the_cluster_that_outweighs_its_side() -> None:
    rows_of = {**{f"{index:05d}": 1 for index in range(100)}, "giant": 900}

    large, *warnings = content_sides(in_rows(rows_of)).warnings

    assert large.startswith("the largest cluster of near-duplicates has 900 of 1000 rows")
    assert len(warnings) == 3
    assert all(
        "one cluster of near-duplicates has 900 rows, all in the train split" in line
        for line in warnings
    )


def test_a_warning_names_the_fewness_of_clusters() -> None:
    warnings: list[str] = []
    for names in range(20):
        rows_of = {f"{names} {index}": 3 for index in range(100)}
        rows_of |= {f"group {names} {index}": 40 for index in range(25)}
        warnings += content_sides(in_rows(rows_of)).warnings

    assert any("form only 125 clusters of near-duplicates" in line for line in warnings)
    assert not any("labels" in line for line in warnings)


def test_large_clusters_of_a_labelled_session_stay_in_the_train_split() -> None:
    clusters = [*["giant"] * 60, *map(str, range(340))]
    labels = [*["a"] * 60, *(("b", "c", "a")[row % 3] for row in range(340))]

    sides = content_sides(clusters, labels).sides

    assert set(sides[:60]) == {"train"}
    assert set(sides[60:]) == set(SIDES)


def test_assign_sides_by_time_needs_time_in_proportion_to_the_rows():
    clusters = [f"{index:06d}" for index in range(100_000)]
    timestamps = [f"2026-01-{1 + index // 4000:02d}T00:00:00+00:00" for index in range(100_000)]
    assigned = assign_sides(clusters, SplitConfig(), timestamps=timestamps)
    assert assigned.method == "time"
    assert [int((assigned.sides == side).sum()) for side in SIDES] == [70_000, 15_000, 15_000]


def sides_as_rows_come(
    labels: list[str], timestamps: list[str | None], salt: str
) -> list[dict[str, str]]:
    """The side of each cluster, after each row from the third on; every row is a cluster of its own."""
    clusters = [f"{index:04d}" for index in range(len(labels))]
    config = SplitConfig(salt=salt, validation_share=0.2, test_share=0.2)
    assignments = []
    for count in range(6, len(labels) + 1):
        assigned = assign_sides(
            clusters[:count], config, timestamps=timestamps[:count], labels=labels[:count]
        )
        assignments.append(dict(zip(clusters, assigned.sides.tolist(), strict=False)))
    return assignments


@given(labels=st.lists(st.sampled_from("abc"), min_size=30, max_size=60), salt=st.text(max_size=3))
def test_a_row_that_was_trained_on_never_becomes_a_test_row_as_labels_come_in(
    labels: list[str], salt: str
) -> None:
    steps = sides_as_rows_come(labels, [None] * len(labels), salt)

    # Among fewer rows, a side that no cluster falls to borrows one, and gives it back later.
    trained: set[str] = set()
    for sides in steps[15:]:
        assert not trained & {cluster for cluster, side in sides.items() if side == "test"}
        trained |= {cluster for cluster, side in sides.items() if side == "train"}


@given(known=st.lists(st.booleans(), min_size=30, max_size=60))
def test_rows_move_towards_the_train_split_as_newer_ones_come_in(known: list[bool]) -> None:
    moments = [f"2026-01-01T00:{index:02d}:00+00:00" for index in range(len(known))]
    times = [
        moment if is_known else None
        for moment, is_known in zip(moments, [True, *known[1:]], strict=True)
    ]
    order = {"test": 0, "validation": 1, "train": 2}
    last: dict[str, int] = {}
    for sides in sides_as_rows_come(["l"] * len(times), times, "s"):
        for cluster, side in sides.items():
            assert order[side] >= last.get(cluster, 0)
            last[cluster] = order[side]


def test_one_row_without_a_timestamp_changes_no_method() -> None:
    clusters = [str(index) for index in range(20)]
    times: list[str | None] = [f"2026-01-{index + 1:02d}T00:00:00+00:00" for index in range(20)]
    by_time = assign_sides(clusters, SplitConfig(), timestamps=times)

    with_gap = assign_sides(clusters, SplitConfig(), timestamps=[*times[:9], None, *times[10:]])

    assert (
        by_time.method == with_gap.method == "time"
        and by_time.sides.tolist() == with_gap.sides.tolist()
    )
    assert assign_sides(clusters, SplitConfig(), timestamps=[None, *times[1:]]).method == "content"


def test_a_time_without_a_zone_is_utc() -> None:
    times = [
        "0001-01-01T00:00:00",
        "2026-01-01T00:00:00",
        "2026-01-01T00:00:00+02:00",
        "2026-01-02T00:00:00",
    ]

    assigned = assign_sides(list("abcd"), SplitConfig(), timestamps=times)

    assert assigned.sides.tolist() == ["train", "validation", "train", "test"]
