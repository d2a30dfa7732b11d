"""Turn texts made from rows (drafts) into rows, and say why a draft can't become one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tunetrail.data.rows import object_series, set_aside_frame, shown
from tunetrail.samples import shape_named


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """A text for a copy of a row, in the column that may be reworded.

    Attributes:
        position: The parent's position in its frame.
        source: The parent's text that the draft was made from.
        text: The text of the draft.
    """

    position: int
    source: str
    text: str


def normalised(text: str) -> str:
    """Return the letters and digits of a text in lower case, without punctuation and spaces."""
    return "".join(filter(str.isalnum, text.casefold()))


def rejections(
    drafts: Sequence[Draft], rows: pd.DataFrame, seen: set[tuple[int, str]], *, exact: bool
) -> list[str | None]:
    """Return why each draft can't be added, None if it can; drafts that can are added to `seen`.

    Args:
        drafts: Drafts of one method.
        rows: The rows that they were made from.
        seen: Position and text of the drafts accepted before, by any method.
        exact: Whether capitals, punctuation and spaces make a draft differ from its parent.
    """
    comparable: Callable[[str], str] = str if exact else normalised
    reasons: list[str | None] = []

    for draft in drafts:
        shape = shape_named(rows.at[draft.position, "shape"])
        original = rows.at[draft.position, shape.reworded]
        text = comparable(draft.text)

        reason = None
        if not text.strip():
            reason = "nothing was made"
        # A query is made from the passage, but replaces the row's own query: it may repeat neither.
        elif text in (comparable(original), comparable(draft.source)):
            reason = "no different from its parent"
        elif (draft.position, draft.text) in seen:
            reason = "made before from the same row"
        else:
            seen.add((draft.position, draft.text))
        reasons.append(reason)
    return reasons


def append_drafts(rows: pd.DataFrame, drafts: Sequence[Draft]) -> pd.DataFrame:
    """Return the rows, followed by a copy of the parent for each draft with the draft's text.

    The copies have the row ids -1, -2, and so on, and their parents' in the column `parent_id`.
    """
    if not drafts:
        return rows
    positions = [draft.position for draft in drafts]
    columns = [shape_named(name).reworded for name in rows["shape"].iloc[positions]]
    longer = pd.concat([rows, rows.iloc[positions]], ignore_index=True)

    # pandas would turn None into NaN when it concatenates, so objects are written again as lists.
    for column in rows.columns:
        if rows[column].dtype != object:
            continue
        values = rows[column].tolist()
        for draft, reworded in zip(drafts, columns, strict=True):
            is_reworded = reworded == column
            values.append(draft.text if is_reworded else values[draft.position])
        longer[column] = object_series(values)

    longer.loc[len(rows) :, "parent_id"] = rows["row_id"].to_numpy()[positions]
    longer.loc[len(rows) :, "row_id"] = -1 - np.arange(len(drafts), dtype=np.int64)
    return longer


def rejected_frame(rows: pd.DataFrame, rejected: Sequence[tuple[str, Draft, str]]) -> pd.DataFrame:
    """Return rejected drafts, as (method, draft, reason), as a frame of rows set aside."""
    lines = []
    for _, draft, reason in rejected:
        row_id = int(rows.at[draft.position, "row_id"])
        lines.append((row_id, reason, shown(draft.source), shown(draft.text)))

    steps = object_series([f"augmentation.{method}" for method, _, _ in rejected])
    return set_aside_frame("augmentation", lines).assign(step=steps)
