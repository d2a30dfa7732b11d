"""What the checks before a training report."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tunetrail.errors import TrainingError, TunetrailError
from tunetrail.plain_values import NOT_PLAIN, plain_values


class Severity(StrEnum):
    """How bad a finding is; an error prevents the training."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, kw_only=True, slots=True)
class PreflightFinding:
    """The result of one check.

    Attributes:
        name: Name of the check.
        severity: How bad it is.
        message: What was seen and, unless it is ok, what to do.
        raises: The class of the exception for an error: it tells whose mistake it is.
    """

    name: str
    severity: Severity
    message: str
    raises: type[TunetrailError] = field(default=TrainingError, metadata=NOT_PLAIN)


def ok(name: str, message: str) -> PreflightFinding:
    """Return a finding that all is well."""
    return PreflightFinding(name=name, severity=Severity.OK, message=message)


def warning(name: str, message: str) -> PreflightFinding:
    """Return a finding that someone should know of."""
    return PreflightFinding(name=name, severity=Severity.WARNING, message=message)


def error(name: str, message: str, raises: type[TunetrailError]) -> PreflightFinding:
    """Return a finding that prevents the training."""
    return PreflightFinding(name=name, severity=Severity.ERROR, message=message, raises=raises)


def broken_model(name: str) -> PreflightFinding:
    """Return the finding that a model computes no finite numbers, before any training."""
    message = (
        "train/loss must be finite, got nan before the first step: the model's weights are broken. "
        "Choose another model."
    )
    return error(name, message, TrainingError)


@dataclass(frozen=True, kw_only=True, slots=True)
class PreflightReport:
    """The results of all checks before a training.

    Attributes:
        findings: One finding per check.
        seconds: Wall-clock time of the checks.
        preview: Some training examples as the model reads them.
    """

    findings: Sequence[PreflightFinding]
    seconds: float
    preview: str = field(metadata=NOT_PLAIN)

    def of(self, severity: Severity) -> list[PreflightFinding]:
        """Return the findings of a severity."""
        return [finding for finding in self.findings if finding.severity == severity]

    def raise_error(self) -> None:
        """Raise the error, if there is one."""
        # The checks end with the first error, so there is one at most.
        for finding in self.of(Severity.ERROR):
            raise finding.raises(finding.message)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, without the preview."""
        return plain_values(self)

    def __str__(self) -> str:
        """Return the findings and the preview as text, for people."""
        lines = []
        for finding in self.findings:
            lines.append(f"{finding.severity:<8} {finding.name}: {finding.message}")
        return "\n".join([*lines, "", self.preview, ""])
