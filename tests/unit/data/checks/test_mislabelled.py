import numpy as np
import numpy.typing as npt
import pytest

from tunetrail.data.checks.mislabelled import mislabelled

Vectors = npt.NDArray[np.float32]


def classes(rows: int, labels: int, noise: float, seed: int) -> tuple[Vectors, list[str]]:
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(labels, 48))
    label_ids = generator.integers(labels, size=rows)
    vectors = centres[label_ids] + noise * generator.normal(size=(rows, 48))
    return vectors.astype(np.float32), [f"label_{label_id}" for label_id in label_ids]


def flipped(labels: list[str], share: float, seed: int) -> tuple[list[str], npt.NDArray[np.bool_]]:
    generator = np.random.default_rng(seed)
    names = sorted(set(labels))
    wrong = generator.random(len(labels)) < share
    wrong_labels = [
        str(generator.choice([name for name in names if name != label])) for label in labels
    ]
    return [
        new if flip else label for label, new, flip in zip(labels, wrong_labels, wrong, strict=True)
    ], wrong


@pytest.mark.parametrize("labels", [2, 10, 20])
def test_mislabelled_finds_flips_among_separable_labels(labels: int) -> None:
    vectors, right = classes(1000, labels, 0.35, seed=labels)
    given_labels, wrong = flipped(right, 0.05, seed=1)

    result = mislabelled(vectors, given_labels, seed=0)

    hits = result.flagged & wrong
    assert hits.sum() >= 0.95 * result.flagged.sum()
    assert hits.sum() >= 0.95 * wrong.sum()
    assert all(result.suggested[row] == right[row] for row in np.flatnonzero(hits))
    assert all(result.suggested[row] is None for row in np.flatnonzero(~result.flagged))


def test_mislabelled_stays_precise_where_labels_overlap() -> None:
    vectors, right = classes(1000, 10, 1.0, seed=3)
    given_labels, wrong = flipped(right, 0.05, seed=4)
    result = mislabelled(vectors, given_labels, seed=0)
    assert result.flagged.sum() >= 0.5 * wrong.sum()
    assert (result.flagged & wrong).sum() >= 0.95 * result.flagged.sum()


def test_mislabelled_flags_nothing_where_labels_are_right() -> None:
    vectors, right = classes(600, 8, 0.35, seed=5)
    assert not mislabelled(vectors, right, seed=0).flagged.any()


def test_mislabelled_leaves_rare_and_missing_labels_alone() -> None:
    vectors, right = classes(200, 3, 0.35, seed=6)
    labels: list[str | None] = [*right[:190], *["rare"] * 4, *[None] * 6]

    result = mislabelled(vectors, labels, seed=0)

    assert not result.flagged[190:].any()
    assert result.self_confidence[190:].tolist() == [1.0] * 10
    assert "rare" not in result.suggested


def test_mislabelled_keeps_a_group_in_one_fold() -> None:
    vectors, right = classes(300, 4, 0.35, seed=7)
    # six copies of one wrong row vouch for one another unless they are one group
    vectors[:6], right[:6] = vectors[0], ["label_1" if right[0] == "label_0" else "label_0"] * 6
    groups = ["twins"] * 6 + list(range(6, 300))
    assert mislabelled(vectors, right, groups=groups, seed=0).flagged[:6].all()


def test_mislabelled_does_not_judge_a_label_that_is_one_group() -> None:
    vectors, right = classes(120, 3, 0.35, seed=8)
    right[:10] = ["alone"] * 10
    result = mislabelled(vectors, right, groups=["one"] * 10 + list(range(10, 120)), seed=0)
    assert result.self_confidence[:10].tolist() == [1.0] * 10
    assert not result.flagged[:10].any()


def test_mislabelled_repeats_itself_for_a_seed() -> None:
    vectors, right = classes(200, 5, 1.0, seed=9)
    first, second = (mislabelled(vectors, right, seed=2) for _ in range(2))
    assert first.self_confidence.tolist() == second.self_confidence.tolist()
    assert first.suggested == second.suggested


@pytest.mark.parametrize(
    "labels",
    [
        [],
        ["a"],
        ["a", "b"],
        ["a"] * 30,
        ["a"] * 4 + ["b"] * 4,
        ["a"] * 5 + ["b"] * 5,
        ["a", "b"] * 20,
    ],
)
@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("grouped", [False, True])
def test_mislabelled_survives_what_teaches_nothing(
    labels: list[str], value: float, grouped: bool
) -> None:
    vectors = np.full((len(labels), 6), value, dtype=np.float32)
    result = mislabelled(vectors, labels, groups=["all"] * len(labels) if grouped else None, seed=0)
    assert np.isfinite(result.self_confidence).all()
    assert len(result.flagged) == len(result.suggested) == len(labels)
