"""What a sweep was started with."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from optuna.study import StudyDirection

from tunetrail.config import SearchConfig
from tunetrail.pipeline.pins import Pins
from tunetrail.sweeps.space import SearchSpace


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A metric of the validation rows by which jobs are compared."""

    name: str
    higher_is_better: bool

    @property
    def direction(self) -> StudyDirection:
        """The direction in Optuna's words."""
        return StudyDirection.MAXIMIZE if self.higher_is_better else StudyDirection.MINIMIZE


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """What a sweep was started with.

    Attributes:
        objectives: The metrics that jobs are compared by, the most important one first.
        search: How combinations are chosen and jobs are pruned.
        space: The parameters that vary.
        overrides: What the sweep was started with, without passwords.
        settings: What the first job was composed of, by key; empty for sweeps of older versions.
        pins: The samples and the root that jobs begin with; None for sweeps of older versions.
    """

    objectives: tuple[Objective, ...]
    search: SearchConfig
    space: SearchSpace
    overrides: tuple[str, ...]
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pins: Pins | None = None

    def to_plain(self) -> dict[str, Any]:
        """Return the plan as plain JSON values."""
        return {
            "objectives": [dataclasses.asdict(objective) for objective in self.objectives],
            "search": dataclasses.asdict(self.search),
            "space": self.space.to_plain(),
            "overrides": list(self.overrides),
            "settings": dict(self.settings),
            "pins": None if self.pins is None else self.pins.to_plain(),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """Return the plan that `to_plain` gave."""
        pins = plain.get("pins")
        return cls(
            objectives=tuple(Objective(**objective) for objective in plain["objectives"]),
            search=SearchConfig(**plain["search"]),
            space=SearchSpace.from_plain(plain["space"]),
            overrides=tuple(plain["overrides"]),
            settings=plain.get("settings", {}),
            pins=None if pins is None else Pins.from_plain(pins),
        )
