"""Verdicts under other names than `feedback`: labels that say whether an answer is a good one."""

from typing import Any

from tunetrail.data.conventions.convention import Row
from tunetrail.data.conversations.feedback import (
    FEEDBACK_COLUMNS,
    LABEL_VERDICTS,
    SCORE_COLUMNS,
    verdict_of,
)
from tunetrail.errors import SampleError
from tunetrail.samples.values import shortened

LABEL_COLUMNS = ("label", "kto_tag", "is_correct", "correct", "accepted", "is_accepted", "liked")
"""Columns that hold a verdict if their value is a truth value, 0 or 1, and a class otherwise."""

VERDICT_COLUMNS = (*FEEDBACK_COLUMNS, *LABEL_COLUMNS)
"""Columns of a row that may say that its answer is not to be learnt."""

JUDGEMENT_COLUMNS = ("relevance", "relevant", "is_relevant", "is_duplicate", "score")
"""Columns that may say whether the second text of a pair belongs to the first."""

_FEEDBACK = (*FEEDBACK_COLUMNS, *SCORE_COLUMNS)
_ANY_VERDICT = frozenset((*_FEEDBACK, *LABEL_COLUMNS, *JUDGEMENT_COLUMNS))


def is_verdict(column: str, value: Any) -> bool:
    """Tell whether the value of a column is a verdict, and not the name of a class or a score."""
    return column in FEEDBACK_COLUMNS or _read(value) is not None


def checked_verdict(row: Row, claim: str, columns: tuple[str, ...] = ()) -> None:
    """Raise an error if a verdict in the row, or in one of the further columns, rejects it.

    Args:
        row: The row.
        claim: What a verdict would have to confirm, for the error.
        columns: `JUDGEMENT_COLUMNS` if the row is a pair of texts.

    Raises:
        SampleError: A verdict rejects the answer, or the feedback can't be read.
    """
    # Most rows have no verdict, and millions of rows are read.
    if _ANY_VERDICT.isdisjoint(row):
        return

    check_labels(row, claim, columns)
    if not any(column in row for column in _FEEDBACK):
        return
    verdict = verdict_of(row)
    if verdict is not None and not verdict.accepted:
        raise SampleError(
            f"feedback must accept the answer, got {verdict.wording}. "
            "Nothing is learnt from the row."
        )


def check_labels(row: Row, claim: str, columns: tuple[str, ...] = ()) -> None:
    """Raise an error if a label rejects the answer; feedback isn't read, see `checked_verdict`."""
    for column in (*LABEL_COLUMNS, *columns):
        value = row.get(column)
        if value is not None and _read(value) is False:
            raise SampleError(
                f"{column} must confirm that {claim}, got {shortened(value)}. "
                "Nothing is learnt from the row."
            )


def _read(value: Any) -> bool | None:
    """Return what a value says of an answer, None for a class or another number."""
    # NumPy's numbers and truth values are written like Python's.
    return LABEL_VERDICTS.get(str(value).strip().casefold())
