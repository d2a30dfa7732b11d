"""Reproduction: what a repeated run has come to, compared with the run that it repeats."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunetrail.pipeline.environment import Difference
from tunetrail.pipeline.row_digests import SampleChanges
from tunetrail.plain_values import plain_values

# Metrics that tell what a run costs; they differ each time.
_COSTS = ("seconds", "tokens_per_second", "mfu", "memory_gib")
_COST_PREFIXES = ("system/", "finder/")
_VALIDATION = "validation/"


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricPair:
    """A metric of both runs.

    Attributes:
        name: Its name in MLflow.
        then: Its value in the run; None if the run hasn't got it.
        now: Its value in the repeated run.
    """

    name: str
    then: float | None
    now: float | None

    @property
    def equal(self) -> bool:
        """Whether both values are the same, bit by bit."""
        return _same(self.then, self.now)


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """The first reported step of the training at which a metric differs.

    Attributes:
        metric: Name of the metric, such as `train/loss`.
        step: The optimizer step.
        then: Its value in the run.
        now: Its value in the repeated run; None if it has no such step.
    """

    metric: str
    step: int
    then: float
    now: float | None


@dataclass(frozen=True, kw_only=True)
class FamilyReproduction:
    """One family of a run, repeated.

    Attributes:
        family: Name of the family.
        run_id: The run in MLflow that was repeated.
        reproduction_id: The run in MLflow that repeats it; None if it wasn't repeated, because
            rows are gone.
        rows: How the session has changed since; None if the run kept no digests of its rows.
        differences: What isn't as it was, apart from the rows that were added, which are left out.
        metrics: The metrics of both.
        weights: The digests of the trained weights, then and now; None where unknown.
        divergence: Where the training went another way; None if it didn't.
    """

    family: str
    run_id: str
    reproduction_id: str | None
    rows: SampleChanges | None
    differences: Sequence[Difference]
    metrics: Sequence[MetricPair] = ()
    weights: tuple[str | None, str | None] = (None, None)
    divergence: Divergence | None = None

    @property
    def same_weights(self) -> bool | None:
        """Whether the trained weights are the same; None if one of the digests is unknown."""
        then, now = self.weights
        return None if then is None or now is None else then == now

    @property
    def identical(self) -> bool:
        """Whether the run was repeated with the same metrics and weights."""
        are_equal = all(pair.equal for pair in self.metrics)
        return self.reproduction_id is not None and are_equal and self.same_weights is True

    def to_dict(self) -> dict[str, Any]:
        """Return all fields and the verdict as plain values."""
        then, now = self.weights
        return {
            "family": self.family,
            "run_id": self.run_id,
            "reproduction_id": self.reproduction_id,
            "identical": self.identical,
            "rows": None if self.rows is None else self.rows.to_dict(),
            "differences": [difference.to_dict() for difference in self.differences],
            "metrics": [plain_values(pair, "equal") for pair in self.metrics],
            "weights": {"then": then, "now": now, "equal": self.same_weights},
            "divergence": None if self.divergence is None else plain_values(self.divergence),
        }


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """A run, repeated.

    Attributes:
        run_id: The pipeline run in MLflow that was repeated.
        reproduction_id: The run in MLflow that repeats it; None if it wasn't repeated.
        differences: How packages, machine and code differ from then; None if the run kept nothing
            of them.
        families: What came of each of its families.
    """

    run_id: str
    reproduction_id: str | None
    differences: Sequence[Difference] | None
    families: Sequence[FamilyReproduction] = field(default_factory=tuple)

    @property
    def identical(self) -> bool:
        """Whether all families were repeated with the same metrics and weights."""
        return all(family.identical for family in self.families)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields and the verdict as plain values."""
        differences = self.differences
        return {
            "run_id": self.run_id,
            "reproduction_id": self.reproduction_id,
            "identical": self.identical,
            "environment_known": differences is not None,
            "differences": [difference.to_dict() for difference in differences or ()],
            "families": [family.to_dict() for family in self.families],
        }


def metric_pairs(then: Mapping[str, float], now: Mapping[str, float]) -> list[MetricPair]:
    """Return the metrics of a repeated run with their values then, without its costs.

    What a run measures in stages that aren't repeated, such as the deployment, isn't compared.

    Args:
        then: The metrics of the run.
        now: The metrics of the repeated run.
    """
    names = [
        name
        for name in sorted(now)
        if not is_cost(name) and (name in then or not name.startswith(_VALIDATION))
    ]
    return [MetricPair(name=name, then=then.get(name), now=now[name]) for name in names]


def is_cost(name: str) -> bool:
    """Tell whether a metric says how long or how expensive a run was."""
    return name.startswith(_COST_PREFIXES) or name.rpartition("/")[2] in _COSTS


def first_divergence(
    then: Mapping[str, Sequence[Sequence[float]]], now: Mapping[str, Sequence[Sequence[float]]]
) -> Divergence | None:
    """Return where the history of a repeated training leaves the first one's; None if it doesn't.

    Args:
        then: The (step, value) pairs of each metric of the run.
        now: The same of the repeated run.
    """
    divergences = []
    for metric in filter(lambda name: not is_cost(name), then):
        # The history is kept as JSON, whose steps may have become floats.
        values = {int(step): value for step, value in now.get(metric, ())}
        for step, value in then[metric]:
            value_now = values.get(int(step))
            if not _same(value, value_now):
                divergences.append(
                    Divergence(metric=metric, step=int(step), then=value, now=value_now)
                )
                break
    return min(divergences, key=lambda divergence: divergence.step, default=None)


def _same(then: float | None, now: float | None) -> bool:
    if then is None or now is None:
        return then is now
    # NaN differs from itself, and yet two runs that come to it are the same.
    return then == now or (math.isnan(then) and math.isnan(now))
