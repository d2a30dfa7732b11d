"""Hard negatives: gives pairs the passage that a model most wrongly holds for an answer. Knows no model, only vectors.

Only the train side comes in, so no passage of another side is ever a negative.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.config import HardNegativesConfig
from tunetrail.data.rows import object_series
from tunetrail.data.twins.duplicates import normalized
from tunetrail.errors import SampleError
from tunetrail.samples import GROUP_COLUMN

_SOURCE_COLUMNS = ("cluster", GROUP_COLUMN)
_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
_SIMILARITIES_AT_ONCE = 1 << 22
_WARN_SHARE = 0.1

_Floats = npt.NDArray[np.float32]
_Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class MiningResult:
    """The rows with their negatives; `mined` + `kept` + `without` are all of them.

    Attributes:
        rows: As they came, the column `negative` filled where a negative was found.
        mined: Rows that got a negative.
        kept: Rows that kept the one they had.
        without: Rows that have none: no candidate was allowed.
        passages: Distinct passages that negatives were looked for among.
        filtered: Candidates left out as probable answers, those of all rows counted together.
        similarity: Quantiles ("0.5" is the median) of the mined negatives' similarity to their anchors; empty if none.
        positive_similarity: Those of the same rows' positives.
        warnings: Readable sentences.
    """

    rows: pd.DataFrame
    mined: int
    kept: int
    without: int
    passages: int
    filtered: int
    similarity: dict[str, float] = field(default_factory=dict)
    positive_similarity: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the result without its rows, JSON-serialisable."""
        return {
            "rows": len(self.rows),
            "mined": self.mined,
            "kept": self.kept,
            "without": self.without,
            "passages": self.passages,
            "filtered": self.filtered,
            "similarity": dict(self.similarity),
            "positive_similarity": dict(self.positive_similarity),
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Choice:
    """Per row: the passage chosen (-1: none), its similarity, and how many candidates were too near."""

    passage: _Integers
    similarity: _Floats
    filtered: _Integers


def mine(
    rows: pd.DataFrame, queries: _Floats, passages: _Floats, config: HardNegativesConfig, seed: int
) -> MiningResult:
    """Give each pair without a negative a hard one from the distinct positives of all rows.

    A passage is never the negative of a row of its own cluster or group, nor of an anchor that some row names as its
    question (texts compared normalised). Among the others, the `candidates` nearest are looked at, from rank `skip_top`
    on; allowed are those with similarity <= p - margin * |p|, where p is the similarity of the row's own positive: for
    positive p the rule TopK-PercPos of NV-Retriever (Moreira et al. 2024, https://arxiv.org/abs/2407.15831, section 3).

    Args:
        rows: Pairs of the train side.
        queries: Unit vectors of the anchors, [rows, dimensions].
        passages: Unit vectors of the positives, [rows, dimensions].
        config: What is allowed, and which of the allowed is taken.
        seed: Of `sampling: random`.

    Raises:
        ValueError: Other rows than pairs, or not one vector of each kind for each.
        SampleError: A vector is not finite.
    """
    _check_input(rows, queries, passages)
    before = list(rows["negative"]) if "negative" in rows else [None] * len(rows)
    wanted = np.array(
        [row for row, text in enumerate(before) if config.replace or not text], dtype=np.int64
    )
    texts = list(rows["positive"])
    passage_of, first = _numbered([normalized(text) for text in texts])
    positive = (
        np.einsum("ij,ij->i", queries, passages, dtype=np.float32)
        if len(rows)
        else np.zeros(0, np.float32)
    )
    choice = _chosen(
        queries[wanted],
        passages[first],
        positive[wanted] - config.margin * np.abs(positive[wanted]),
        _barred(rows, passage_of, wanted),
        np.random.default_rng(seed).random(len(rows))[wanted],
        config,
    )
    found = wanted[choice.passage >= 0]
    after = list(before)
    for row, passage in zip(
        found.tolist(), choice.passage[choice.passage >= 0].tolist(), strict=True
    ):
        after[row] = texts[first[passage]]
    without = sum(not text for text in after)
    return MiningResult(
        rows=rows.assign(
            negative=object_series([text or None for text in after], index=rows.index)
        ),
        mined=len(found),
        kept=len(rows) - len(found) - without,
        without=without,
        passages=len(first),
        filtered=int(choice.filtered.sum()),
        similarity=_quantiles(choice.similarity[choice.passage >= 0]),
        positive_similarity=_quantiles(positive[found]),
        warnings=_warnings(len(rows), without, config),
    )


def _check_input(rows: pd.DataFrame, queries: _Floats, passages: _Floats) -> None:
    others = sorted(set(rows["shape"]) - {"pair"})
    if others:
        raise ValueError(f"rows must be pairs, got {', '.join(others)}.")
    if queries.shape != passages.shape or queries.ndim != 2 or len(queries) != len(rows):
        raise ValueError(
            f"queries and passages must be [{len(rows)}, dimensions], got {queries.shape} and {passages.shape}."
        )
    for name, vectors in (("anchor", queries), ("positive", passages)):
        broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(broken):
            raise SampleError(
                f"the vector of {name} must be finite, got NaN or infinity for row_id "
                f"{rows['row_id'].iloc[broken[0]]} and {len(broken) - 1} other rows. Turn off "
                "feature_engineering.hard_negatives, or name another model."
            )


def _numbered(values: Sequence[Hashable]) -> tuple[_Integers, _Integers]:
    """Return each value's number among the distinct ones, and the position at which each of those comes first."""
    number_of: dict[Hashable, int] = {}
    first: list[int] = []
    for position, value in enumerate(values):
        if value not in number_of:
            number_of[value] = len(first)
            first.append(position)
    return np.array([number_of[value] for value in values], dtype=np.int64), np.array(
        first, dtype=np.int64
    )


def _barred(rows: pd.DataFrame, passage_of: _Integers, wanted: _Integers) -> list[list[_Integers]]:
    """Return for each wanted row the passages that can't be its negative, as one array for each reason."""
    anchors: list[Hashable] = [normalized(text) for text in rows["anchor"]]
    reasons = [(anchors, _members(anchors, passage_of))]
    for column in _SOURCE_COLUMNS:
        if column in rows:
            reasons.append((list(rows[column]), _members(list(rows[column]), passage_of)))
    # an anchor can be the positive of another row, word for word
    positives: list[Hashable] = [normalized(text) for text in rows["positive"]]
    reasons.append((anchors, _members(positives, passage_of)))
    return [
        [members[values[row]] for values, members in reasons if values[row] in members]
        for row in wanted.tolist()
    ]


def _members(values: Sequence[Hashable], passage_of: _Integers) -> dict[Hashable, _Integers]:
    """Return the passages of the rows with each value; an absent value connects nothing."""
    found: dict[Hashable, set[int]] = {}
    for value, passage in zip(values, passage_of.tolist(), strict=True):
        if not _is_absent(value):
            found.setdefault(value, set()).add(passage)
    return {value: np.array(sorted(passages), dtype=np.int64) for value, passages in found.items()}


def _is_absent(value: Any) -> bool:
    return value is None or value != value  # NaN is not itself


def _chosen(
    queries: _Floats,
    passages: _Floats,
    limits: _Floats,
    barred: Sequence[Sequence[_Integers]],
    draws: npt.NDArray[np.float64],
    config: HardNegativesConfig,
) -> _Choice:
    """Choose for each query, a block of them at a time: memory is bounded whatever the number of rows."""
    passage = np.full(len(queries), -1, dtype=np.int64)
    similarity = np.zeros(len(queries), dtype=np.float32)
    filtered = np.zeros(len(queries), dtype=np.int64)
    for block in _blocks(len(queries), len(passages)):
        ranked, values = _ranked(queries[block] @ passages.T, barred[block], config)
        open_to = values > -np.inf
        allowed = open_to & (values <= limits[block, None])
        filtered[block] = (open_to & ~allowed).sum(axis=1)
        counts = allowed.sum(axis=1)
        turn = (
            np.zeros_like(counts)
            if config.sampling == "hardest"
            else (draws[block] * counts).astype(np.int64)
        )
        place = (allowed & (allowed.cumsum(axis=1) - 1 == turn[:, None])).argmax(axis=1)[:, None]
        passage[block] = np.where(counts > 0, np.take_along_axis(ranked, place, axis=1)[:, 0], -1)
        similarity[block] = np.take_along_axis(values, place, axis=1)[:, 0]
    return _Choice(passage=passage, similarity=similarity, filtered=filtered)


def _blocks(rows: int, passages: int) -> Iterator[slice]:
    size = max(1, _SIMILARITIES_AT_ONCE // max(passages, 1))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def _ranked(
    similarities: _Floats, barred: Sequence[Sequence[_Integers]], config: HardNegativesConfig
) -> tuple[_Integers, _Floats]:
    """Return the passages from rank `skip_top` to `candidates`, nearest first, and their similarities; barred: -inf."""
    for row, arrays in enumerate(barred):
        for array in arrays:
            similarities[row, array] = -np.inf
    count = similarities.shape[1]
    width = min(config.candidates, count)
    top = np.argpartition(similarities, count - width, axis=1)[:, count - width :]
    values = np.take_along_axis(similarities, top, axis=1)
    order = np.lexsort((top, -values), axis=-1)
    order = order[:, min(config.skip_top, width - 1) :]
    ranked, values = (
        np.take_along_axis(top, order, axis=1),
        np.take_along_axis(values, order, axis=1),
    )
    if config.skip_top >= width:
        values[:] = -np.inf  # so few passages that all are skipped
    return ranked, values


def _quantiles(values: _Floats) -> dict[str, float]:
    if len(values) == 0:
        return {}
    return {
        str(share): float(value)
        for share, value in zip(_QUANTILES, np.quantile(values, _QUANTILES), strict=True)
    }


def _warnings(rows: int, without: int, config: HardNegativesConfig) -> tuple[str, ...]:
    if without == 0 or without < _WARN_SHARE * rows:
        return ()
    return (
        f"{without} of {rows} pairs ({without / rows:.0%}) have no hard negative: all of their {config.candidates} "
        "candidates may be true answers. Raise feature_engineering.hard_negatives.candidates or lower its margin.",
    )
