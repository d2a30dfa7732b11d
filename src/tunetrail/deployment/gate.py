"""The gate: decides from the comparison whether a candidate becomes root."""

from dataclasses import asdict, dataclass
from typing import Any

from tunetrail.config import GateConfig
from tunetrail.evaluation.comparison import Comparison


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Whether the candidate becomes root, and the reason."""

    promote: bool
    reason: str

    @property
    def word(self) -> str:
        """Return `promoted` or `refused`."""
        return "promoted" if self.promote else "refused"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "decision": self.word}


def decide(comparison: Comparison, config: GateConfig) -> Decision:
    """Promote a candidate whose improvement is above the minimum.

    The improvement is the lower bound of its interval, or the point estimate if the settings don't
    require an interval.
    """
    value, measure = comparison.improvement, "improvement"
    if config.require_interval:
        value, measure = comparison.lower, "lower bound of the improvement"

    # Strictly above: equal is not better, and a bound of minus infinity never passes.
    promote = value > config.minimum_improvement
    relation = "above" if promote else "not above"
    minimum = f"{config.minimum_improvement:+.4f}"
    reason = f"{comparison.metric}: {measure} {value:+.4f} is {relation} {minimum}"
    if config.require_interval and comparison.look > 1.0:
        confidence = 100.0 * comparison.confidence
        reason += f"; look {comparison.look:.3g} on these rows: {confidence:.3g} % interval"
    return Decision(promote=promote, reason=reason)
