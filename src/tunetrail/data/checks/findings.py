"""Findings: what the validation has to say of a session, and the account of the rows. Plain values; judges nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One row that a finding is about; `text` is short, and personal data in it is replaced."""

    row_id: int
    text: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        check: `group.name` as in conf/validation, for example `rows.language`.
        severity: `error`, `warning`, or `passed` where the measure is not above the threshold.
        rows: Number of rows concerned.
        judged: Number of rows that the check looked at.
        measure: What is compared with the threshold; the share of rows concerned unless the check says otherwise.
        threshold: The configured one.
        set_aside: Whether the rows concerned were set aside.
        message: A readable sentence.
        examples: A few of the rows.
        row_ids: All rows concerned; an empty tuple where the check is about the session as a whole.
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
    row_ids: tuple[int, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return all but the row ids, JSON-serialisable."""
        return {
            "check": self.check,
            "severity": self.severity,
            "rows": self.rows,
            "judged": self.judged,
            "measure": self.measure,
            "threshold": self.threshold,
            "set_aside": self.set_aside,
            "message": self.message,
            "examples": [
                {"row_id": each.row_id, "text": each.text, "detail": each.detail}
                for each in self.examples
            ],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class StepAccount:
    """What became of the rows in one step: `rows_in` = `rows_out` + `set_aside`; `changed` are among `rows_out`."""

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
        return {
            "step": self.step,
            "rows_in": self.rows_in,
            "rows_out": self.rows_out,
            "set_aside": self.set_aside,
            "changed": self.changed,
            "reasons": dict(self.reasons),
        }
