"""The data report: one HTML file that says what became of a session's rows and why. Judges nothing, writes no file.

The file needs no script and no other file: its pictures are inside it. A content security policy forbids scripts and
requests even where a viewer would allow them, and the template escapes all that it is given.
"""

import base64
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tunetrail.data.checks.findings import Finding, StepAccount
from tunetrail.data.report.pictures import SHOWN_LABELS, figures, finite_lengths, png
from tunetrail.data.report.readable import SHOWN_CHARACTERS, Span, differences, readable
from tunetrail.data.report.report_data import ReportData, ReportSection, largest, rows_by_reason

if TYPE_CHECKING:
    from jinja2 import Template

_TEMPLATE = Path(__file__).with_name("report.html")
_SHOWN_ROWS = 20
_SHOWN_FINDINGS = 60
_SHOWN_EXAMPLES = 3
_SHOWN_ENTRIES = 12
_LONGEST_VALUE = 2 * SHOWN_CHARACTERS
_SEVERITIES = ("error", "warning", "passed")
_NO_SHARES = ("drift.", "labels.imbalance")
_PICTURES = {
    "rows": "Rows that go on, step by step, and the sides that they are split into",
    "lengths": "Lengths of the rows",
    "labels": "Rows by label",
    "reasons": "Why rows were set aside",
    "privacy": "Personal data and secrets replaced by placeholders",
}


