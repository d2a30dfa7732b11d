"""Verdicts: what the checks found, held against the configured thresholds. Looks at no row itself."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace

from tunetrail.config import CheckConfig, ValidationConfig
from tunetrail.data.checks.findings import Example, Finding
from tunetrail.data.checks.session_checks import Flag, SessionJudgement
from tunetrail.samples import ColumnType, column_type, shape_named

EXAMPLES = 5
"""Rows shown of each finding."""

MEANINGS = {
    "rows.wrong_type": "values have the wrong type",
    "rows.missing": "required values are missing",
    "rows.empty": "texts are empty",
    "rows.too_short": "texts are too short",
    "rows.too_long": "texts are too long",
    "rows.too_many_tokens": "rows are longer than the model reads",
    "rows.encoding": "texts have damaged characters",
    "rows.language": "texts are in another language than most",
    "rows.constant": "rows repeat themselves and teach nothing",
    "rows.contradictory": "rows have the input of another row and a different output, label, score or preference",
    "rows.duplicate": "rows are equal to an earlier one",
    "rows.outlier": "texts are unlike all others",
    "labels.score_range": "scores lie outside the scale",
    "labels.unknown_label": "labels are unknown or look misspelt",
    "labels.imbalance": "rows of the commonest label for one of the rarest",
    "labels.mislabelled": "labels don't fit their texts",
    "vectors.not_finite": "target vectors hold numbers that are not finite",
    "vectors.zero_norm": "target vectors have a norm of zero",
    "vectors.dimension": "target vectors have another size than most",
    "conversations.turn_order": "conversations have turns out of order",
    "conversations.truncated_output": "outputs are cut off by the model's length",
    "drift.length": "distance of the text lengths from the previous session's",
    "drift.vocabulary": "distance of the words from the previous session's",
    "drift.embedding": "distance of the texts' vectors from the previous session's",
}
"""What each check is about, in the order of the report."""

_MEASURED = ("labels.imbalance", "drift.length", "drift.vocabulary", "drift.embedding")
_ONLY_FOR = {
    "labels.score_range": ColumnType.NUMBER,
    "labels.unknown_label": ColumnType.LABEL,
    "labels.mislabelled": ColumnType.LABEL,
    "vectors.not_finite": ColumnType.VECTOR,
    "vectors.zero_norm": ColumnType.VECTOR,
    "vectors.dimension": ColumnType.VECTOR,
    "conversations.turn_order": ColumnType.MESSAGES,
}
"""The type of column that a check is about, for checks that not every shape has a column for."""


def active_checks(config: ValidationConfig) -> Iterator[tuple[str, CheckConfig]]:
    """Yield the name and the configuration of every check that isn't off."""
    for group in ("rows", "labels", "vectors", "conversations", "drift"):
        section = getattr(config, group)
        for each in fields(section):
            check = getattr(section, each.name)
            if isinstance(check, CheckConfig) and check.severity != "off":
                yield f"{group}.{each.name}", check


def findings_of(
    config: ValidationConfig,
    flags: Sequence[Flag],
    judgement: SessionJudgement,
    rows: int,
    shapes: Mapping[str, int],
) -> tuple[Finding, ...]:
    """Return a finding, `passed` ones too, for every active check that applies to the shapes at hand.

    Args:
        config: Thresholds and severities.
        flags: Rows concerned, from all checks.
        judgement: Measures and numbers of rows looked at where these aren't shares of all rows.
        rows: Number of rows that came in.
        shapes: Rows by shape.
    """
    of_check: dict[str, dict[int, str]] = defaultdict(dict)
    for row_id, name, detail in flags:
        of_check[name].setdefault(row_id, detail)
    present = [shape_named(name) for name, count in shapes.items() if count]
    column_types = {column_type(column) for shape in present for column in shape.columns}
    found = []
    for name, check in active_checks(config):
        concerned = of_check.get(name, {})
        applies = name not in _ONLY_FOR or _ONLY_FOR[name] in column_types
        if name == "conversations.truncated_output":
            applies = any(shape.target_is_written for shape in present)
        if name in _MEASURED:
            applies = name in judgement.measures
        if not applies and not concerned:
            continue
        judged = judgement.judged.get(name, rows)
        measure = judgement.measures.get(name, len(concerned) / judged if judged else 0.0)
        found.append(
            Finding(
                check=name,
                severity=check.severity if measure > check.threshold else "passed",
                rows=len(concerned),
                judged=judged,
                measure=measure,
                threshold=check.threshold,
                set_aside=check.set_aside,
                message=_message(name, check, concerned, judged, measure, judgement),
                row_ids=tuple(concerned),
            )
        )
    return tuple(found)


def with_examples(
    findings: Sequence[Finding], texts: Mapping[int, str], details: Mapping[tuple[str, int], str]
) -> tuple[Finding, ...]:
    """Return findings with the texts of their first rows."""
    return tuple(
        replace(
            finding,
            examples=tuple(
                Example(
                    row_id=row_id,
                    text=texts[row_id],
                    detail=details.get((finding.check, row_id), ""),
                )
                for row_id in finding.row_ids[:EXAMPLES]
                if row_id in texts
            ),
        )
        for finding in findings
    )


def _message(
    name: str,
    check: CheckConfig,
    concerned: Mapping[int, str],
    judged: int,
    measure: float,
    judgement: SessionJudgement,
) -> str:
    if name in _MEASURED:
        note = judgement.notes.get(name)
        return f"{MEANINGS[name]}: {measure:.3g}{f' ({note})' if note else ''}"
    if not concerned:
        return f"none of {judged} rows: {MEANINGS[name]}"
    commonest, count = Counter(concerned.values()).most_common(1)[0]
    detail = f"; commonest: {commonest} ({count})" if count > 1 or len(concerned) == 1 else ""
    fate = ", set aside" if check.set_aside else ""
    return f"{len(concerned)} of {judged} rows{fate}: {MEANINGS[name]}{detail}"


def stop_reason(findings: Sequence[Finding]) -> str | None:
    """Return one sentence with every error finding, or None where nothing stops the run."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if not errors:
        return None
    listed = "; ".join(
        f"{each.check}: {each.message} (allowed: {each.threshold:g})" for each in errors
    )
    first = errors[0].check
    return (
        f"validation found {len(errors)} error{'s' if len(errors) > 1 else ''}: {listed}. Mend the rows, or set "
        f"validation.{first}.threshold or .severity."
    )
