"""The account of the rows: how many rows each step took in, changed and set aside, and why."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tunetrail.data.checks.results import StepAccount
from tunetrail.data.flow.chunk_steps import ChunkCounts, PreparedChunk
from tunetrail.data.flow.removals import Removals
from tunetrail.reporting.readable import counted


def step_accounts(
    chunks: Sequence[PreparedChunk], removals: Removals, row_ids: npt.NDArray[np.int64]
) -> tuple[StepAccount, StepAccount]:
    """Return the accounts of validation and cleaning.

    Args:
        chunks: All chunks of the session, with the rows that their steps set aside.
        removals: The rows that are removed in addition.
        row_ids: Ids of the rows of all chunks, in order.
    """
    # A changed row that is removed later counts as removed, not as changed.
    removed = set(row_ids[removals.positions].tolist())
    changed = 0
    reasons: dict[str, Counter[str]] = {"validation": Counter(), "cleaning": Counter()}
    for chunk in chunks:
        changed_ids = chunk.changes(["row_id"])["row_id"]
        changed += int((~changed_ids.isin(removed)).sum())
        set_aside = chunk.set_aside(["step", "reason"])
        for step, reason in zip(set_aside["step"], set_aside["reason"], strict=True):
            reasons[step][reason_kind(reason)] += 1
    reasons["validation"].update(map(reason_kind, removals.validation.values()))
    reasons["cleaning"].update(map(reason_kind, removals.cleaning.values()))

    # Rows that validation removes here had already passed the cleaning of their chunks.
    counts = ChunkCounts.total(chunks)
    validated = counts.validated - len(removals.validation)
    cleaned = counts.cleaned - len(removals.validation) - len(removals.cleaning)
    return (
        _account("validation", counts.rows_in, validated, reasons["validation"]),
        _account("cleaning", validated, cleaned, reasons["cleaning"], changed),
    )


def split_account(rows: int, no_sides: str | None) -> StepAccount:
    """Return the account of the split, which sets all rows aside if there is a reason for it."""
    if no_sides is None or not rows:
        return _account("split", rows, rows, Counter())
    return _account("split", rows, 0, Counter({reason_kind(no_sides): rows}))


def too_few_left(validation: StepAccount, allowed_share: float) -> str | None:
    """Return why the rejected rows are too many to train on the others, or None if they aren't."""
    if validation.rows_out and validation.set_aside <= allowed_share * validation.rows_in:
        return None

    # Reasons are sorted by count, the commonest first.
    reason, count = next(iter(validation.reasons.items()))
    raise_limit = ", or raise validation.max_rejected_share" if validation.rows_out else ""
    return (
        f"rejected rows must be at most {allowed_share:.0%} of all, "
        f"got {validation.set_aside} of {validation.rows_in}; "
        f"most common reason: {reason} ({counted(count, 'row')}). Fix or remove them{raise_limit}."
    )


def reason_kind(reason: str) -> str:
    """Return a reason without the numbers that differ from row to row."""
    # Only reasons that quote another row, a length or a score have such numbers.
    if " row " in reason or "tokens" in reason or "score" in reason:
        return re.sub(r"\d+(\.\d+)?", "N", reason)
    return reason


def _account(
    step: str, rows_in: int, rows_out: int, reasons: Counter[str], changed: int = 0
) -> StepAccount:
    return StepAccount(
        step=step,
        rows_in=rows_in,
        rows_out=rows_out,
        set_aside=rows_in - rows_out,
        changed=changed,
        reasons=dict(reasons.most_common()),
    )
