import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from tunetrail.evaluation.augmentation_effect import augmentation_effect
from tunetrail.evaluation.cross_validation import CrossValidationResult

PLAIN = (0.50, 0.55, 0.60, 0.52, 0.58)
SCORES = st.lists(st.floats(0.0, 1.0), min_size=5, max_size=5)


def result(*folds: float, metric: str = "ndcg_at_10") -> CrossValidationResult:
    return CrossValidationResult(
        metric=metric,
        folds=folds,
        mean=float(np.mean(folds)),
        standard_deviation=0.0,
        fold_metrics=tuple({metric: value} for value in folds),
    )


def shifted(*changes: float) -> CrossValidationResult:
    return result(*(value + change for value, change in zip(PLAIN, changes, strict=True)))


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ((0.05, 0.06, 0.05, 0.04, 0.05), "helps"),
        ((-0.05, -0.06, -0.05, -0.04, -0.05), "worsens"),
        ((0.05, -0.06, 0.05, -0.04, 0.01), "makes no measurable difference"),
        ((0.0, 0.0, 0.0, 0.0, 0.0), "makes no measurable difference"),
    ],
)
def test_augmentation_effect_tells_help_from_harm_and_noise(
    changes: tuple[float, ...], verdict: str
) -> None:
    effect = augmentation_effect(result(*PLAIN), shifted(*changes))
    assert effect.verdict == verdict and verdict in effect.sentence
    assert ("augmentation=none" in effect.sentence) == (verdict == "worsens")
    assert json.loads(json.dumps(effect.to_dict()))["verdict"] == verdict


def test_augmentation_effect_turns_the_sign_where_lower_is_better() -> None:
    before = result(2.0, 2.1, 2.2, metric="loss")
    after = result(1.0, 1.1, 1.2, metric="loss")
    effect = augmentation_effect(before, after)
    assert effect.mean_difference == pytest.approx(1.0) and effect.verdict == "helps"
    assert augmentation_effect(after, before).verdict == "worsens"


@given(SCORES, SCORES)
def test_augmentation_effect_is_more_careful_than_a_paired_t_test(
    without: list[float], with_: list[float]
) -> None:
    effect = augmentation_effect(result(*without), result(*with_))

    differences = np.array(with_) - np.array(without)
    plain = differences.std(ddof=1) / math.sqrt(5)
    assert effect.standard_error == pytest.approx(
        plain * 1.5
    )  # sqrt(1/5 + 1/4) is half as much again as sqrt(1/5)
    assert effect.lower <= effect.mean_difference <= effect.upper

    if plain > 1e-9 and effect.verdict != "makes no measurable difference":
        assert ttest_rel(with_, without).pvalue < 0.05


def test_augmentation_effect_decides_nothing_from_a_single_fold() -> None:
    effect = augmentation_effect(result(0.1), result(0.9))

    assert (effect.verdict, effect.standard_error, effect.to_dict()["lower"]) == (
        "makes no measurable difference",
        None,
        None,
    )
    assert "one fold" in effect.sentence


@pytest.mark.parametrize(
    ("second", "rule"),
    [
        (
            result(*PLAIN, metric="mrr_at_10"),
            "metric must be the same in both, got ndcg_at_10 and mrr_at_10",
        ),
        (result(0.1, 0.2), "folds must be the same in both, got 5 and 2"),
        (result(0.1, 0.2, 0.3, 0.4, math.nan), "scores must be finite"),
    ],
)
def test_augmentation_effect_refuses_what_cannot_be_compared(
    second: CrossValidationResult, rule: str
) -> None:
    with pytest.raises(ValueError, match=rule):
        augmentation_effect(result(*PLAIN), second)
