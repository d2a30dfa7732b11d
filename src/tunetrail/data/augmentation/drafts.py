"""Drafts: texts made from rows, on their way to become rows. Says what speaks against one; knows not who made it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tunetrail.data.rows import object_series, set_aside_frame, shown
from tunetrail.samples import shape_named


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """A text for the read column of a copy of a row.

    Attributes:
        position: Of the parent in its frame.
        source: The parent's text that it was made from.
        text: What was made.
    """

    position: int
    source: str
    text: str


def normalised(text: str) -> str:
    """Return the text's letters and digits in lower case: what is left when spelling, signs and spaces don't count."""
    return "".join(character for character in text.casefold() if character.isalnum())


def rejections(
    drafts: Sequence[Draft], rows: pd.DataFrame, seen: set[tuple[int, str]], *, exact: bool
) -> list[str | None]:
    """Return why each draft can't be added, None where it can; what can is put among the `seen`.

    Args:
        drafts: What was made.
        rows: The rows that it was made from.
        seen: Position and text of what was made before from the same rows.
        exact: Whether spelling, signs and white space make a difference between a draft and its parent.
    """
    alike: Callable[[str], str] = str if exact else normalised
    reasons: list[str | None] = []
    for draft in drafts:
        read = rows.at[draft.position, shape_named(rows.at[draft.position, "shape"]).reworded]
        reason = None
        if not alike(draft.text).strip():
            reason = "nothing was made"
        elif alike(draft.text) in (alike(read), alike(draft.source)):
            reason = "no different from its parent"
        elif (draft.position, draft.text) in seen:
            reason = "made before from the same row"
        else:
            seen.add((draft.position, draft.text))
        reasons.append(reason)
    return reasons


def stacked(rows: pd.DataFrame, drafts: Sequence[Draft]) -> pd.DataFrame:
    """Return the rows, and below them a copy of the parent for each draft with its read text replaced.

    The copies have the row ids -1, -2, and so on, and their parent's in the column `parent_id`.
    """
    if not drafts:
        return rows
    positions = [draft.position for draft in drafts]
    shapes = rows["shape"].iloc[positions].tolist()
    longer = pd.concat([rows, rows.iloc[positions]], ignore_index=True)
    for column in rows.columns:
        if rows[column].dtype != object:
            continue
        values = rows[column].tolist()
        copies = [values[position] for position in positions]
        for number, (draft, shape) in enumerate(zip(drafts, shapes, strict=True)):
            if shape_named(shape).reworded == column:
                copies[number] = draft.text
        longer[column] = object_series([*values, *copies])
    longer.loc[len(rows) :, "parent_id"] = rows["row_id"].to_numpy()[positions]
    longer.loc[len(rows) :, "row_id"] = -1 - np.arange(len(drafts), dtype=np.int64)
    return longer


def rejected_frame(rows: pd.DataFrame, lines: Sequence[tuple[str, Draft, str]]) -> pd.DataFrame:
    """Return a set-aside frame from lines of (method, draft, reason); `row_id` is the parent's."""
    described = [
        (int(rows.at[draft.position, "row_id"]), reason, shown(draft.source), shown(draft.text))
        for _, draft, reason in lines
    ]
    frame = set_aside_frame("augmentation", described)
    return frame.assign(step=object_series([f"augmentation.{method}" for method, _, _ in lines]))
