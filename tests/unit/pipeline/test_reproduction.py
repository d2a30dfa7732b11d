import math

import pytest

from tunetrail.pipeline.environment import Difference
from tunetrail.pipeline.reproduction import (
    Divergence,
    FamilyReproduction,
    MetricPair,
    Reproduction,
    first_divergence,
    metric_pairs,
)

EQUAL = MetricPair(name="test/loss", then=0.1, now=0.1)
OTHER = MetricPair(name="test/loss", then=0.1, now=0.1 + 2e-17 + 1e-16)


def family(
    metrics: tuple[MetricPair, ...] = (EQUAL,),
    weights: tuple[str | None, str | None] = ("a", "a"),
    reproduction_id: str | None = "r",
) -> FamilyReproduction:
    return FamilyReproduction(
        family="llm",
        run_id="run",
        reproduction_id=reproduction_id,
        rows=None,
        differences=[Difference(kind="model", name="files of base", then="1", now="2")],
        metrics=metrics,
        weights=weights,
    )


@pytest.mark.parametrize(
    ("repeated", "identical", "same_weights"),
    [
        (family(), True, True),
        # The last bit counts.
        (family((EQUAL, OTHER)), False, True),
        (family(weights=("a", "b")), False, False),
        # A run of an older version kept no digest: nothing is shown.
        (family(weights=(None, "a")), False, None),
        (family(reproduction_id=None), False, True),
    ],
)
def test_a_reproduction_is_identical_if_metrics_and_weights_are(
    repeated: FamilyReproduction, identical: bool, same_weights: bool | None
) -> None:
    whole = Reproduction(
        run_id="run", reproduction_id="r", differences=None, families=[family(), repeated]
    )

    assert (repeated.identical, repeated.same_weights) == (identical, same_weights)
    plain = whole.to_dict()
    assert (plain["identical"], plain["environment_known"]) == (identical, False)
    assert plain["families"][1]["weights"]["equal"] is same_weights


def test_metric_pairs_leave_out_costs_and_what_was_not_repeated() -> None:
    then = {"val/loss": 1.0, "train/mfu": 0.2, "embedding/after": 0.5, "training/seconds": 3.0}
    now = {
        "val/loss": 1.5,
        "train/mfu": 0.3,
        "comparison/after": 0.5,
        "training/seconds": 4.0,
        "system/cpu": 1.0,
        "validation/ndcg_at_10": 0.4,
    }

    pairs = metric_pairs(then, now)

    assert [(pair.name, pair.then, pair.equal) for pair in pairs] == [
        ("comparison/after", None, False),
        ("val/loss", 1.0, False),
    ]
    assert metric_pairs({**then, "validation/ndcg_at_10": 0.4}, now)[-1].equal


def test_two_runs_that_come_to_nan_are_the_same() -> None:
    (pair,) = metric_pairs({"pearson": math.nan}, {"pearson": math.nan})
    assert pair.equal

    (pair,) = metric_pairs({"pearson": math.nan}, {"pearson": 0.5})
    assert not pair.equal


THEN = {"train/loss": [[1, 2.0], [2, 1.5], [3, 1.0]], "train/mfu": [[1, 0.5]], "val/loss": [[3, 2]]}


@pytest.mark.parametrize(
    ("changes", "divergence"),
    [
        ({"train/mfu": [[1, 0.7]]}, None),
        (
            {"train/loss": [[1, 2.0], [2, 1.6], [3, 1.0]], "val/loss": [[3, 9]]},
            Divergence(metric="train/loss", step=2, then=1.5, now=1.6),
        ),
        ({"val/loss": []}, Divergence(metric="val/loss", step=3, then=2, now=None)),
        (
            {"train/loss": [[1, math.nan], [2, 1.5], [3, 1.0]]},
            Divergence(metric="train/loss", step=1, then=2.0, now=math.nan),
        ),
    ],
)
def test_first_divergence_is_the_earliest_step_of_any_metric(
    changes: dict[str, list[list[float]]], divergence: Divergence | None
) -> None:
    found = first_divergence(THEN, {**THEN, **changes})
    assert repr(found) == repr(divergence)
    assert (
        first_divergence({"train/loss": [[1, math.nan]]}, {"train/loss": [[1, math.nan]]}) is None
    )
