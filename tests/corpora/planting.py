"""Planting: rows of a session, what is wrong with which of them, and the frame they make. Knows no defect by itself."""

import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from tunetrail.config import CheckConfig, ValidationConfig
from tunetrail.data.rows import rows_frame
from tunetrail.samples import Sample, SampleKind, shape_named

WHOLE_SESSION = 0
"""Stands for the row where a check is about the session as a whole; rows are numbered from 1."""


@dataclass(frozen=True, kw_only=True)
class PlantedSession:
    """A session and the truth about it.

    Attributes:
        name: What it is about.
        kind: What its rows teach.
        rows: A frame of rows.
        planted: The ids of the rows that a check concerns, by check; no others are to be found.
        meant: What cleaning should make of a row's text, by id, where that is known.
        validation: The configuration that the truth holds for.
        unknown: Checks of which nothing is known here.
        most_tokens: What the model reads, None where tokens aren't counted.
        reference: The previous session's rows.
    """

    name: str
    kind: SampleKind
    rows: pd.DataFrame
    planted: Mapping[str, frozenset[int]]
    meant: Mapping[int, str]
    validation: ValidationConfig
    unknown: frozenset[str] = frozenset()
    most_tokens: int | None = None
    reference: pd.DataFrame | None = None


@dataclass(kw_only=True)
class Plot:
    """Rows to be: each with what is wrong with it; in random order, but for twins, which come after all others."""

    shape: str
    rng: random.Random
    rows: list[tuple[dict[str, Any], tuple[str, ...], str | None]] = field(default_factory=list)
    twins: list[tuple[dict[str, Any], tuple[str, ...], str | None]] = field(default_factory=list)
    of_session: set[str] = field(default_factory=set)

    def add(self, content: dict[str, Any], *checks: str, meant: str | None = None) -> None:
        """Add a row with what is wrong with it, and its text once cleaned."""
        self.rows.append((content, checks, meant))

    def add_twin(self, content: dict[str, Any], *checks: str) -> None:
        """Add a row that comes after its elder ones."""
        self.twins.append((content, checks, None))

    def session(
        self, name: str, validation: ValidationConfig | None = None, **more: Any
    ) -> PlantedSession:
        """Return the session."""
        self.rng.shuffle(self.rows)
        planted: dict[str, set[int]] = defaultdict(set)
        meant, samples = {}, []
        for check in self.of_session:
            planted[check].add(WHOLE_SESSION)
        kind = shape_named(self.shape).kind
        for row_id, (content, checks, text) in enumerate([*self.rows, *self.twins], start=1):
            samples.append((row_id, Sample(kind=kind, shape=self.shape, content=content)))
            for check in checks:
                planted[check].add(row_id)
            if text is not None:
                meant[row_id] = text
        return PlantedSession(
            name=name,
            kind=kind,
            rows=rows_frame(samples),
            planted={check: frozenset(ids) for check, ids in planted.items()},
            meant=meant,
            validation=validation or quiet(),
            **more,
        )


def quiet(**settings: Any) -> ValidationConfig:
    """Return a configuration without the checks that need vectors: in most sessions, nobody knows what is unusual."""
    config = ValidationConfig(max_rejected_share=1.0, **settings)
    config.rows.outlier = CheckConfig(severity="off")
    config.labels.mislabelled = CheckConfig(severity="off")
    return config
