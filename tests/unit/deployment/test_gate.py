import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from tunetrail.config import GateConfig
from tunetrail.deployment.gate import Decision, ModelCosts, decide, fresh_process_objection
from tunetrail.errors import ConfigError
from tunetrail.evaluation.comparison import Comparison
from tunetrail.evaluation.latency import Latency
from tunetrail.evaluation.slice_changes import SliceChange

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
        (0.1, None, 0.0, True, False),
        (0.1, None, -10.0, True, False),
        (0.1, None, 0.0, False, True),
        (math.nan, math.nan, -10.0, False, False),
    ],
)
def test_decide_lets_through_what_is_above_the_minimum(
    improvement: float, lower: float | None, minimum: float, interval: bool, promote: bool
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
            Decision(
                promote=False,
                reason="ndcg_at_10: improvement +0.1000 is not above +0.5000 "
                "(gate.minimum_improvement), short by 0.4000",
            ),
        ),
    ],
)
def test_decide_says_why(config: GateConfig, decision: Decision) -> None:
    assert decide(COMPARISON, config) == decision


def test_decide_refuses_whatever_too_few_rows_say() -> None:
    few = dataclasses.replace(COMPARISON, examples=12)
    groups = dataclasses.replace(COMPARISON, examples=300, clusters=3)

    assert decide(few, GateConfig()) == Decision(
        promote=False,
        reason="ndcg_at_10: too few rows to decide: 12 test rows, and "
        "gate.minimum_test_clusters=20 needs 8 more",
    )
    assert "3 test groups" in decide(groups, GateConfig(require_interval=False)).reason
    assert decide(few, GateConfig(minimum_test_clusters=12)).promote


def test_decide_says_why_there_is_no_interval_and_never_prints_infinity() -> None:
    same = dataclasses.replace(COMPARISON, lower=None, upper=None, differing=0)
    few = dataclasses.replace(same, differing=4)

    assert decide(same, GateConfig()).reason == (
        "ndcg_at_10: no row changed among 100 test rows; at most 3.0% of such rows change "
        "(95% bound)"
    )
    assert decide(few, GateConfig()).reason.startswith(
        "ndcg_at_10: only 4 of 100 test rows changed, and a 95% interval needs 6"
    )


def test_decide_says_what_gain_would_have_been_found() -> None:
    refused = dataclasses.replace(COMPARISON, lower=-0.01, detectable_gain=0.125)
    assert decide(refused, GateConfig()).reason.endswith(
        "+0.0000 (gate.minimum_improvement), short by 0.0100; a gain of 0.1250 would be found in 4 "
        "of 5 tests"
    )
    promoted = dataclasses.replace(refused, lower=0.02)
    assert decide(promoted, GateConfig()).reason == (
        "ndcg_at_10: lower bound of the improvement +0.0200 is above +0.0000; a gain of 0.1250 "
        "would be found in 4 of 5 tests"
    )


def test_decision_to_dict_has_the_word() -> None:
    assert Decision(promote=True, reason="r").to_dict() == {
        "promote": True,
        "reason": "r",
        "decision": "promoted",
    }
    assert Decision(promote=False, reason="r").word == "refused"


def test_decide_leaves_a_candidate_waiting_for_an_approval() -> None:
    config = GateConfig(approval=True)
    worse = dataclasses.replace(COMPARISON, improvement=-0.1, lower=-0.2, upper=-0.05)

    decision = decide(COMPARISON, config)

    assert (decision.promote, decision.word) == (False, "waiting")
    assert decision.reason.endswith("gate.approval=true: it waits for `tunetrail root promote`")
    assert Decision.from_dict(decision.to_dict()) == decision
    assert decide(worse, config).word == "refused"


def test_decide_says_how_little_a_root_without_an_interval_is_worth() -> None:
    few = dataclasses.replace(COMPARISON, lower=None, upper=None, differing=4)
    reason = decide(few, GateConfig(require_interval=False)).reason
    assert "is above +0.0000, which is weak evidence: only 4 of 100 test rows changed" in reason


