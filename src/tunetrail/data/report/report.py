"""The data report: one HTML page that says what became of a session's rows, and why."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tunetrail.data.checks.results import CheckResult, StepAccount
from tunetrail.data.report.pictures import SHOWN_LABELS, figures, finite_lengths
from tunetrail.data.report.report_data import ReportData, ReportSection, rows_by_reason
from tunetrail.reporting.charts import pngs
from tunetrail.reporting.html import PageTemplate, picture_address
from tunetrail.reporting.readable import Span, compact, counted, differences, largest, readable

# Limits that keep the page short whatever the session's size.
_SHOWN_ROWS = 20
_SHOWN_FINDINGS = 60
_SHOWN_EXAMPLES = 3
_SHOWN_ENTRIES = 12
_SEVERITIES = ("error", "warning", "passed")
# Checks whose measure isn't a share of the rows.
_NO_SHARES = ("drift.", "labels.imbalance", "labels.similar")
_CAPTIONS = {
    "rows": "Rows that remain after each step, and the splits that they end up in",
    "lengths": "Lengths of the rows",
    "labels": "Rows by label",
    "reasons": "Why rows were set aside",
    "privacy": "Personal data and secrets replaced by placeholders",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _ShownRow:
    row_id: int
    spans: tuple[Span, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _ReasonGroup:
    step: str
    reason: str
    rows: int
    shown: tuple[_ShownRow, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sample:
    rows: int
    groups: tuple[_ReasonGroup, ...]
    other_reasons: int
    other_rows: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DataReportPage:
    """The page of prepared rows, and its pictures as files of their own.

    Attributes:
        html: The page.
        pictures: The PNGs of each section by name, in the order of the sections.
    """

    html: str
    pictures: tuple[Mapping[str, bytes], ...]


def render(data: ReportData) -> DataReportPage:
    """Return the report as the text of one HTML file; the same data always gives the same text.

    Apart from the pictures, the text stays short whatever the session's size: tables show samples,
    and long texts are cut.
    """
    pictures = tuple(pngs(figures(section)) for section in data.sections)
    sections = list(map(_section_values, data.sections, pictures))
    html = _TEMPLATE.render(data=data, sections=sections, shown_examples=_SHOWN_EXAMPLES)
    return DataReportPage(html=html, pictures=pictures)


def headline(section: ReportSection) -> str:
    """Return the section in one sentence: its errors and warnings, and how many rows remain."""
    errors = _count_severity(section.findings, "error")
    warnings = counted(_count_severity(section.findings, "warning"), "warning", zero="no")
    if not section.findings:
        result = "no checks"
    elif errors:
        result = f"{counted(errors, 'error')}, {warnings}"
    else:
        result = f"{warnings}, no errors"

    # Without an account, nothing is known of rows that didn't reach a side.
    rows_in = rows_out = sum(section.sides.values())
    if section.account:
        rows_in, rows_out = section.account[0].rows_in, section.account[-1].rows_out
    rows = f"{rows_out:,} of {counted(rows_in, 'row')}"

    if errors or section.stopped is not None:
        return f"{result}: training is refused; {rows} would remain"
    return f"{result}: {rows} remain"


def _section_values(section: ReportSection, pictures: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the values of a section that the template prints."""
    # The worst come first and the passed ones last; within a severity, the checks keep their order.
    findings = sorted(section.findings, key=lambda finding: _SEVERITIES.index(finding.severity))
    noticed = [finding for finding in findings if finding.severity != "passed"]
    passed = findings[len(noticed) :]

    # The colour of the headline.
    tone = "warning" if noticed else "good"
    if section.stopped or _count_severity(findings, "error"):
        tone = "error"

    shown_pictures = []
    for name, picture in pictures.items():
        shown_pictures.append((name, _CAPTIONS[name], picture_address(picture)))
    lengths = []
    for unit, values in finite_lengths(section).items():
        max_length = section.max_length if unit == "tokens" else None
        lengths.append(_summarise_lengths(unit, values, max_length))

    return {
        "name": section.name,
        "headline": headline(section),
        "stopped": section.stopped,
        "tone": tone,
        "account": section.account,
        "sides": section.sides,
        "replayed": section.replayed,
        "noticed": noticed[:_SHOWN_FINDINGS],
        "not_shown": max(len(noticed) - _SHOWN_FINDINGS, 0),
        "passed": passed[:_SHOWN_FINDINGS],
        "drift": section.drift,
        "pictures": shown_pictures,
        "lengths": lengths,
        "labels": largest(section.labels, SHOWN_LABELS),
        "privacy": largest(section.privacy, _SHOWN_ENTRIES),
        "set_aside": _sample_rows(section.set_aside),
        "changes": _sample_rows(section.changes),
    }


