"""Feature engineering: statistics of each row's texts, and how much the model's length cuts off. Knows no tokenizer."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.config import FeatureEngineeringConfig
from tunetrail.data.rows import texts_of_rows

_QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True, kw_only=True)
class FeatureResult:
    """Rows with their statistics.

    Attributes:
        rows: With the int64 columns `token_count` (of the longest text), `characters` and `words` (of all texts).
        max_length: Tokens that the model reads.
        truncated: Number of rows whose longest text is longer than that.
        truncated_share: Their share.
        quantiles: By column, then by quantile ("0.5" is the median).
        warnings: Readable sentences.
    """

    rows: pd.DataFrame
    max_length: int
    truncated: int
    truncated_share: float
    quantiles: dict[str, dict[str, float]]
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the result without its rows, JSON-serialisable."""
        return {
            "rows": len(self.rows),
            "max_length": self.max_length,
            "truncated": self.truncated,
            "truncated_share": self.truncated_share,
            "quantiles": {column: dict(values) for column, values in self.quantiles.items()},
            "warnings": list(self.warnings),
        }


def engineer_features(
    rows: pd.DataFrame,
    token_counts: npt.NDArray[np.integer[Any]],
    max_length: int,
    config: FeatureEngineeringConfig,
) -> FeatureResult:
    """Add text statistics to rows.

    Args:
        rows: Rows of the train side.
        token_counts: Tokens of the longest text of each row, before any truncation, [rows].
        max_length: Tokens that the model reads; what is longer is cut.
        config: From which truncated share on to warn.

    Raises:
        ValueError: There are no rows, or not one count for each.
    """
    if rows.empty or len(token_counts) != len(rows):
        raise ValueError(
            f"token_counts must hold one count for each row, got {len(token_counts)} for {len(rows)} rows."
        )
    texts = texts_of_rows(rows)
    features = {
        "token_count": np.asarray(token_counts, dtype=np.int64),
        "characters": np.array([sum(map(len, row)) for row in texts], dtype=np.int64),
        "words": np.array([sum(len(text.split()) for text in row) for row in texts], dtype=np.int64),
    }
    truncated = int((features["token_count"] > max_length).sum())
    share = truncated / len(rows)
    warnings = (
        f"{truncated} of {len(rows)} rows ({share:.0%}) are longer than max_length={max_length} tokens and are cut. "
        "Raise max_length or shorten them.",
    )
    return FeatureResult(
        rows=rows.assign(**features),
        max_length=max_length,
        truncated=truncated,
        truncated_share=share,
        quantiles={column: _quantiles(values) for column, values in features.items()},
        warnings=warnings if truncated and share >= config.warn_truncated_share else (),
    )


def _quantiles(values: npt.NDArray[np.int64]) -> dict[str, float]:
    return {str(share): float(value) for share, value in zip(_QUANTILES, np.quantile(values, _QUANTILES), strict=True)}
