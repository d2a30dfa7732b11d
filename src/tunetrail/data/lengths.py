"""Lengths in the tokens of the model that will read the rows, and what becomes of rows that are too long for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.data.rows import content_text, records_of, set_aside_frame
from tunetrail.data.texts.sentences import truncated
from tunetrail.samples import shape_named

_AT_ONCE = 1000
"""Records: what a tokenizer returns of a text is many times as large as the text."""


class TokenCounter(Protocol):
    """Counts tokens as one model does; can be handed to another process.

    Attributes:
        max_length: Tokens that the model reads.
        identity: Names the tokenizer and its settings; equal ones count alike.
    """

    @property
    def max_length(self) -> int:
        """Return the tokens that the model reads."""

    @property
    def identity(self) -> str:
        """Return what the counts depend on."""

    def of_texts(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the tokens of each text, [texts]."""

    def of_records(self, records: Sequence[dict[str, Any]]) -> npt.NDArray[np.int64]:
        """Return the tokens of each row as the model reads it, [records]: its longest text, or the whole example."""


@dataclass(frozen=True, kw_only=True)
class MeasuredRows:
    """Rows with a column `token_count`, and what the length policy did.

    Attributes:
        rows: Rows that stay.
        set_aside: Rows that were too long.
        changes: Rows of which a text was truncated.
        too_long: One (`row_id`, tokens, whether what is learnt would be cut off) for each incoming row that is longer
            than the model reads.
    """

    rows: pd.DataFrame
    set_aside: pd.DataFrame
    changes: pd.DataFrame
    too_long: tuple[tuple[int, int, bool], ...]


def measure_lengths(
    rows: pd.DataFrame, policy: str, counter: TokenCounter, mask: Callable[[str], str] = str
) -> MeasuredRows:
    """Count the tokens of cleaned rows and apply the length policy to those longer than the model reads.

    Args:
        rows: Cleaned rows.
        policy: `keep` (the model cuts them), `truncate` (at the last sentence that fits; a row that ends in what is
            learnt is dropped, since a cut answer teaches a model to stop in the middle) or `drop`.
        counter: The model's tokenizer.
        mask: Replaces personal data in what is kept of a changed row.
    """
    rows = rows.reset_index(drop=True)
    records = records_of(rows)
    blocks = [
        counter.of_records(records[start : start + _AT_ONCE])
        for start in range(0, len(records), _AT_ONCE)
    ]
    counts = np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.int64)
    longer = np.flatnonzero(counts > counter.max_length)
    found = tuple(
        (
            int(records[each]["row_id"]),
            int(counts[each]),
            shape_named(records[each]["shape"]).target_is_written,
        )
        for each in longer
    )
    gone, changes = [], []
    if policy != "keep":
        for position in longer:
            record = records[position]
            before = content_text(record, mask)
            reason = f"{counts[position]} tokens are more than the {counter.max_length} that the model reads"
            truncatable = shape_named(record["shape"]).truncatable
            if policy == "drop" or not truncatable:
                gone.append((int(position), (record["row_id"], reason, before, None)))
                continue
            for column in truncatable:
                if record.get(column) is not None:
                    record[column] = truncated(record[column], counter.max_length, counter.of_texts)
                    rows.at[position, column] = record[column]
            counts[position] = counter.of_records([record])[0]
            changes.append(
                (
                    record["row_id"],
                    f"truncated at a sentence: {reason}",
                    before,
                    content_text(record, mask),
                )
            )
    return MeasuredRows(
        rows=rows.assign(token_count=counts.astype(np.int32))
        .drop(index=[each for each, _ in gone])
        .reset_index(drop=True),
        set_aside=set_aside_frame("cleaning", [line for _, line in gone]),
        changes=set_aside_frame("cleaning", changes),
        too_long=found,
    )