def on_session(improvement: float, lower: float | None, upper: float | None) -> Comparison:
    return dataclasses.replace(COMPARISON, improvement=improvement, lower=lower, upper=upper)


def test_decide_refuses_what_has_forgotten_an_earlier_session_by_name() -> None:
    earlier = {"may": on_session(0.01, -0.01, 0.03), "june": on_session(-0.05, -0.08, -0.02)}

    decision = decide(COMPARISON, GateConfig(), earlier)

    assert decision == Decision(
        promote=False,
        reason="ndcg_at_10: -0.0500 (-0.0800 … -0.0200) on 100 rows of the earlier session june, "
        "where gate.maximum_loss=0.02 is exceeded by 0.0300",
    )


@pytest.mark.parametrize(
    "change",
    [(-0.05, -0.08, 0.01), (-0.01, -0.015, -0.005), (-0.3, None, None), (0.2, 0.1, 0.3)],
)
def test_decide_lets_through_what_has_measurably_lost_little(
    change: tuple[float, float | None, float | None],
) -> None:
    assert decide(COMPARISON, GateConfig(), {"may": on_session(*change)}).promote


def test_decide_names_the_missing_gain_first() -> None:
    worse = dataclasses.replace(COMPARISON, improvement=-0.1, lower=-0.2, upper=-0.05)
    earlier = {"june": on_session(-0.05, -0.08, -0.02)}

    assert "june" not in decide(worse, GateConfig(), earlier).reason


def test_decide_names_the_general_set_on_which_a_candidate_loses() -> None:
    lost = {"general.jsonl": on_session(-0.05, -0.08, -0.03)}

    decision = decide(COMPARISON, GateConfig(), {}, lost)

    assert decision == Decision(
        promote=False,
        reason="ndcg_at_10: -0.0500 (-0.0800 … -0.0300) on 100 rows of the general set "
        "general.jsonl, where gate.maximum_loss=0.02 is exceeded by 0.0300",
    )
    assert decide(COMPARISON, GateConfig(maximum_loss=0.1), {}, lost).promote
    kept = {"general.jsonl": on_session(-0.01, -0.02, -0.005)}
    assert decide(COMPARISON, GateConfig(), {}, kept).promote


def test_decide_names_the_session_of_several_on_which_a_candidate_loses() -> None:
    sessions = {"may": on_session(0.2, 0.1, 0.3), "june": on_session(-0.05, -0.08, -0.03)}

    decision = decide(COMPARISON, GateConfig(), sessions=sessions)

    assert not decision.promote
    assert "on 100 rows of the session june, where gate.maximum_loss=0.02" in decision.reason


FRENCH = SliceChange(
    attribute="language", value="fr", rows=60, improvement=-0.08, lower=-0.13, upper=-0.03
)
SLOW = Latency(median=25.0, lower=24.0, upper=26.5, requests=100)
ROOT = Latency(median=12.0, lower=11.5, upper=12.5, requests=100)


@pytest.mark.parametrize(
    ("margin", "slices", "reason"),
    [
        (None, [FRENCH], None),
        (0.1, [FRENCH], None),
        (0.05, [], None),
        (
            0.05,
            [dataclasses.replace(FRENCH, value="en", improvement=-0.06), FRENCH],
            "ndcg_at_10: -0.0800 (-0.1300 … -0.0300, corrected for all slices) on 60 rows with "
            "language 'fr', where gate.maximum_slice_loss=0.05 is exceeded by 0.0300. Add rows "
            "like these, or raise the margin",
        ),
        (0.0, [FRENCH], "gate.maximum_slice_loss=0 is exceeded by 0.0800"),
    ],
)
def test_decide_refuses_a_sure_loss_on_a_slice_above_the_margin(
    margin: float | None, slices: list[SliceChange], reason: str | None
) -> None:
    decision = decide(COMPARISON, GateConfig(maximum_slice_loss=margin), losing_slices=slices)

    assert decision.promote is (reason is None)
    assert reason is None or reason in decision.reason


