"""What the data report shows: plain values of one session, a section for each model type. Draws and writes nothing."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from numpy.typing import NDArray

from tunetrail.data.checks.findings import Finding, StepAccount


@dataclass(frozen=True, kw_only=True)
class ReportSection:
    """What became of the rows of one model type.

    Attributes:
        name: `embedding` or `llm`.
        account: The steps in their order.
        findings: Errors, warnings and passed checks, in any order.
        sides: Rows by side: train, validation, test.
        set_aside: `rows.SET_ASIDE_COLUMNS`; a sample of the rows is shown, personal data in it as it is here.
        changes: The same columns for rows that were changed and go on.
        lengths: One number for each row, by unit: characters, tokens.
        labels: Rows by label; empty where the samples have none.
        max_length: Tokens that the model reads.
        drift: Distances from the previous session, by name.
        privacy: Number of placeholders by type, for example `{"EMAIL": 12}`.
        stopped: Why the rows can't be trained on, or None.
    """

    name: str
    account: tuple[StepAccount, ...]
    findings: tuple[Finding, ...]
    sides: Mapping[str, int]
    set_aside: pd.DataFrame
    changes: pd.DataFrame
    lengths: Mapping[str, NDArray[Any]]
    labels: Mapping[str, int]
    max_length: int | None
    drift: Mapping[str, float]
    privacy: Mapping[str, int]
    stopped: str | None = None


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """A session's report: its title, for example the session's id, and its sections."""

    title: str
    sections: tuple[ReportSection, ...]


def largest(counts: Mapping[str, int], limit: int) -> tuple[list[tuple[str, int]], int, int]:
    """Return the `limit` largest counts, largest first, and how many others there are with what sum."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    rest = ordered[limit:]
    return ordered[:limit], len(rest), sum(count for _, count in rest)


def rows_by_reason(frame: pd.DataFrame) -> dict[tuple[str, str], list[int]]:
    """Return the positions of a set-aside frame's rows by (step, reason), the commonest reason first."""
    # pandas would group these into an index of Arrow's texts, which can't hold a lone surrogate.
    places: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, key in enumerate(zip(frame["step"], frame["reason"], strict=True)):
        places[key].append(place)
    return dict(sorted(places.items(), key=lambda item: (-len(item[1]), str(item[0]))))
