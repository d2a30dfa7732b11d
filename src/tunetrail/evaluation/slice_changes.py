"""The slices of the test rows on which a candidate has surely lost, for the gate."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tunetrail.plain_values import plain_values
from tunetrail.reporting.readable import counted, shown_interval


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceChange:
    """What a candidate has gained on a slice.

    Attributes:
        attribute: What the rows are divided by, such as `language`.
        value: The value of the rows of this slice.
        rows: Number of rows.
        improvement: The improvement of the metric; negative for a loss.
        lower: Its lower bound, in an interval that holds for all slices at once.
        upper: Its upper bound.
    """

    attribute: str
    value: str
    rows: int
    improvement: float
    lower: float
    upper: float

    @property
    def in_words(self) -> str:
        """Return the change with its interval, and the slice."""
        return (
            f"{self.improvement:+.4f} ({shown_interval(self.lower, self.upper)}, corrected for all "
            f"slices) on {counted(self.rows, 'row')} with {self.attribute} {self.value!r}"
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SliceChange":
        """Return the change that `to_dict` gave."""
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain values."""
        return plain_values(self)


def sure_losses(slices: pd.DataFrame) -> list[SliceChange]:
    """Return the slices whose corrected interval lies below 0, the surest loss first.

    Of equal models, at most 1 - confidence of all comparisons have any such slice, however many
    slices there are: the interval is that of the largest deviation among them.

    Args:
        slices: The table of `score_slices`.
    """
    # Written so that a slice without an interval is none.
    losing = slices[slices["corrected_upper"] < 0.0]
    return [
        SliceChange(
            attribute=str(line["attribute"]),
            value=str(line["value"]),
            rows=int(line["rows"]),
            improvement=float(line["improvement"]),
            lower=float(line["corrected_lower"]),
            upper=float(line["corrected_upper"]),
        )
        for line in losing.to_dict("records")
    ]
