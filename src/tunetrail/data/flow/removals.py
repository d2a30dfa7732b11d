"""Removals: rows that pass the steps of their chunks, but not what the whole session shows."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.config import CleaningConfig, ValidationConfig
from tunetrail.data.checks.catalog import check_config
from tunetrail.data.checks.results import CheckResult, Example, Flag, StepAccount
from tunetrail.data.checks.thresholds import MAX_SHARE_DROPPED
from tunetrail.data.twins.duplicates import SketchBook
from tunetrail.samples.values import shortened

# Fewer rows than this are no share of a session that is worth a finding.
_FEWEST_DROPPED = 10
# Of the share that is an error.
_WARNING_SHARE = 0.2


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
        duplicates |= duplicate_rows(row_ids, originals, "duplicate")
        remaining[list(duplicates)] = False
    if cleaning.near_duplicate_similarity:
        originals = sketches.near_duplicates(cleaning.near_duplicate_similarity, remaining)
        duplicates |= duplicate_rows(row_ids, originals, "near-duplicate")
    return Removals(validation=flagged, cleaning=duplicates)


def dropped_rows_result(
    account: StepAccount, removals: Removals, row_ids: npt.NDArray[np.int64], config: CleaningConfig
) -> CheckResult:
    """Return whether cleaning set aside more rows than it may.

    Args:
        account: What became of the rows in cleaning.
        removals: The rows that are removed as duplicates.
        row_ids: Ids of the rows that had passed the steps of their chunks.
        config: The limit, and the settings that set rows aside.
    """
    share = account.set_aside / account.rows_in if account.rows_in else 0.0
    severity, threshold = "passed", config.max_share_dropped
    if account.set_aside >= _FEWEST_DROPPED:
        warning_share = _WARNING_SHARE * config.max_share_dropped
        if share > config.max_share_dropped:
            severity = "error"
        elif share > warning_share:
            severity, threshold = "warning", warning_share

    message = f"{account.set_aside} of {account.rows_in} rows were set aside by cleaning"
    reasons = list(account.reasons)
    if reasons:
        message += f", most as {reasons[0]} ({_setting_of(reasons[0], config)})"

    # The example is a pair: a row, and the older row that stands for it.
    dropped, pair = row_ids[list(removals.cleaning)].tolist(), []
    if removals.cleaning and reasons and reasons[0].endswith("duplicate of row N"):
        kind = reasons[0].removesuffix(" of row N")
        pair = next(
            [int(row_ids[position]), int(reason.rsplit(" ", 1)[1])]
            for position, reason in removals.cleaning.items()
            if reason.startswith(kind)
        )
    return CheckResult(
        check=MAX_SHARE_DROPPED,
        severity=severity,
        rows=account.set_aside,
        judged=account.rows_in,
        measure=share,
        threshold=threshold,
        set_aside=True,
        message=message,
        row_ids=(*pair, *(row_id for row_id in dropped if row_id not in pair)),
    )


def with_example_pair(result: CheckResult, texts: Mapping[int, str]) -> CheckResult:
    """Return the result of dropped rows with the texts of its two example rows.

    Args:
        result: The result of `dropped_rows_result`.
        texts: Texts by row id.
    """
    pair = result.row_ids[:2]
    if result.severity == "passed" or len(pair) < 2 or not all(map(texts.__contains__, pair)):
        return result
    dropped, original = pair
    details = (f"set aside for row {original}", "stays")
    examples = [
        Example(row_id=row_id, text=texts[row_id], detail=detail)
        for row_id, detail in zip(pair, details, strict=True)
    ]
    shown = (
        f"row {dropped} {shortened(texts[dropped])} for row {original} {shortened(texts[original])}"
    )
    return replace(result, message=f"{result.message}, as {shown}", examples=tuple(examples))


def _setting_of(reason: str, config: CleaningConfig) -> str:
    """Return the setting that set rows aside for this reason, with its value."""
    if reason.startswith("near-duplicate"):
        return f"cleaning.near_duplicate_similarity={config.near_duplicate_similarity:g}"
    if reason.startswith("duplicate"):
        return f"cleaning.drop_duplicates={str(config.drop_duplicates).lower()}"
    if "tokens" in reason:
        return f"cleaning.length={config.length}"
    return f"cleaning.strip_markup={str(config.strip_markup).lower()}"


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


def duplicate_rows(
    row_ids: npt.NDArray[np.int64], originals: npt.NDArray[np.int64], reason: str
) -> dict[int, str]:
    """Return a reason for each row that has an original, the older row that stands for it."""
    positions = np.flatnonzero(originals >= 0)
    return {
        position: f"{reason} of row {row_ids[originals[position]]}"
        for position in positions.tolist()
    }
