"""Augmentation: extra rows made from rows of the train side. Never sees the other sides or alters what is learnt.

Only the text that a model reads is varied; positives, outputs, conversations and documents stay as they are.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.config import AugmentationConfig
from tunetrail.data.rows import object_series

_READ_COLUMN = {"pair": "anchor", "label": "text", "vector": "text", "text": "text", "completion": "input"}
"""The column that may vary without changing what the row teaches, by shape; other shapes have none."""
_WORD = re.compile(r"\S+\s*")


@dataclass(frozen=True, kw_only=True)
class AugmentationResult:
    """The rows with those added at the end.

    Attributes:
        rows: With a `parent_id` column (Int64): the `row_id` of the row that an added one was made from, else <NA>.
            Added rows have the row ids -1, -2, and so on, and their parent's group and cluster.
        added: Number of rows added.
        notes: Why fewer rows were added than asked for.
    """

    rows: pd.DataFrame
    added: int
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, JSON-serialisable."""
        return {
            "rows_in": len(self.rows) - self.added,
            "rows_out": len(self.rows),
            "added": self.added,
            "notes": list(self.notes),
        }


def augment(train_rows: pd.DataFrame, config: AugmentationConfig, seed: int) -> AugmentationResult:
    """Add `config.share` times as many rows as there are, each a copy of a random row with some words dropped.

    Word dropout follows "random deletion" in Wei and Zou, EDA (2019). Rows of a shape whose texts are all learnt to be
    written or compared (score, chat, document) and texts of one word are never parents; the result's notes say so.
    """
    parents = train_rows.reset_index(drop=True)
    parents["parent_id"] = pd.array([pd.NA] * len(parents), dtype="Int64")
    if config.method == "none":
        return AugmentationResult(rows=parents, added=0)
    columns = [_READ_COLUMN.get(shape) for shape in parents["shape"]]
    fit = [row for row, column in enumerate(columns) if column and len(_WORD.findall(parents.at[row, column])) > 1]
    wanted = round(config.share * len(parents))
    generator = np.random.default_rng(seed)
    chosen = [int(row) for row in generator.permutation(fit)[:wanted]]
    notes = _notes(parents, columns, wanted, len(chosen))
    if not chosen:
        return AugmentationResult(rows=parents, added=0, notes=notes)
    added = parents.loc[chosen].reset_index(drop=True)
    added["parent_id"] = added["row_id"].astype("Int64")
    added["row_id"] = -1 - np.arange(len(chosen), dtype=np.int64)
    for position, column in enumerate(columns[row] for row in chosen):
        added.at[position, column] = _with_words_dropped(added.at[position, column], config.word_dropout, generator)
    return AugmentationResult(rows=_stacked(parents, added), added=len(chosen), notes=notes)


def _with_words_dropped(text: str, share: float, generator: np.random.Generator) -> str:
    """Drop each word with probability `share`, at least one and never all; the white space after it goes too."""
    words = _WORD.findall(text)
    dropped: npt.NDArray[np.bool_] = generator.random(len(words)) < share
    if not dropped.any():
        dropped[generator.integers(len(words))] = True
    if dropped.all():
        dropped[generator.integers(len(words))] = False
    return "".join(word for word, is_dropped in zip(words, dropped, strict=True) if not is_dropped).rstrip()


def _stacked(parents: pd.DataFrame, added: pd.DataFrame) -> pd.DataFrame:
    stacked = pd.concat([parents, added], ignore_index=True)
    for column in parents.columns:
        if parents[column].dtype == object:
            stacked[column] = object_series([*parents[column], *added[column]])
    return stacked


def _notes(rows: pd.DataFrame, columns: list[str | None], wanted: int, chosen: int) -> tuple[str, ...]:
    notes = []
    skipped = sorted({shape for shape, column in zip(rows["shape"], columns, strict=True) if column is None})
    if skipped:
        notes.append(
            f"word_dropout leaves {', '.join(skipped)} rows as they are: dropped words would change what they teach."
        )
    if chosen < wanted:
        notes.append(
            f"augmentation.share asks for {wanted} rows, {chosen} could be made: one for each row of two or more words."
        )
    return tuple(notes)
