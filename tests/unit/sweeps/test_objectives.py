"""What the objectives of a sweep are, of results that are made without a training."""

import dataclasses
import math

import numpy as np
import pytest

from tunetrail.errors import SampleError
from tunetrail.evaluation.cross_validation import CrossValidationResult, cross_validate
from tunetrail.evaluation.fold_gain import paired_gain
from tunetrail.evaluation.scores import Scores, scores_from
from tunetrail.evaluation.share_intervals import Interval
from tunetrail.pipeline import Outcome, OutcomeState
from tunetrail.pipeline.stages.score_validation import ValidationScores
from tunetrail.sweeps.objectives import interval_of, measure
from tunetrail.sweeps.sweep_plan import Objective

VALIDATION = ValidationScores(
    metric="ndcg_at_10",
    metrics={"ndcg_at_10": 0.7, "uniformity": -2.0},
    intervals={"ndcg_at_10": Interval(0.6, 0.8)},
    rows=40,
    model_mib=88.5,
)


def outcome_of(**stages: object) -> Outcome:
    steps = {"training": {"seconds": 12.5, "steps": 30}}
    return Outcome(
        model_type="embedding",
        mlflow_run_id="r",
        state=OutcomeState.FITTED,
        steps=steps,
        **stages,  # type: ignore[arg-type]
    )


def values_of(outcome: Outcome, *names: str) -> list[float]:
    objectives = [Objective(name=name, higher_is_better=True) for name in names]
    return list(measure(outcome, objectives))


def folds_of(metric: str) -> CrossValidationResult:
    """Three folds whose difficulty varies more than what the trained model gains."""
    generator = np.random.default_rng(0)

    def scores(level: float, gain: float) -> Scores:
        values = {metric: level + gain + 0.01 * generator.standard_normal(20)}
        return scores_from(values, metric)

    levels = (0.3, 0.5, 0.9)
    before = [scores(level, 0.0) for level in levels]
    after = [scores(level, gain) for level, gain in zip(levels, (0.1, 0.12, 0.14), strict=True)]
    result = cross_validate(after, lambda fold: fold, test_ratio=0.5)
    gain = paired_gain(
        before, after, budget=1.0, test_ratio=0.5, bootstrap_samples=100, confidence=0.95, seed=0
    )
    return dataclasses.replace(result, gain=gain)


def test_metrics_and_costs_are_those_of_the_fitted_model() -> None:
    outcome = outcome_of(validation=VALIDATION)

    values = values_of(outcome, "ndcg_at_10", "uniformity", "seconds", "steps", "model_mib")

    assert values == [0.7, -2.0, 12.5, 30.0, 88.5]


def test_folds_count_with_their_mean_one_standard_error_to_the_worse() -> None:
    higher, lower = folds_of("ndcg_at_10"), folds_of("mse")

    (value,) = values_of(outcome_of(cross_validation=higher), "cross_validation")
    (error,) = values_of(outcome_of(cross_validation=lower), "cross_validation")

    assert higher.gain is not None and higher.gain.standard_error is not None
    assert value == pytest.approx(higher.mean - higher.gain.standard_error)
    # What makes a fold hard for all models is no error of the job's.
    assert higher.mean - value < 0.1 * higher.standard_deviation
    assert lower.gain is not None and lower.gain.standard_error is not None
    assert error == pytest.approx(lower.mean + lower.gain.standard_error)


def test_interval_is_that_of_the_metric_or_of_the_mean_of_the_folds() -> None:
    folds = folds_of("ndcg_at_10")
    outcome = outcome_of(validation=VALIDATION, cross_validation=folds)

    def interval(name: str) -> tuple[float, float] | None:
        return interval_of(outcome, Objective(name=name, higher_is_better=True))

    assert interval("ndcg_at_10") == (0.6, 0.8)
    assert interval("uniformity") is None and interval("seconds") is None
    bounds = interval("cross_validation")
    assert bounds is not None and math.isclose(sum(bounds) / 2.0, folds.mean)


@pytest.mark.parametrize("name", ["recall_at_1", "val/loss", "cross_validation"])
def test_objective_without_a_value_says_what_to_do(name: str) -> None:
    with pytest.raises(SampleError, match=f"got no {name} from the validation rows. Raise split"):
        values_of(outcome_of(validation=VALIDATION), name)