@pytest.mark.parametrize(
    ("limits", "costs", "reason"),
    [
        ({}, ModelCosts(model_mib=900.0, latency=SLOW, root_latency=ROOT), None),
        ({"maximum_model_mib": 90.0}, ModelCosts(model_mib=90.0), None),
        (
            {"maximum_model_mib": 90.0},
            ModelCosts(model_mib=91.5),
            "the model has 91.5 MiB, where gate.maximum_model_mib=90 is exceeded by 1.5. Train a "
            "smaller base model, or raise the limit",
        ),
        # A busy machine may have made it look slow.
        ({"maximum_latency_ms": 24.5}, ModelCosts(latency=SLOW, root_latency=ROOT), None),
        (
            {"maximum_latency_ms": 20.0},
            ModelCosts(latency=SLOW, root_latency=ROOT),
            "the model takes 25 ms (24 … 26.5) for a text, where gate.maximum_latency_ms=20 is "
            "exceeded by 5; root takes 12 ms (11.5 … 12.5). Train a smaller base model, or raise "
            "the limit",
        ),
    ],
)
def test_decide_refuses_what_is_too_large_or_too_slow(
    limits: dict[str, float], costs: ModelCosts, reason: str | None
) -> None:
    decision = decide(COMPARISON, GateConfig(**limits), costs=costs)

    assert decision.promote is (reason is None)
    assert reason is None or decision.reason == reason
    assert ModelCosts.from_dict(costs.to_dict()) == costs


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("maximum_slice_loss", -0.1, "at least 0"),
        ("maximum_latency_ms", 0.0, "above 0"),
        ("maximum_model_mib", float("nan"), "above 0"),
    ],
)
def test_limits_of_the_gate_are_checked(name: str, value: float, rule: str) -> None:
    with pytest.raises(ConfigError, match=f"gate.{name} must be {rule}, got {value}"):
        GateConfig(**{name: value})


@pytest.mark.parametrize(
    ("expected", "again"),
    [
        ([1.0, 0.5], [1.0, 0.5 + 0.9e-6]),
        # Logits reach tens, and their rounding grows with them.
        ([38.0, 0.5], [38.0, 0.5 + 30e-6]),
        ([math.nan, math.inf, 1.0], [math.nan, math.inf, 1.0]),
        ([True, False], [True, False]),
        ([], []),
    ],
)
def test_a_fresh_process_may_round_differently(expected: list[Any], again: list[Any]) -> None:
    values = {"outputs": np.array(expected)}, {"outputs": np.array(again)}

    assert fresh_process_objection(*values, "models:/embedding/1", 8) is None


@pytest.mark.parametrize(
    ("expected", "again", "difference"),
    [
        ([1.0, 0.5], [1.0, 0.5 + 1.5e-6], "1.5e-06, where gate.fresh_process allows 1e-06"),
        ([40.0, 0.5], [40.0, 0.6], "0.1, where gate.fresh_process allows 4e-05"),
        ([1.0, 0.5], [math.nan, 0.5], "nan"),
        ([1.0, 0.5], [math.inf, 0.5], "inf"),
        ([1.0, 0.5], [1.0], "inf"),
        ([True, False], [False, False], "1"),
    ],
)
def test_a_fresh_process_that_gives_other_values_refuses_a_version(
    expected: list[Any], again: list[Any], difference: str
) -> None:
    same = {"ndcg_at_10": np.array([0.5, 1.0])}
    values = {**same, "outputs": np.array(expected)}, {**same, "outputs": np.array(again)}

    objection = fresh_process_objection(*values, "models:/embedding/3", 8)

    assert objection is not None
    assert objection.startswith(
        "models:/embedding/3, loaded in a fresh process, gives other values of outputs on 8 test "
        f"rows: they differ by {difference}"
    )
    assert objection.endswith("and train again")


def test_a_fresh_process_that_gives_no_values_refuses_a_version() -> None:
    objection = fresh_process_objection({"nats": np.ones(3)}, {}, "models:/llm/1", 3)

    assert objection is not None and "values of nats" in objection
