"""Removals: rows that pass the steps of their chunks, but not what the whole session shows."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.config import CleaningConfig, ValidationConfig
from tunetrail.data.checks.catalog import check_config
from tunetrail.data.checks.results import Flag
from tunetrail.data.twins.duplicates import SketchBook


@dataclass(frozen=True, kw_only=True)
class Removals:
    """Why rows are removed, by the step that removes them and by position.

    Attributes:
        validation: Reasons of the checks.
        cleaning: Reasons of the duplicates.
        split: The reason why no other row gets a side; None if the other rows have sides.
    """

    validation: Mapping[int, str]
    cleaning: Mapping[int, str]
    split: str | None = None

    @property
    def positions(self) -> list[int]:
        """Positions of the rows that validation and cleaning remove."""
        return [*self.validation, *self.cleaning]

    def at(self, position: int) -> tuple[str, str] | None:
        """Return the step that removes the row at a position and its reason, or None."""
        if position in self.validation:
            return "validation", self.validation[position]
        if position in self.cleaning:
            return "cleaning", self.cleaning[position]
        return None if self.split is None else ("split", self.split)


def find_removals(
    sketches: SketchBook,
    flags: Sequence[Flag],
    validation: ValidationConfig,
    cleaning: CleaningConfig,
) -> Removals:
    """Return the rows that are flagged by a check that sets rows aside, and the duplicates.

    Args:
        sketches: The sketches of all rows; positions are their positions there.
        flags: Flags of the checks that decide only now.
        validation: Says which checks set rows aside.
        cleaning: Says which duplicates are dropped.
    """
    row_ids = sketches.row_ids
    flagged = _flagged_rows(row_ids, flags, validation)
    remaining = np.ones(len(row_ids), dtype=bool)
    remaining[list(flagged)] = False

    # In this order: the duplicates of a removed row aren't duplicates any more.
    duplicates: dict[int, str] = {}
    if cleaning.drop_duplicates:
        originals = sketches.exact_duplicates(remaining)
        duplicates |= _duplicate_rows(row_ids, originals, "duplicate")
        remaining[list(duplicates)] = False
    if cleaning.near_duplicate_similarity:
        originals = sketches.near_duplicates(cleaning.near_duplicate_similarity, remaining)
        duplicates |= _duplicate_rows(row_ids, originals, "near-duplicate")
    return Removals(validation=flagged, cleaning=duplicates)


def _flagged_rows(
    row_ids: npt.NDArray[np.int64], flags: Sequence[Flag], config: ValidationConfig
) -> dict[int, str]:
    decisive = [flag for flag in flags if check_config(flag[1], config).set_aside]
    # Flags name rows by id, and everything else here goes by position.
    positions = pd.Index(row_ids).get_indexer([row_id for row_id, _, _ in decisive])

    # A dict keeps the order of the reasons and names none twice.
    reasons: dict[int, dict[str, None]] = defaultdict(dict)
    for position, (_, check, detail) in zip(positions.tolist(), decisive, strict=True):
        # A row without a position was set aside by a step of its chunk.
        if position >= 0:
            reasons[position][f"{check.partition('.')[2]}: {detail}"] = None
    return {position: "; ".join(listed) for position, listed in reasons.items()}


def _duplicate_rows(
    row_ids: npt.NDArray[np.int64], originals: npt.NDArray[np.int64], reason: str
) -> dict[int, str]:
    """Return a reason for each row that has an original, the older row that stands for it."""
    positions = np.flatnonzero(originals >= 0)
    return {
        position: f"{reason} of row {row_ids[originals[position]]}"
        for position in positions.tolist()
    }
