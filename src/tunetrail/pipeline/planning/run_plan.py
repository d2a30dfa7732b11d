"""Run plan: everything that is known of a training before it is paid for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunetrail.pipeline.planning.estimate import Speeds, StageEstimate
from tunetrail.pipeline.planning.places import Places
from tunetrail.pipeline.planning.workload import Workload
from tunetrail.plain_values import plain_values
from tunetrail.reporting.plain_tables import html_table, plain_table
from tunetrail.reporting.readable import duration

_COLUMNS = ("model", "train rows", "steps", "time", "memory")


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """The memory of a training.

    Attributes:
        device: `cpu` or `cuda`.
        peak_bytes: The most that the training holds: on a CPU, all memory of the process.
        available_bytes: What this process may hold on the device.
    """

    device: str
    peak_bytes: int
    available_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return plain_values(self)


@dataclass(frozen=True, kw_only=True)
class FamilyPlan:
    """What the training of one model type will take.

    Attributes:
        model_type: The family.
        base_model: The model that is trained.
        batch_size: Rows of a batch.
        work: Rows, tokens, steps.
        speeds: What was measured.
        stages: The time of each stage.
        memory: The memory.
        disk: Bytes by purpose: `while_training`, `registered_version`, `exported_folder`.
        places: Where everything is written.
        notes: What should be known, a sentence each.
        assumptions: What was assumed, a sentence each.
        not_included: What the training takes in addition, in words.
    """

    model_type: str
    base_model: str
    batch_size: int
    work: Workload
    speeds: Speeds
    stages: Sequence[StageEstimate]
    memory: MemoryEstimate
    disk: Mapping[str, int]
    places: Places
    notes: Sequence[str] = ()
    assumptions: Sequence[str] = ()
    not_included: Sequence[str] = ()

    @property
    def seconds(self) -> float:
        """Wall-clock time of all stages."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def tokens_per_epoch(self) -> int:
        """Tokens that the model reads in an epoch, without padding."""
        return round(self.work.tokens["train"] * self.speeds.read_tokens)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return plain_values(self, "seconds", "tokens_per_epoch")


@dataclass(frozen=True, kw_only=True, repr=False)
class RunPlan:
    """What a training will take.

    Attributes:
        session_id: The session, or several joined by `+`.
        families: The plan of each model type, in the order in which they are trained.
        planning_seconds: What the plan itself has taken.
    """

    session_id: str
    families: Mapping[str, FamilyPlan]
    planning_seconds: float

    @property
    def seconds(self) -> float:
        """Wall-clock time of the training."""
        return sum(family.seconds for family in self.families.values())

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return plain_values(self, "seconds")

    def __repr__(self) -> str:
        rows = [(name, *self._cells(family)) for name, family in self.families.items()]
        return plain_table(_COLUMNS, rows, [])

    def _repr_html_(self) -> str:
        """Return the plan for Jupyter."""
        rows = [(name, *self._cells(family)) for name, family in self.families.items()]
        return html_table(_COLUMNS, rows, [])

    def _cells(self, family: FamilyPlan) -> tuple[str, ...]:
        training_rows, memory = family.work.rows["train"], family.memory.peak_bytes
        counts = (f"{training_rows:,}", f"{family.work.steps:,}")
        return (*counts, duration(family.seconds), f"{memory / 2**30:.3g} GiB")
