"""Measure the rows that a model learns from, and warn when its maximum length cuts many of them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.config import FeatureEngineeringConfig
from tunetrail.data.rows import texts_of_rows
from tunetrail.plain_values import NOT_PLAIN, plain_values

_QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True, kw_only=True)
class FeatureResult:
    """Rows with their lengths.

    Attributes:
        rows: The rows with `token_count` as passed in, and `characters` of all texts of a row.
        max_length: Tokens that the model reads.
        truncated: Number of rows whose `token_count` is above `max_length`.
        truncated_share: Share of the truncated rows, between 0 and 1.
        quantiles: Of `token_count` and `characters`, by column and quantile ("0.5" is the median).
        warnings: Sentences for people.
    """

    rows: pd.DataFrame = field(metadata=NOT_PLAIN)
    max_length: int
    truncated: int
    truncated_share: float
    quantiles: dict[str, dict[str, float]]
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the result without its rows, JSON-serialisable."""
        return {"rows": len(self.rows)} | plain_values(self)


def engineer_features(
    rows: pd.DataFrame,
    token_counts: npt.NDArray[np.integer[Any]],
    max_length: int,
    config: FeatureEngineeringConfig,
) -> FeatureResult:
    """Add the lengths of the texts to the rows.

    Args:
        rows: Rows of the train side.
        token_counts: Tokens of each row before any truncation, [rows]: of the longest text for an
            embedding model, of all texts together for a language model.
        max_length: Tokens that the model reads; longer texts are cut.
        config: The share of truncated rows from which on a warning is given.

    Raises:
        ValueError: There are no rows, or there is not one count for each row.
    """
    if rows.empty or len(token_counts) != len(rows):
        raise ValueError(
            f"token_counts must hold one count for each row, got {len(token_counts)} counts for "
            f"{len(rows)} rows."
        )
    lengths = {
        "token_count": np.asarray(token_counts, dtype=np.int64),
        "characters": np.array([sum(map(len, texts)) for texts in texts_of_rows(rows)]),
    }

    # A text cut here and there is normal; many cut texts mean that max_length is too small.
    truncated = int((lengths["token_count"] > max_length).sum())
    share = truncated / len(rows)
    warning = (
        f"{truncated} of {len(rows)} rows ({share:.0%}) are longer than max_length={max_length} "
        "tokens and are cut. Raise max_length or shorten them."
    )

    return FeatureResult(
        rows=rows.assign(**lengths),
        max_length=max_length,
        truncated=truncated,
        truncated_share=share,
        quantiles={column: quantiles(values, _QUANTILES) for column, values in lengths.items()},
        warnings=(warning,) if truncated and share >= config.warn_truncated_share else (),
    )


def quantiles(values: npt.NDArray[Any], shares: tuple[float, ...]) -> dict[str, float]:
    """Return the quantiles of the values by share ("0.5" is the median); empty for no values."""
    if not len(values):
        return {}
    return dict(zip(map(str, shares), np.quantile(values, shares).tolist(), strict=True))
