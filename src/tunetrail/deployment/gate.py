"""The gate: whether a candidate is measurably better than root. Numbers in, a decision with its reason out."""

from dataclasses import asdict, dataclass
from typing import Any

from tunetrail.config import GateConfig
from tunetrail.evaluation.comparison import Comparison


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Whether root moves, and why."""

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
    """Let a candidate through if its improvement, by interval or point estimate, is above the least one asked for."""
    value = comparison.lower if config.require_interval else comparison.improvement
    measure = "lower bound of the improvement" if config.require_interval else "improvement"
    promote = value > config.minimum_improvement
    relation = "above" if promote else "not above"
    return Decision(
        promote=promote,
        reason=f"{comparison.metric}: {measure} {value:+.4f} is {relation} {config.minimum_improvement:+.4f}",
    )