def _sample_rows(frame: pd.DataFrame) -> _Sample:
    """Return some rows for each of the most common reasons, about `_SHOWN_ROWS` in all."""
    # Every reason gets as many rows, so that a common one doesn't hide the others.
    by_reason = list(rows_by_reason(frame).items())
    rows_per_reason = max(_SHOWN_ROWS // max(len(by_reason), 1), 1)

    groups = []
    for (step, reason), positions in by_reason[:_SHOWN_ROWS]:
        group = _ReasonGroup(
            step=readable(step, 60),
            reason=readable(reason),
            rows=len(positions),
            shown=_show_rows(frame.iloc[positions[:rows_per_reason]]),
        )
        groups.append(group)

    hidden = [len(positions) for _, positions in by_reason[_SHOWN_ROWS:]]
    return _Sample(
        rows=len(frame), groups=tuple(groups), other_reasons=len(hidden), other_rows=sum(hidden)
    )


def _show_rows(rows: pd.DataFrame) -> tuple[_ShownRow, ...]:
    columns = rows[["row_id", "before", "after"]].itertuples(index=False)
    return tuple(
        _ShownRow(row_id=int(row_id), spans=_content_spans(before, after))
        for row_id, before, after in columns
    )


def _content_spans(before: Any, after: Any) -> tuple[Span, ...]:
    if isinstance(before, str) and isinstance(after, str):
        return differences(before, after)
    if isinstance(before, str):
        return (Span(kind="same", text=readable(before)),)
    return (Span(kind="added", text=readable(after)),) if isinstance(after, str) else ()


def _summarise_lengths(
    unit: str, values: NDArray[np.float64], max_length: int | None
) -> dict[str, Any]:
    median, high = np.quantile(values, (0.5, 0.95))
    return {
        "unit": unit,
        "quantiles": [f"{length:,.0f}" for length in (values.min(), median, high, values.max())],
        "above": "" if max_length is None else f"{int((values > max_length).sum()):,}",
    }


def _count_severity(findings: Iterable[CheckResult], severity: str) -> int:
    return sum(finding.severity == severity for finding in findings)


def _compare_with_threshold(finding: CheckResult) -> str:
    """Return the measure and its threshold, such as `1.3% > 0%` or `34.2 > 20`."""
    as_share = not finding.check.startswith(_NO_SHARES)
    relation = ">" if finding.measure > finding.threshold else "≤"
    measure = compact(finding.measure, as_share=as_share)
    return f"{measure} {relation} {compact(finding.threshold, as_share=as_share)}"


def _list_reasons(step: StepAccount) -> str:
    reasons = largest(step.reasons, _SHOWN_ENTRIES)
    listed = [f"{readable(reason, 40)} {rows:,}" for reason, rows in reasons.shown]
    if reasons.hidden:
        listed.append(f"{reasons.hidden:,} others {reasons.hidden_sum:,}")
    return ", ".join(listed)


_TEMPLATE = PageTemplate(
    Path(__file__).with_name("report.html"),
    {"measured": _compare_with_threshold, "reasons": _list_reasons},
)
