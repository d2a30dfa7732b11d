"""Findings: what the checks before a training found. Knows nothing of what is checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tunetrail.errors import TrainingError, TunetrailError


class Severity(StrEnum):
    """How bad a finding is: an error keeps the training from beginning."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, kw_only=True, slots=True)
class PreflightFinding:
    """What one check found.

    Attributes:
        name: Of the check.
        severity: How bad it is.
        message: What was seen and, unless it is ok, what to do.
        raises: The kind of error that an error is raised as: whose mistake it is.
    """

    name: str
    severity: Severity
    message: str
    raises: type[TunetrailError] = TrainingError

    def to_dict(self) -> dict[str, str]:
        """Return plain values."""
        return {"name": self.name, "severity": self.severity.value, "message": self.message}


def ok(name: str, message: str) -> PreflightFinding:
    """Return a finding that all is well."""
    return PreflightFinding(name=name, severity=Severity.OK, message=message)


def warning(name: str, message: str) -> PreflightFinding:
    """Return a finding that someone should know of."""
    return PreflightFinding(name=name, severity=Severity.WARNING, message=message)


def error(name: str, message: str, raises: type[TunetrailError]) -> PreflightFinding:
    """Return a finding that keeps a training from beginning."""
    return PreflightFinding(name=name, severity=Severity.ERROR, message=message, raises=raises)


def broken_model(name: str) -> PreflightFinding:
    """Return the finding that a model's own numbers aren't finite, before any training."""
    message = "train/loss must be finite, got nan before the first step: the model's weights are broken. Take another."
    return error(name, message, TrainingError)


@dataclass(frozen=True, kw_only=True, slots=True)
class PreflightReport:
    """All that was found before a training.

    Attributes:
        findings: One per check.
        preview: Some training examples as the model reads them.
        seconds: Wall-clock time of the checks.
    """

    findings: Sequence[PreflightFinding]
    preview: str
    seconds: float

    def of(self, severity: Severity) -> list[PreflightFinding]:
        """Return the findings that are so bad."""
        return [finding for finding in self.findings if finding.severity == severity]

    def raise_error(self) -> None:
        """Raise the error, if there is one."""
        for finding in self.of(Severity.ERROR):
            raise finding.raises(finding.message)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, without the preview."""
        return {
            "findings": [finding.to_dict() for finding in self.findings],
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        """Return the findings and the preview as text, for people."""
        lines = [f"{each.severity:<8} {each.name}: {each.message}" for each in self.findings]
        return "\n".join([*lines, "", self.preview, ""])
