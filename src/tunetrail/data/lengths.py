"""Counts rows in the model's own tokens, and applies the policy for rows that are too long."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.data.rows import content_text, records_of, set_aside_frame
from tunetrail.data.texts.sentences import truncated
from tunetrail.samples import shape_named

# Records tokenised at once: a tokenizer's result is many times as large as the text.
_AT_ONCE = 1000


class TokenCounter(Protocol):
    """Counts tokens as one model does; it can be handed to another process."""

    @property
    def max_length(self) -> int:
        """Number of tokens that the model reads."""

    @property
    def identity(self) -> str:
        """Name of the tokenizer and its settings; equal ones give equal counts."""

    def of_texts(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the number of tokens of each text, [texts]."""

    def of_records(self, records: Sequence[dict[str, Any]]) -> npt.NDArray[np.int64]:
        """Return the number of tokens of each row as the model reads it, [records].

        That is the longest text of a row, or the whole example of a language model.
        """


@runtime_checkable
class LearnabilityCounter(Protocol):
    """Counts tokens, and knows rows that have no form in the model's chat template."""

    def measured(
        self, records: Sequence[dict[str, Any]]
    ) -> tuple[npt.NDArray[np.int64], list[str]]:
        """Return the counts, and why nothing can be learnt from each row ("" if it can be)."""


@dataclass(frozen=True, kw_only=True)
class MeasuredRows:
    """Rows with a column `token_count`, and the result of the length policy.

    Attributes:
        rows: Rows that stay.
        set_aside: Rows that were too long.
        changes: Rows with a truncated text.
        too_long: (`row_id`, tokens, whether the target would be cut off) of each incoming row that
            is longer than the model reads.
        unlearnable: (`row_id`, reason) of each row that the model's chat template has no form for.
    """

    rows: pd.DataFrame
    set_aside: pd.DataFrame
    changes: pd.DataFrame
    too_long: tuple[tuple[int, int, bool], ...]
    unlearnable: tuple[tuple[int, str], ...] = ()


def measure_lengths(
    rows: pd.DataFrame, policy: str, counter: TokenCounter, mask: Callable[[str], str] = str
) -> MeasuredRows:
    """Count the tokens of cleaned rows, and apply the length policy to rows that are too long.

    Args:
        rows: Cleaned rows.
        policy: `keep` (the model cuts them), `drop`, or `truncate` at the last sentence that fits.
            `truncate` drops a row that ends in its target, because a truncated answer teaches a
            model to stop in the middle.
        counter: The model's tokenizer.
        mask: Replaces personal data in the recorded content of a changed row.
    """
    rows = rows.reset_index(drop=True)
    records = records_of(rows)
    counts, problems = _count_tokens(records, counter)
    too_long = np.flatnonzero(counts > counter.max_length)
    lengths = []
    for position in too_long:
        record = records[position]
        target_is_cut = shape_named(record["shape"]).target_is_written
        # Reported under every policy: the checks tell how many rows were too long as they came.
        lengths.append((int(record["row_id"]), int(counts[position]), target_is_cut))

    dropped: list[int] = []
    set_aside, changes = [], []
    unlearnable = [(row, problem) for row, problem in enumerate(problems) if problem]
    for row, problem in unlearnable:
        record = records[row]
        dropped.append(row)
        set_aside.append((record["row_id"], problem, content_text(record, mask), None))

    for position in [] if policy == "keep" else too_long:
        if problems[position]:
            continue
        record = records[position]
        row_id, before = record["row_id"], content_text(record, mask)
        limit = f"the {counter.max_length} that the model reads"
        reason = f"{counts[position]} tokens are more than {limit}"

        truncatable = shape_named(record["shape"]).truncatable
        if policy == "drop" or not truncatable:
            dropped.append(int(position))
            set_aside.append((row_id, reason, before, None))
            continue
        for column in truncatable:
            if record.get(column) is not None:
                record[column] = truncated(record[column], counter.max_length, counter.of_texts)
                rows.at[position, column] = record[column]
        # Counted again, because a cut at a sentence leaves fewer tokens than the limit.
        counts[position] = counter.of_records([record])[0]
        after = content_text(record, mask)
        changes.append((row_id, f"truncated at a sentence: {reason}", before, after))

    counted_rows = rows.assign(token_count=counts.astype(np.int32))
    return MeasuredRows(
        rows=counted_rows.drop(index=dropped).reset_index(drop=True),
        set_aside=set_aside_frame("cleaning", set_aside),
        changes=set_aside_frame("cleaning", changes),
        too_long=tuple(lengths),
        unlearnable=tuple((int(records[row]["row_id"]), problem) for row, problem in unlearnable),
    )


def _count_tokens(
    records: Sequence[dict[str, Any]], counter: TokenCounter
) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Return the tokens of each row, and why it can't be learnt, counted block by block."""
    counts = np.zeros(len(records), dtype=np.int64)
    problems = [""] * len(records)
    for start in range(0, len(records), _AT_ONCE):
        block = slice(start, start + _AT_ONCE)
        if isinstance(counter, LearnabilityCounter):
            counts[block], problems[block] = counter.measured(records[block])
        else:
            counts[block] = counter.of_records(records[block])
    return counts, problems
