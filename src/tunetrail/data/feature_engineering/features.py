"""Feature engineering: statistics of each row's texts, and how much the model's length cuts off. Knows no tokenizer."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.config import FeatureEngineeringConfig
from tunetrail.data.feature_engineering.packing import PackingPlan, packing_plan
from tunetrail.data.rows import rows_of_kind, texts_of_rows
from tunetrail.samples import SampleKind

STATISTICS = (
    "token_count",
    "characters",
    "words",
    "sentences",
    "mean_word_length",
    "digits_share",
    "lexical_diversity",
)
"""Columns that `engineer_features` adds: what errors can later be sliced by."""

_QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)
_CLOSING = "\"')\\]\N{RIGHT SINGLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}"
_FULL_WIDTH_END = (
    "\N{IDEOGRAPHIC FULL STOP}\N{FULLWIDTH EXCLAMATION MARK}\N{FULLWIDTH QUESTION MARK}"
)
# one character, and at most two behind it: without repetition, linear whatever the text
_SENTENCE_END = re.compile(
    rf"[.!?\u2026](?=[{_CLOSING}]?(?:\s|\Z))|[{_FULL_WIDTH_END}](?![{_FULL_WIDTH_END}])",
)

_Column = npt.NDArray[np.number[Any]]


@dataclass(frozen=True, kw_only=True)
class FeatureResult:
    """Rows with their statistics.

    Attributes:
        rows: With the columns of `STATISTICS`: `token_count` as given; of all texts of a row together `characters`,
            `words` and `sentences` (int64), and as float64 `mean_word_length` (characters), `digits_share` (of the
            characters) and `lexical_diversity` (distinct words, casefolded, for each word); 0 where there is no word.
        max_length: Tokens that the model reads.
        truncated: Number of rows whose `token_count` is above that.
        truncated_share: Their share.
        quantiles: By column, then by quantile ("0.5" is the median).
        languages: Rows by language, where the rows have a `language` column.
        packing: How the rows of a language model would share sequences of `max_length` tokens, cut rows as cut; None
            for embedding models, and for preferences, whose two sequences are trained on together.
        warnings: Readable sentences.
    """

    rows: pd.DataFrame
    max_length: int
    truncated: int
    truncated_share: float
    quantiles: dict[str, dict[str, float]]
    languages: Mapping[str, int] = field(default_factory=dict)
    packing: PackingPlan | None = None
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the result without its rows, JSON-serialisable."""
        return {
            "rows": len(self.rows),
            "max_length": self.max_length,
            "truncated": self.truncated,
            "truncated_share": self.truncated_share,
            "quantiles": {column: dict(values) for column, values in self.quantiles.items()},
            "languages": dict(self.languages),
            "packing": self.packing.to_dict() if self.packing else None,
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
        token_counts: Tokens that the model reads of each row, before any truncation, [rows]: those of its longest text
            for an embedding model, of all of its texts for a language model.
        max_length: Tokens that the model reads; what is longer is cut.
        config: From which truncated share on to warn.

    Raises:
        ValueError: There are no rows, or not one count for each.
    """
    if rows.empty or len(token_counts) != len(rows):
        raise ValueError(
            f"token_counts must hold one count for each row, got {len(token_counts)} for {len(rows)} rows."
        )
    counts = np.asarray(token_counts, dtype=np.int64)
    features = {"token_count": counts, **_statistics(texts_of_rows(rows))}
    truncated = int((counts > max_length).sum())
    share = truncated / len(rows)
    warnings = (
        f"{truncated} of {len(rows)} rows ({share:.0%}) are longer than max_length={max_length} tokens and are cut. "
        "Raise max_length or shorten them.",
    )
    written = rows_of_kind(rows, SampleKind.LLM) and "preference" not in set(rows["shape"])
    return FeatureResult(
        rows=rows.assign(**features),
        max_length=max_length,
        truncated=truncated,
        truncated_share=share,
        quantiles={column: _quantiles(values) for column, values in features.items()},
        languages=_languages(rows),
        packing=packing_plan(np.minimum(counts, max_length), max_length) if written else None,
        warnings=warnings if truncated and share >= config.warn_truncated_share else (),
    )


def _statistics(texts: Sequence[Sequence[str]]) -> dict[str, _Column]:
    """Return the columns of `STATISTICS` but for the first, each [rows]."""
    table = np.array([_statistics_of(row) for row in texts], dtype=np.float64)
    whole = STATISTICS.index("sentences")
    return {
        name: values.astype(np.int64) if place <= whole else values
        for place, (name, values) in enumerate(zip(STATISTICS[1:], table.T, strict=True), start=1)
    }


def _statistics_of(texts: Sequence[str]) -> tuple[float, ...]:
    characters = sum(map(len, texts))
    words = [word for text in texts for word in text.split()]
    sentences = sum(max(1, len(_SENTENCE_END.findall(text))) for text in texts if text.strip())
    digits = sum(character.isdigit() for text in texts for character in text)
    return (
        characters,
        len(words),
        sentences,
        sum(map(len, words)) / max(len(words), 1),
        digits / max(characters, 1),
        len({word.casefold() for word in words}) / max(len(words), 1),
    )


def _languages(rows: pd.DataFrame) -> dict[str, int]:
    if "language" not in rows:
        return {}
    named = [language for language in rows["language"] if isinstance(language, str)]
    return dict(Counter(named).most_common())


def _quantiles(values: _Column) -> dict[str, float]:
    return {
        str(share): float(value)
        for share, value in zip(_QUANTILES, np.quantile(values, _QUANTILES), strict=True)
    }
