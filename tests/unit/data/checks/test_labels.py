import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunetrail.data.checks.labels import USUAL_SCALES, imbalance, unknown_labels, usual_scale


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"a": 40, "b": 2}, 20.0),
        ({"a": 3, "b": 2, "c": 3}, 1.5),
        ({"a": 7}, 1.0),
        ({}, 1.0),
        ({"a": 7, "b": 0}, 1.0),
    ],
)
def test_imbalance_is_rows_of_the_commonest_for_one_of_the_rarest(
    labels: Mapping[str, int], expected: float
) -> None:
    assert imbalance(labels) == pytest.approx(expected)


def test_unknown_labels_takes_the_configured_list_literally() -> None:
    unknown = unknown_labels(
        {"refund": 90, "Refund": 90, "zzz": 1, "absent": 0}, ["refund", "order"]
    )

    assert unknown == {
        "Refund": "is none of the 2 known labels. Did you mean 'refund'?",
        "zzz": "is none of the 2 known labels.",
    }
    assert unknown_labels({"refund": 90}, ["refund"]) == {}
    assert list(unknown_labels({"refund": 90}, [])) == ["refund"]


@pytest.mark.parametrize(
    ("rare", "common"),
    [
        ("Card_Arrival", "card_arrival"),
        (" card arrival ", "card_arrival"),
        ("card-arrival", "card_arrival"),
        ("cardarrival", "card_arrival"),
        ("card_arival", "card_arrival"),
        ("card_arrvial", "card_arrival"),
        ("card_actvatoin", "card_activation"),
        ("\uff41pple pie", "apple pie"),
        ("STRASSE", "straße"),
    ],
)
def test_unknown_labels_finds_a_rare_misspelling(rare: str, common: str) -> None:
    unknown = unknown_labels({common: 200, "something else": 150, rare: 2}, None)
    assert unknown == {
        rare: f"looks like a misspelling of a common label. Did you mean {common!r}?"
    }


@pytest.mark.parametrize(
    ("rare", "common"),
    [
        ("card_arrival", "card_activation"),
        ("label_1", "label_2"),
        ("label12", "label1"),
        ("class_a", "class_b"),
        ("en_us", "en_gb"),
        ("C++", "C"),
        ("C", "c#"),
        ("-1", "1"),
        ("-", "+"),
        ("", " "),
        ("internal", "external"),
        ("decrease", "increase"),
        ("irrelevant", "relevant"),
        ("unsatisfied", "satisfied"),
        ("card_lost", "card_last"),
        ("no", "on"),
    ],
)
def test_unknown_labels_leaves_what_differs_on_purpose(rare: str, common: str) -> None:
    assert unknown_labels({common: 500, rare: 1}, None) == {}


@pytest.mark.parametrize(("misspelt", "right"), [(3, 1000), (2, 99), (1, 49), (1, 1)])
def test_unknown_labels_leaves_what_is_not_rare(misspelt: int, right: int) -> None:
    assert unknown_labels({"refund": right, "refudn": misspelt}, None) == {}
    assert unknown_labels({"refund": 100, "refudn": 2}, None) != {}


def test_unknown_labels_survives_hostile_labels() -> None:
    long = "x" * 1_000_000
    counts = {"refund": 500, long: 1, "\ud800": 1, "\x00": 1, "": 1, "_-_" * 60: 1}
    assert unknown_labels(counts, None) == {}
    assert set(unknown_labels(counts, ["refund"])) == set(counts) - {"refund"}


@given(st.dictionaries(st.text(max_size=12), st.integers(0, 400), max_size=12))
def test_unknown_labels_never_judges_a_common_label(counts: dict[str, int]) -> None:
    assert all(0 < counts[label] <= 2 for label in unknown_labels(counts, None))


@pytest.mark.parametrize("scale", USUAL_SCALES)
def test_usual_scale_finds_the_scale_that_was_used(scale: tuple[float, float]) -> None:
    scores = np.linspace(*scale, 101)
    # one in fifty wrong, and values that are no numbers at all
    assert usual_scale(np.r_[scores, 1e6, -1e6, np.nan, np.inf], None, None) == scale


@pytest.mark.parametrize(("share", "expected"), [(0.005, (0.0, 1.0)), (0.04, (-1.0, 1.0))])
def test_usual_scale_widens_for_what_is_used(share: float, expected: tuple[float, float]) -> None:
    below = round(1000 * share)
    assert (
        usual_scale(np.r_[np.linspace(0.0, 1.0, 1000 - below), np.full(below, -0.4)], None, None)
        == expected
    )


def test_usual_scale_knows_no_bounds_without_a_usual_scale() -> None:
    unbounded = (-math.inf, math.inf)
    assert usual_scale(np.linspace(-5000.0, 9000.0, 50), None, None) == unbounded
    assert usual_scale(np.array([]), None, None) == unbounded
    assert usual_scale(np.array([np.nan, np.inf]), None, None) == unbounded


def test_usual_scale_takes_configured_bounds() -> None:
    scores = np.array([0.1, 0.2])
    assert usual_scale(scores, 1.0, 7.0) == (1.0, 7.0)
    assert usual_scale(scores, 1.0, None) == (1.0, math.inf)
    assert usual_scale(scores, None, 7.0) == (-math.inf, 7.0)
