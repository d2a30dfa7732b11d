import json

import numpy as np
import pytest

from tunetrail.evaluation.cross_validation import cross_validate
from tunetrail.evaluation.language_scores import language_scores
from tunetrail.evaluation.scores import Scores, vector_scores


def scored(nats: float) -> Scores:
    return language_scores(np.array([nats]), np.array([1]), np.array([1]))


def test_cross_validate_sums_up_the_folds_in_order() -> None:
    result = cross_validate([1.0, 2.0, 4.0], scored)

    values = np.array([1.0, 2.0, 4.0]) / np.log(2)
    assert result.folds == pytest.approx(values)
    assert result.mean == pytest.approx(values.mean())
    assert result.standard_deviation == pytest.approx(values.std(ddof=1))
    assert (result.metric, result.higher_is_better) == ("bits_per_byte", False)
    assert [metrics["loss"] for metrics in result.fold_metrics] == [1.0, 2.0, 4.0]
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["n_splits"] == 3


def test_cross_validate_of_one_fold_has_no_deviation() -> None:
    assert cross_validate([3.0], scored).standard_deviation == 0.0


def test_cross_validate_refuses_no_fold() -> None:
    with pytest.raises(ValueError, match="folds must hold at least one fold, got 0"):
        cross_validate([], scored)


def test_cross_validate_refuses_folds_of_different_metrics() -> None:
    def either(fold: int) -> Scores:
        return scored(1.0) if fold else vector_scores(np.ones((1, 2)), np.ones((1, 2)))

    with pytest.raises(
        ValueError,
        match="metric must be the same in all folds, got bits_per_byte, cosine_to_target",
    ):
        cross_validate([0, 1], either)
