from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunetrail.data.augmentation.drafts import Draft
from tunetrail.data.augmentation.round_trip import own_ranks, with_round_trip
from tunetrail.data.rows import object_series

PASSAGES = ["aaaa", "bbbb", "abab", "aaaa b", "cccc"]


def letters(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Unit vectors of the letters in each text."""
    counts = np.array(
        [[text.count(letter) + 1e-6 for letter in "abc"] for text in texts], dtype=np.float32
    )
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def test_own_ranks_counts_what_is_nearer() -> None:
    written = letters(["aa", "ab", "ccb", "bba"])
    ranks = own_ranks(written, letters(PASSAGES), own=[0, 2, 4, 0], allowed=[(), (), (), ()])
    assert ranks.tolist() == [1, 1, 1, 4]


def test_own_ranks_does_not_count_what_is_as_good_as_the_own_one() -> None:
    sources = letters(PASSAGES)
    assert own_ranks(letters(["aa"]), sources, own=[3], allowed=[()]).tolist() == [2]
    assert own_ranks(letters(["aa"]), sources, own=[3], allowed=[{0, 3}]).tolist() == [1]


def test_own_ranks_takes_a_tie_or_a_broken_vector_for_no_success() -> None:
    same = np.ones((3, 2), dtype=np.float32)
    assert own_ranks(same[:1], same, own=[1], allowed=[()]).tolist() == [3]
    assert own_ranks(same[:1] * np.nan, same, own=[1], allowed=[()]).tolist() == [3]
    assert own_ranks(same[:0], same, own=[], allowed=[]).tolist() == []


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 99))
def test_own_ranks_agrees_with_a_sorted_list(
    written_count: int, source_count: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    written, sources = (
        generator.standard_normal((count, 5)).astype(np.float32)
        for count in (written_count, source_count)
    )
    own_rows = generator.integers(source_count, size=written_count).tolist()
    order = np.argsort(-(written @ sources.T), axis=1)
    expected = [
        int(np.flatnonzero(row == own_row)[0]) + 1
        for row, own_row in zip(order, own_rows, strict=True)
    ]

    assert (
        own_ranks(written, sources, own=own_rows, allowed=[()] * written_count).tolist() == expected
    )


def drafts(*pairs: tuple[int, str]) -> list[Draft]:
    return [
        Draft(position=position, source=PASSAGES[position], text=text) for position, text in pairs
    ]


@pytest.mark.parametrize(
    ("deepest", "clusters", "accepted"),
    [
        (1, ["k0", "k1", "k2", "k3", "k4"], [True, True, False]),
        (2, ["k0", "k1", "k2", "k3", "k4"], [True, True, True]),
        (1, ["k0", "k1", "k2", "k0", "k4"], [True, True, True]),  # the better one is a twin
    ],
)
def test_round_trip_keeps_what_finds_its_own_text(
    deepest: int, clusters: list[str], accepted: list[bool]
) -> None:
    rows = pd.DataFrame({"cluster": object_series(clusters)})
    made = drafts((0, "aaa"), (1, "bb"), (3, "aa"))

    reasons = with_round_trip(made, [None] * 3, rows, PASSAGES, letters, deepest)

    assert [reason is None for reason in reasons] == accepted
    for reason in filter(None, reasons):
        assert (
            reason
            == "not found again: its own text came at place 2 of 5, augmentation.round_trip_rank is 1"
        )


def test_round_trip_leaves_what_is_rejected_already() -> None:
    rows = pd.DataFrame({"cluster": object_series(list("abcde"))})
    asked: list[list[str]] = []

    def vectors(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        asked.append(list(texts))
        return letters(texts)

    assert (
        with_round_trip(drafts((0, "x")), ["blank"], rows, PASSAGES, vectors, 1) == ["blank"]
        and not asked
    )
    reasons = with_round_trip(
        drafts((0, "x"), (4, "cc")), ["blank", None], rows, PASSAGES, vectors, 1
    )
    assert reasons == ["blank", None] and asked == [["cc"], PASSAGES]
