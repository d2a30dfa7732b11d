"""Results of preparation as plain values: what each check found, and the account of the rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tunetrail.plain_values import NOT_PLAIN, plain_values

Flag = tuple[int, str, str]
"""The id of a row, the name of the check that concerns it, and the detail."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One of the rows that a check concerns; `text` is short and free of personal data."""

    row_id: int
    text: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckResult:
    """What one check found.

    Attributes:
        check: `group.name` as in conf/validation, for example `rows.language`.
        severity: `error`, `warning`, or `passed` if the measure isn't above the threshold.
        rows: Number of rows concerned.
        judged: Number of rows that the check looked at.
        measure: The value that is compared with the threshold: the share of the rows concerned,
            unless the check measures something else.
        threshold: The configured threshold.
        set_aside: Whether the rows concerned were set aside.
        message: A readable sentence.
        examples: A few of the rows.
        row_ids: All rows concerned; empty if the check is about the session as a whole.
    """

    check: str
    severity: str
    rows: int
    judged: int
    measure: float
    threshold: float
    set_aside: bool
    message: str
    examples: tuple[Example, ...] = ()
    row_ids: tuple[int, ...] = field(default=(), repr=False, metadata=NOT_PLAIN)

    def to_dict(self) -> dict[str, Any]:
        """Return everything except the row ids, JSON-serialisable."""
        return plain_values(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepAccount:
    """What became of the rows in one step.

    `rows_in` = `rows_out` + `set_aside`, and the `changed` rows are among `rows_out`. `reasons` say
    why rows were set aside, the most common first.
    """

    step: str
    rows_in: int
    rows_out: int
    set_aside: int
    changed: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.rows_in == self.rows_out + self.set_aside, f"{self.step}: rows went missing"

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, JSON-serialisable."""
        return plain_values(self)
