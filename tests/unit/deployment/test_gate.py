import dataclasses
import math

import pytest

from tunetrail.config import GateConfig
from tunetrail.deployment.gate import Decision, decide
from tunetrail.evaluation.comparison import Comparison

COMPARISON = Comparison(
    metric="ndcg_at_10",
    before=0.5,
    after=0.6,
    improvement=0.1,
    lower=0.02,
    upper=0.18,
    confidence=0.95,
    examples=100,
    bootstrap_samples=2000,
    better_share=0.4,
    worse_share=0.2,
)


@pytest.mark.parametrize(
    ("improvement", "lower", "minimum", "interval", "promote"),
    [
        (0.1, 0.02, 0.0, True, True),
        (0.1, -0.02, 0.0, True, False),
        (0.1, -0.02, 0.0, False, True),
        (0.1, 0.0, 0.0, True, False),
        (0.0, -0.1, 0.0, False, False),
        (-0.1, -0.2, 0.0, False, False),
        (0.1, 0.02, 0.02, True, False),
        (0.1, 0.02, 0.01, True, True),
        (0.1, 0.02, 0.2, False, False),
        (-0.1, -0.2, -1.0, True, True),
        (0.1, -math.inf, 0.0, True, False),
        (0.1, -math.inf, -10.0, True, False),
        (0.1, -math.inf, 0.0, False, True),
        (math.nan, math.nan, -10.0, False, False),
    ],
)
def test_decide_lets_through_what_is_above_the_minimum(
    improvement: float, lower: float, minimum: float, interval: bool, promote: bool
) -> None:
    comparison = dataclasses.replace(COMPARISON, improvement=improvement, lower=lower)

    assert (
        decide(
            comparison, GateConfig(minimum_improvement=minimum, require_interval=interval)
        ).promote
        is promote
    )


@pytest.mark.parametrize(
    ("config", "decision"),
    [
        (
            GateConfig(),
            Decision(
                promote=True,
                reason="ndcg_at_10: lower bound of the improvement +0.0200 is above +0.0000",
            ),
        ),
        (
            GateConfig(minimum_improvement=0.5, require_interval=False),
            Decision(promote=False, reason="ndcg_at_10: improvement +0.1000 is not above +0.5000"),
        ),
    ],
)
def test_decide_says_why(config: GateConfig, decision: Decision) -> None:
    assert decide(COMPARISON, config) == decision


def test_decision_to_dict_has_the_word() -> None:
    assert Decision(promote=True, reason="r").to_dict() == {
        "promote": True,
        "reason": "r",
        "decision": "promoted",
    }
    assert Decision(promote=False, reason="r").word == "refused"