class _DataAddress(str):
    """A picture's `data:` address: the one value that is not shortened."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    row_id: int
    spans: tuple[Span, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reason:
    step: str
    reason: str
    rows: int
    lines: tuple[_Line, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sample:
    rows: int
    reasons: tuple[_Reason, ...]
    other_reasons: int
    other_rows: int


def render(data: ReportData) -> str:
    """Return the report as the text of one HTML file, the same for the same data.

    Whatever the session's size, the text besides the pictures stays short: tables show samples, texts are cut.
    """
    return _template().render(data=data, sections=[_view(section) for section in data.sections])


def verdict(section: ReportSection) -> str:
    """Return the section in one sentence: how many errors and warnings, and how many rows go on."""
    errors, warnings = (_number_of(section.findings, severity) for severity in ("error", "warning"))
    rows_in = section.account[0].rows_in if section.account else sum(section.sides.values())
    rows_out = section.account[-1].rows_out if section.account else sum(section.sides.values())
    rows = f"{rows_out:,} of {_counted(rows_in, 'row')}"
    if not section.findings:
        found = "no checks"
    elif errors:
        found = f"{_counted(errors, 'error')}, {_counted(warnings, 'warning')}"
    else:
        found = f"{_counted(warnings, 'warning')}, no errors"
    refused = errors or section.stopped is not None
    return (
        f"{found}: training is refused; {rows} would go on" if refused else f"{found}: {rows} go on"
    )


def _view(section: ReportSection) -> dict[str, Any]:
    findings = sorted(section.findings, key=lambda finding: _SEVERITIES.index(finding.severity))
    noticed = [finding for finding in findings if finding.severity != "passed"]
    return {
        "name": section.name,
        "verdict": verdict(section),
        "stopped": section.stopped,
        "tone": "error"
        if section.stopped or _number_of(findings, "error")
        else "warning"
        if noticed
        else "good",
        "account": section.account[:_SHOWN_ENTRIES],
        "sides": dict(list(section.sides.items())[:_SHOWN_ENTRIES]),
        "noticed": noticed[:_SHOWN_FINDINGS],
        "passed": findings[len(noticed) :][:_SHOWN_FINDINGS],
        "unseen": max(len(noticed) - _SHOWN_FINDINGS, 0),
        "drift": dict(list(section.drift.items())[:_SHOWN_ENTRIES]),
        "pictures": [
            (name, _PICTURES[name], _address(png(each))) for name, each in figures(section).items()
        ],
        "lengths": [
            _length_summary(unit, values, section)
            for unit, values in finite_lengths(section).items()
        ],
        "numbers": {
            "labels": largest(section.labels, SHOWN_LABELS),
            "privacy": largest(section.privacy, _SHOWN_ENTRIES),
        },
        "set_aside": _sample(section.set_aside),
        "changes": _sample(section.changes),
    }


def _sample(frame: pd.DataFrame) -> _Sample:
    """Return some rows of the commonest reasons, `_SHOWN_ROWS` at most in all."""
    places = rows_by_reason(frame)
    each = max(_SHOWN_ROWS // max(len(places), 1), 1)
    reasons = tuple(
        _Reason(
            step=readable(step, 60),
            reason=readable(reason),
            rows=len(found),
            lines=_lines(frame.iloc[found[:each]]),
        )
        for (step, reason), found in list(places.items())[:_SHOWN_ROWS]
    )
    others = [len(found) for found in list(places.values())[_SHOWN_ROWS:]]
    return _Sample(
        rows=len(frame), reasons=reasons, other_reasons=len(others), other_rows=sum(others)
    )


def _lines(rows: pd.DataFrame) -> tuple[_Line, ...]:
    records = rows[["row_id", "before", "after"]].itertuples(index=False)
    return tuple(
        _Line(row_id=int(row_id), spans=_spans(before, after)) for row_id, before, after in records
    )


def _spans(before: Any, after: Any) -> tuple[Span, ...]:
    if not isinstance(before, str):
        return (Span(kind="added", text=readable(after)),) if isinstance(after, str) else ()
    if not isinstance(after, str):
        return (Span(kind="same", text=readable(before)),)
    return differences(before, after)


def _length_summary(
    unit: str, values: NDArray[np.float64], section: ReportSection
) -> dict[str, Any]:
    limit = section.max_length if unit == "tokens" else None
    median, high = np.quantile(values, (0.5, 0.95))
    return {
        "unit": unit,
        "numbers": [f"{number:,.0f}" for number in (values.min(), median, high, values.max())],
        "above": "" if limit is None else f"{int((values > limit).sum()):,}",
    }


def _address(picture: bytes) -> _DataAddress:
    return _DataAddress(f"data:image/png;base64,{base64.b64encode(picture).decode()}")


def _number_of(findings: Iterable[Finding], severity: str) -> int:
    return sum(finding.severity == severity for finding in findings)


def _counted(number: int, noun: str) -> str:
    return (
        f"{number or 'no' if noun != 'row' else f'{number:,}'} {noun}{'' if number == 1 else 's'}"
    )


def _count(number: int) -> str:
    return f"{number:,}"


def _measured(finding: Finding) -> str:
    """Return the measure beside its threshold, as shares in percent and other measures as they are."""
    share = not finding.check.startswith(_NO_SHARES)
    relation = ">" if finding.measure > finding.threshold else "≤"
    return f"{_plain(finding.measure, share)} {relation} {_plain(finding.threshold, share)}"


def _plain(number: float, share: bool = False) -> str:
    if not math.isfinite(number):
        return "n/a"
    return f"{100 * number:.3g}%" if share and 100 * abs(number) < 1000 else f"{number:.3g}"


def _reasons(step: StepAccount) -> str:
    shown, others, rest = largest(step.reasons, _SHOWN_ENTRIES)
    listed = [f"{readable(reason, 40)} {rows:,}" for reason, rows in shown]
    return ", ".join([*listed, *([f"{others:,} others {rest:,}"] if others else [])])


def _finalized(value: Any) -> Any:
    """Return what the template prints: never longer than a paragraph, never unprintable.

    Markup comes from the template's own macros only; pictures are the other long values.
    """
    from markupsafe import Markup

    return value if isinstance(value, (Markup, _DataAddress)) else readable(value, _LONGEST_VALUE)


@cache
def _template() -> "Template":
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True,
        finalize=_finalized,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: Mapping[str, Any] = {
        "count": _count,
        "measured": _measured,
        "plain": _plain,
        "reasons": _reasons,
        "readable": readable,
    }
    environment.filters.update(filters)
    environment.globals["shown_examples"] = _SHOWN_EXAMPLES
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
