"""Validation: sets aside the rows that nothing can be learnt from, and says why. Repairs nothing; knows no model."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pandera

from tunetrail.config import ValidationConfig
from tunetrail.data.rows import TEXT_COLUMNS, object_series, set_aside_frame, shape_of, shown
from tunetrail.errors import SampleError
from tunetrail.samples import GROUP_COLUMN, SampleKind, SampleShape

_MISSING = "not_nullable"


@dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """The rows that passed, those set aside, and what is odd but no reason to stop.

    Attributes:
        rows: Rows that passed, in their order.
        set_aside: One line for each row that failed, with all its reasons.
        reasons: How many rows failed for each reason, the commonest first; a row may have several.
        warnings: Readable sentences.
    """

    rows: pd.DataFrame
    set_aside: pd.DataFrame
    reasons: dict[str, int]
    warnings: tuple[str, ...]

    @property
    def checked(self) -> int:
        """Number of rows that came in."""
        return len(self.rows) + len(self.set_aside)

    @property
    def rejected_share(self) -> float:
        """Share of the rows that were set aside."""
        return len(self.set_aside) / self.checked

    def to_dict(self) -> dict[str, Any]:
        """Return the result without its rows, JSON-serialisable."""
        return {
            "rows_in": self.checked,
            "rows_out": len(self.rows),
            "set_aside": len(self.set_aside),
            "rejected_share": self.rejected_share,
            "reasons": dict(self.reasons),
            "warnings": list(self.warnings),
        }


def validate(rows: pd.DataFrame, kind: SampleKind, config: ValidationConfig) -> ValidationResult:
    """Check every row and set aside those that fail.

    A blank `negative` counts as an absent one, with a warning, because CSV files can't tell the two apart.

    Raises:
        SampleError: There are no rows, a column is missing, the shapes don't fit the kind, an embedding frame mixes
            shapes, no row is left, or more than `config.max_rejected_share` of the rows failed.
    """
    _check_shapes(rows, kind)
    rows, warnings = _without_blank_negatives(rows.reset_index(drop=True))
    found: dict[int, list[tuple[str, Any]]] = {}
    for name in rows["shape"].unique():
        for position, reason, value in _failures(rows[rows["shape"] == name], shape_of(name), config):
            found.setdefault(position, []).append((reason, value))
    set_aside = set_aside_frame(
        "validation",
        [
            (int(rows.at[position, "row_id"]), "; ".join(reason for reason, _ in failed), shown(failed[0][1]), None)
            for position, failed in sorted(found.items())
        ],
    )
    reasons = Counter(reason for failed in found.values() for reason, _ in failed)
    passed = rows.drop(index=list(found)).reset_index(drop=True)
    _check_enough_left(len(passed), len(rows), reasons, config)
    return ValidationResult(
        rows=passed,
        set_aside=set_aside,
        reasons=dict(reasons.most_common()),
        warnings=(*warnings, *_warnings(passed)),
    )


def _check_shapes(rows: pd.DataFrame, kind: SampleKind) -> None:
    if rows.empty:
        raise SampleError(
            f"rows must hold at least one {kind} sample, got 0. Log samples to the session or choose another."
        )
    counts = Counter(rows["shape"])
    foreign = [name for name in counts if shape_of(name).kind != kind]
    if foreign:
        raise SampleError(
            f"shapes must be those of {kind} samples, got {', '.join(foreign)}. Train their own model type."
        )
    if kind == SampleKind.EMBEDDING and len(counts) > 1:
        listed = ", ".join(f"{name} ({count})" for name, count in counts.most_common())
        commonest = counts.most_common(1)[0][0]
        raise SampleError(
            f"embedding samples must all have one shape, got {listed}. "
            f"Choose one, for example embedding.shape={commonest}."
        )


def _without_blank_negatives(rows: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    if "negative" not in rows:
        return rows, ()
    blank = [isinstance(value, str) and not value.strip() for value in rows["negative"]]
    if not any(blank):
        return rows, ()
    values = [None if is_blank else value for is_blank, value in zip(blank, rows["negative"], strict=True)]
    warning = f"{sum(blank)} of {len(rows)} rows have an empty negative: they are learnt from without it."
    return rows.assign(negative=object_series(values)), (warning,)


def _failures(rows: pd.DataFrame, shape: SampleShape, config: ValidationConfig) -> Iterator[tuple[int, str, Any]]:
    """Yield (position in the frame, reason, offending value) for each failed check of rows of one shape."""
    try:
        _schema(rows, shape, config).validate(rows, lazy=True)
    except pandera.errors.SchemaErrors as error:
        cases = error.failure_cases
        whole = cases.loc[cases["index"].isna(), ["check", "failure_case"]]
        if len(whole):
            wanted, failed = ", ".join(shape.columns), "; ".join(f"{check}: {case}" for check, case in whole.to_numpy())
            raise SampleError(f"columns of {shape.name} rows must be {wanted}, got {failed}.") from error
        for case in cases.to_dict("records"):
            absent = case["check"] == _MISSING
            reason = f"{case['column']} is missing" if absent else case["check"]
            yield int(case["index"]), reason, None if absent else rows.at[int(case["index"]), case["column"]]


def _schema(rows: pd.DataFrame, shape: SampleShape, config: ValidationConfig) -> Any:
    columns: dict[str, Any] = {
        "row_id": pandera.Column(int),
        GROUP_COLUMN: pandera.Column(checks=_checks("group is not a string", _is_text), nullable=True),
    }
    for column in shape.columns:
        # An absent optional column is the same as one full of None.
        required = column in shape.required
        checks = _column_checks(rows, column, config)
        columns[column] = pandera.Column(checks=checks, nullable=not required, required=required)
    return pandera.DataFrameSchema(columns)


def _column_checks(rows: pd.DataFrame, column: str, config: ValidationConfig) -> list[Any]:
    if column == "score":
        return _checks("score is not a finite number", _is_finite_number)
    if column == "embedding":
        return _vector_checks(rows)
    if column == "messages":
        return _message_checks(config)
    checks = [
        *_checks(f"{column} is not a string", _is_text),
        *_checks(f"{column} is empty", lambda value: not _is_text(value) or bool(value.strip())),
    ]
    return [*checks, *_length_checks(column, config, _text_or_none)] if column in TEXT_COLUMNS else checks


def _checks(reason: str, holds: Callable[[Any], bool]) -> list[Any]:
    return [pandera.Check(holds, element_wise=True, error=reason)]


def _length_checks(column: str, config: ValidationConfig, text_of: Callable[[Any], str | None]) -> list[Any]:
    def long_enough(value: Any) -> bool:
        text = text_of(value)
        return text is None or not text.strip() or len(text.strip()) >= config.min_characters

    def short_enough(value: Any) -> bool:
        text = text_of(value)
        return text is None or len(text) <= config.max_characters

    return [
        *_checks(f"{column} is shorter than {config.min_characters} characters", long_enough),
        *_checks(f"{column} is longer than {config.max_characters} characters", short_enough),
    ]


def _vector_checks(rows: pd.DataFrame) -> list[Any]:
    lengths = Counter(len(value) for value in rows.get("embedding", ()) if _is_vector(value))
    checks = _checks("embedding is not a non-empty list of finite numbers", _is_vector)
    checks += _checks("embedding has a norm of zero", lambda value: not _is_vector(value) or bool(np.any(value)))
    if not lengths:
        return checks
    usual = lengths.most_common(1)[0][0]

    def has_usual_length(value: Any) -> bool:
        return not _is_vector(value) or len(value) == usual

    return checks + _checks(f"embedding has not the {usual} dimensions of most rows", has_usual_length)


def _message_checks(config: ValidationConfig) -> list[Any]:
    return [
        *_checks("messages is not a list of {role, content}", _is_conversation),
        *_checks("messages has no assistant turn with text", partial(_has_text_by, "assistant")),
        *_length_checks("messages", config, _conversation_text),
    ]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _is_finite_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and bool(np.isfinite(value))


def _is_vector(value: Any) -> bool:
    if not isinstance(value, list | tuple | np.ndarray) or len(value) == 0:
        return False
    numbers = np.asarray(value, dtype=object)
    if numbers.ndim != 1 or not all(isinstance(number, int | float | np.number) for number in numbers):
        return False
    return bool(np.isfinite(numbers.astype(np.float64)).all())


def _is_conversation(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(
            isinstance(turn, dict) and _is_text(turn.get("role")) and _is_text(turn.get("content")) for turn in value
        )
    )


def _has_text_by(role: str, value: Any) -> bool:
    return not _is_conversation(value) or any(turn["role"] == role and turn["content"].strip() for turn in value)


def _conversation_text(value: Any) -> str | None:
    return "\n".join(turn["content"] for turn in value) if _is_conversation(value) else None


def _check_enough_left(left: int, checked: int, reasons: "Counter[str]", config: ValidationConfig) -> None:
    rejected = checked - left
    if left and rejected <= config.max_rejected_share * checked:
        return
    reason, count = reasons.most_common(1)[0]
    way_out = f"Mend or remove them{', or raise validation.max_rejected_share' if left else ''}."
    raise SampleError(
        f"rejected rows must be at most {config.max_rejected_share:.0%} of all, got {rejected} of {checked}; "
        f"commonest reason: {reason} ({count} rows). {way_out}"
    )


def _warnings(rows: pd.DataFrame) -> Iterator[str]:
    if "anchor" in rows:
        equal = sum(anchor == positive for anchor, positive in zip(rows["anchor"], rows["positive"], strict=True))
        if equal:
            yield f"{equal} of {len(rows)} pairs have an anchor equal to their positive: they teach nothing."
    if "score" in rows and len(rows) > 1 and len(set(rows["score"])) == 1:
        yield f"all {len(rows)} scores equal {rows['score'].iloc[0]}: there is no order to learn."
    if "label" in rows:
        counts = Counter(rows["label"])
        if len(counts) == 1:
            yield f"all {len(rows)} rows have the label {rows['label'].iloc[0]!r}: there is nothing to tell apart."
        elif max(counts.values()) == 1:
            yield "every label occurs once: no two rows can be drawn together."
