"""What the data report shows: plain values of a session, a section for each model type."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from numpy.typing import NDArray

from tunetrail.data.checks.results import CheckResult, StepAccount


@dataclass(frozen=True, kw_only=True)
class ReportSection:
    """What became of the rows of one model type.

    Attributes:
        name: `embedding` or `llm`.
        account: The steps in order.
        findings: Errors, warnings and passed checks, in any order.
        sides: Rows by side: train, validation, test.
        set_aside: A frame of `rows.SET_ASIDE_COLUMNS`. Some of its rows are shown as they are:
            personal data has to be replaced before.
        changes: The same columns, for rows that were changed and stay.
        lengths: The length of each row, by unit: characters, tokens.
        labels: Rows by label; empty where the samples have none.
        max_length: Tokens that the model reads.
        drift: Distances from the previous session, by name.
        privacy: Number of placeholders by type, such as `{"EMAIL": 12}`.
        stopped: Why the rows can't be trained on; None if they can.
        replayed: Number of rows of earlier sessions that are learnt again, by session.
    """

    name: str
    account: tuple[StepAccount, ...]
    findings: tuple[CheckResult, ...]
    sides: Mapping[str, int]
    set_aside: pd.DataFrame
    changes: pd.DataFrame
    lengths: Mapping[str, NDArray[Any]]
    labels: Mapping[str, int]
    max_length: int | None
    drift: Mapping[str, float]
    privacy: Mapping[str, int]
    stopped: str | None = None
    replayed: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """A session's report: its title, such as the session's id, and its sections."""

    title: str
    sections: tuple[ReportSection, ...]


def rows_by_reason(frame: pd.DataFrame) -> dict[tuple[str, str], list[int]]:
    """Return the positions of a set-aside frame's rows by (step, reason), the most common first."""
    # pandas would group the rows by an index of Arrow's texts, which can't hold a lone surrogate.
    positions: dict[tuple[str, str], list[int]] = defaultdict(list)
    for position, step_and_reason in enumerate(zip(frame["step"], frame["reason"], strict=True)):
        positions[step_and_reason].append(position)
    return dict(sorted(positions.items(), key=lambda pair: (-len(pair[1]), str(pair[0]))))
