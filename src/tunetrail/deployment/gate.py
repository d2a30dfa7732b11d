"""The gate: decides from the comparison whether a candidate becomes root."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tunetrail.config import GateConfig
from tunetrail.evaluation.comparison import Comparison
from tunetrail.evaluation.forgetting import worst_loss
from tunetrail.evaluation.latency import Latency
from tunetrail.evaluation.metric import Array
from tunetrail.evaluation.slice_changes import SliceChange
from tunetrail.plain_values import plain_values
from tunetrail.stores.database.ledger import PROMOTED, REFUSED, WAITING

FRESH_PROCESS_TOLERANCE = 1e-6
"""Largest difference that `gate.fresh_process` allows, as a share of the largest value above 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Whether the candidate becomes root, and the reason.

    Attributes:
        promote: Whether root moves to the candidate now.
        reason: The rule that decided, in words.
        waiting: Whether the candidate has passed the gate and waits for an approval.
    """

    promote: bool
    reason: str
    waiting: bool = False

    @property
    def word(self) -> str:
        """Return `promoted`, `waiting` or `refused`."""
        if self.waiting:
            return WAITING
        return PROMOTED if self.promote else REFUSED

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"promote": self.promote, "reason": self.reason, "decision": self.word}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Decision":
        """Return the decision that `to_dict` gave."""
        # Steps of older runs have no word for it, and knew no approval.
        waiting = plain.get("decision") == WAITING
        return cls(promote=plain["promote"], reason=plain["reason"], waiting=waiting)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCosts:
    """What a candidate costs whoever serves it, as far as it was measured.

    Attributes:
        model_mib: The size of its files in MiB.
        latency: How long it takes for one text.
        root_latency: How long the version to beat takes, measured next to it.
    """

    model_mib: float | None = None
    latency: Latency | None = None
    root_latency: Latency | None = None

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "ModelCosts":
        """Return the costs that `to_dict` gave; steps of older runs have none."""
        latencies = {
            name: Latency.from_dict(plain[name])
            for name in ("latency", "root_latency")
            if plain.get(name) is not None
        }
        return cls(model_mib=plain.get("model_mib"), **latencies)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return plain_values(self)


def decide(
    comparison: Comparison,
    config: GateConfig,
    earlier_sessions: Mapping[str, Comparison] | None = None,
    general_set: Mapping[str, Comparison] | None = None,
    *,
    sessions: Mapping[str, Comparison] | None = None,
    losing_slices: Sequence[SliceChange] = (),
    costs: ModelCosts | None = None,
) -> Decision:
    """Promote a candidate that gains on the test rows and loses nothing that the settings protect.

    A refusal names the rule, by how much it is broken, and what it takes.

    Args:
        comparison: The comparison with the version to beat.
        config: The rules.
        earlier_sessions: The comparison on the rows of each earlier session; None if there are
            none.
        general_set: The comparison on the rows of the general file, by its name; None if there is
            none.
        sessions: The comparison on the test rows of each session of the training, if there are
            several.
        losing_slices: The slices of the test rows on which the candidate has surely lost.
        costs: What it costs, measured for the limits that there are.
    """
    decision = _decide_by_gain(comparison, config)
    if not decision.promote:
        return decision

    benchmarks = (
        ("session", sessions),
        ("earlier session", earlier_sessions),
        ("general set", general_set),
    )
    for kind, comparisons in benchmarks:
        name = worst_loss(comparisons or {}, config.maximum_loss)
        if comparisons and name is not None:
            loss = comparisons[name]
            excess = -loss.improvement - config.maximum_loss
            reason = (
                f"{loss.metric}: {loss.improvement:+.4f} ({loss.interval_in_words}) on "
                f"{loss.examples} rows of the {kind} {name}, where "
                f"gate.maximum_loss={config.maximum_loss:g} is exceeded by {excess:.4f}"
            )
            return Decision(promote=False, reason=reason)

    slice_objection = _slice_objection(comparison, losing_slices, config)
    objection = slice_objection or _cost_objection(costs, config)
    if objection is not None:
        return Decision(promote=False, reason=objection)

    if config.approval:
        reason = f"{decision.reason}; gate.approval=true: it waits for `tunetrail root promote`"
        return Decision(promote=False, reason=reason, waiting=True)
    return decision


def fresh_process_objection(
    expected: Mapping[str, Array], again: Mapping[str, Array], uri: str, rows: int
) -> str | None:
    """Return why what a fresh process makes of a version refuses it; None if nothing does.

    Args:
        expected: What the candidate gives for some test rows, by name: scores and outputs.
        again: The same of the registered version in a fresh process.
        uri: The version.
        rows: Number of the rows.
    """
    for name, values in expected.items():
        finite = np.abs(values[np.isfinite(values)])
        allowed = FRESH_PROCESS_TOLERANCE * max(1.0, float(np.max(finite, initial=0.0)))
        difference = _largest_difference(values, again.get(name))
        # Written so that a difference of NaN is too large as well.
        if not difference <= allowed:
            return (
                f"{uri}, loaded in a fresh process, gives other values of {name} on {rows} test "
                f"rows: they differ by {difference:.3g}, where gate.fresh_process allows "
                f"{allowed:.3g}. Find out what the training's process has set and others haven't, "
                "such as a variable or a changed library, and train again"
            )
    return None


def _largest_difference(expected: Array, again: Array | None) -> float:
    """Return the largest difference of two arrays; infinite if their shapes differ."""
    if again is None or expected.shape != again.shape:
        return math.inf
    # NaN in the same places is the same: a row may have no value.
    is_equal = (expected == again) | (np.isnan(expected) & np.isnan(again))
    differences = np.abs(np.subtract(expected[~is_equal], again[~is_equal], dtype=np.float64))
    return float(np.max(differences, initial=0.0))


def _slice_objection(
    comparison: Comparison, losing_slices: Sequence[SliceChange], config: GateConfig
) -> str | None:
    """Return why a loss on a slice refuses the candidate; None if none does."""
    margin = config.maximum_slice_loss
    if margin is None:
        return None
    too_large = [change for change in losing_slices if -change.improvement > margin]
    if not too_large:
        return None
    worst = min(too_large, key=lambda change: change.improvement)
    excess = -worst.improvement - margin
    return (
        f"{comparison.metric}: {worst.in_words}, where gate.maximum_slice_loss={margin:g} is "
        f"exceeded by {excess:.4f}. Add rows like these, or raise the margin"
    )


def _cost_objection(costs: ModelCosts | None, config: GateConfig) -> str | None:
    """Return which limit the costs break; None if they keep them all."""
    if costs is None:
        return None

    size, limit = costs.model_mib, config.maximum_model_mib
    if size is not None and limit is not None and size > limit:
        return (
            f"the model has {size:.1f} MiB, where gate.maximum_model_mib={limit:g} is exceeded by "
            f"{size - limit:.1f}. Train a smaller base model, or raise the limit"
        )

    latency, limit = costs.latency, config.maximum_latency_ms
    if latency is None or limit is None or latency.lower <= limit:
        return None
    root = "" if costs.root_latency is None else f"; root takes {costs.root_latency.in_words}"
    return (
        f"the model takes {latency.in_words} for a text, where gate.maximum_latency_ms={limit:g} "
        f"is exceeded by {latency.median - limit:.3g}{root}. Train a smaller base model, or raise "
        "the limit"
    )


def _decide_by_gain(comparison: Comparison, config: GateConfig) -> Decision:
    """Promote a candidate whose improvement is above the minimum.

    The improvement is the lower bound of its interval, or the point estimate if the settings don't
    require an interval. Too few test rows decide nothing, whatever the improvement.
    """
    metric, unit = comparison.metric, comparison.unit
    missing = config.minimum_test_clusters - comparison.independent
    if missing > 0:
        reason = (
            f"{metric}: too few rows to decide: {comparison.independent} test {unit}s, and "
            f"gate.minimum_test_clusters={config.minimum_test_clusters} needs {missing} more"
        )
        return Decision(promote=False, reason=reason)

    if not config.require_interval:
        return _judge(comparison.improvement, "improvement", comparison, config)

    if comparison.lower is None:
        decision = Decision(promote=False, reason=f"{metric}: {comparison.why_no_interval}")
    else:
        measure = "lower bound of the improvement"
        decision = _judge(comparison.lower, measure, comparison, config)
    reason = decision.reason
    if comparison.detectable_gain is not None:
        reason += f"; a gain of {comparison.detectable_gain:.4f} would be found in 4 of 5 tests"
    if comparison.look > 1.0:
        confidence = 100.0 * comparison.confidence
        reason += f"; look {comparison.look:.3g} on these rows: {confidence:.3g} % interval"
    return replace(decision, reason=reason)


def _judge(value: float, measure: str, comparison: Comparison, config: GateConfig) -> Decision:
    # Strictly above: equal is not better.
    promote = value > config.minimum_improvement
    relation = "above" if promote else "not above"
    minimum = f"{config.minimum_improvement:+.4f}"
    reason = f"{comparison.metric}: {measure} {value:+.4f} is {relation} {minimum}"
    if not promote and math.isfinite(value):
        missing = config.minimum_improvement - value
        reason += f" (gate.minimum_improvement), short by {missing:.4f}"
    # Without an interval, a handful of rows looks as convincing as thousands.
    if promote and comparison.lower is None:
        reason += f", which is weak evidence: {comparison.why_no_interval}"
    return Decision(promote=promote, reason=reason)
