"""The results of the checks: flags and measures, compared with the configured thresholds."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tunetrail.config import CheckConfig, ValidationConfig
from tunetrail.data.checks.catalog import Check, active_checks, check_config
from tunetrail.data.checks.results import CheckResult, Example, Flag
from tunetrail.data.checks.session_checks import SessionFindings
from tunetrail.samples import SampleShape, column_type, shape_named

MAX_SHARE_DROPPED = "cleaning.max_share_dropped"
"""The finding, and the setting, of how many rows cleaning sets aside."""

UNLEARNABLE = "conversations.unlearnable"
# Share of rows without a form in the chat template from which on it is the wrong model's.
_MOST_UNLEARNABLE = 0.5

EXAMPLES = 5
"""Number of rows that are shown of each result."""


def check_results(
    config: ValidationConfig,
    flags: Sequence[Flag],
    findings: SessionFindings,
    rows: int,
    shapes: Mapping[str, int],
) -> tuple[CheckResult, ...]:
    """Return a result, passed ones too, for every active check that applies to the shapes.

    Args:
        config: Thresholds and severities.
        flags: Rows concerned, from all checks.
        findings: Measures, and the numbers of rows looked at that aren't all rows.
        rows: Number of rows that came in.
        shapes: Rows by shape.
    """
    # A row counts once, with its first detail, however often a check flags it.
    details: dict[str, dict[int, str]] = defaultdict(dict)
    for row_id, name, detail in flags:
        details[name].setdefault(row_id, detail)

    present = [shape_named(name) for name, count in shapes.items() if count]
    results = []
    for check in active_checks(config):
        if check.name in details or _applies(check, present, findings):
            configured = check_config(check.name, config)
            results.append(_result(check, configured, details[check.name], findings, rows))
    return tuple(results)


def with_examples(
    results: Sequence[CheckResult], texts: Mapping[int, str], flags: Sequence[Flag]
) -> tuple[CheckResult, ...]:
    """Return the results with the texts of their first rows.

    Args:
        results: Results without examples.
        texts: Texts by row id; rows without a text aren't shown.
        flags: Rows concerned, with details, from all checks.
    """
    # Reversed, so that the first detail of a row wins.
    details = {(check, row_id): detail for row_id, check, detail in reversed(flags)}
    with_texts = []
    for result in results:
        examples = []
        for row_id in result.row_ids[:EXAMPLES]:
            if row_id in texts:
                detail = details.get((result.check, row_id), "")
                examples.append(Example(row_id=row_id, text=texts[row_id], detail=detail))
        with_texts.append(replace(result, examples=tuple(examples)))
    return tuple(with_texts)


def stop_reason(results: Sequence[CheckResult]) -> str | None:
    """Return one sentence that names every error, or None if there is none."""
    errors = [result for result in results if result.severity == "error"]
    if not errors:
        return None

    listed = "; ".join(
        f"{error.check}: {error.message} (allowed: {error.threshold:g})" for error in errors
    )
    first = errors[0].check
    advice = f"Fix the rows, or set validation.{first}.threshold or .severity."
    if first == UNLEARNABLE:
        advice = (
            "Choose a model whose chat template has these forms, or raise "
            f"validation.{first}.threshold."
        )
    if first == MAX_SHARE_DROPPED:
        advice = f"Change that setting, or raise {first}."
    return (
        f"validation found {len(errors)} error{'s' if len(errors) > 1 else ''}: {listed}. {advice}"
    )


def _applies(check: Check, shapes: Sequence[SampleShape], findings: SessionFindings) -> bool:
    if check.is_measure:
        return check.name in findings.measures
    if check.name in ("conversations.truncated_output", UNLEARNABLE):
        return any(shape.target_is_written for shape in shapes)

    column_types = {column_type(column) for shape in shapes for column in shape.columns}
    return check.column_type is None or check.column_type in column_types


def _result(
    check: Check,
    config: CheckConfig,
    details: Mapping[int, str],
    findings: SessionFindings,
    rows: int,
) -> CheckResult:
    """Return the result of a check: its measure against the threshold that was configured."""
    rows_checked = findings.rows_checked.get(check.name, rows)
    share = len(details) / rows_checked if rows_checked else 0.0
    measure = findings.measures.get(check.name, share)

    if check.is_measure:
        note = findings.notes.get(check.name)
        message = f"{check.meaning}: {measure:.3g}{f' ({note})' if note else ''}"
    else:
        message = _message(check, config, details, rows_checked)

    severity, threshold = config.severity, config.threshold
    if check.name == UNLEARNABLE and measure > max(threshold, _MOST_UNLEARNABLE):
        severity, threshold = "error", max(threshold, _MOST_UNLEARNABLE)
    return CheckResult(
        check=check.name,
        severity=severity if measure > threshold else "passed",
        rows=len(details),
        judged=rows_checked,
        measure=measure,
        threshold=threshold,
        set_aside=config.set_aside,
        message=message,
        row_ids=tuple(details),
    )


def _message(
    check: Check, config: CheckConfig, details: Mapping[int, str], rows_checked: int
) -> str:
    if not details:
        return f"none of {rows_checked} rows: {check.meaning}"

    set_aside = ", set aside" if config.set_aside else ""
    message = f"{len(details)} of {rows_checked} rows{set_aside}: {check.meaning}"

    # If every row has a detail of its own, or all have the same that the check's name tells, none
    # of them is worth naming.
    most_common, count = Counter(details.values()).most_common(1)[0]
    says_more = most_common not in check.meaning
    if says_more and (count > 1 or len(details) == 1):
        message += f"; most common: {most_common} ({count})"
    return message
