"""Mine hard negatives: give pairs the passage that a model most wrongly takes for an answer.

Only rows of the train side come in, so no passage of another side is ever a negative.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.config import HardNegativesConfig
from tunetrail.data.feature_engineering.features import quantiles
from tunetrail.data.rows import object_series
from tunetrail.data.twins.duplicates import normalized
from tunetrail.errors import SampleError
from tunetrail.plain_values import NOT_PLAIN, plain_values
from tunetrail.samples import GROUP_COLUMN

# Rows with the same value here are twins, or were logged together: they may answer each other.
_SOURCE_COLUMNS = ("cluster", GROUP_COLUMN)
_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
# 16 MB of float32, whatever the number of rows.
_SIMILARITIES_AT_ONCE = 1 << 22
_WARN_SHARE = 0.1

_Floats = npt.NDArray[np.float32]
_Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class MiningResult:
    """The rows with their negatives; `mined` + `kept` + `without` are all of them.

    Attributes:
        rows: The rows, with the column `negative` filled if a negative was mined.
        mined: Rows that got a negative.
        kept: Rows that kept the negative they had.
        without: Rows without a negative, because no candidate was allowed.
        passages: Distinct passages that the negatives were chosen from.
        filtered: Candidates left out as probable answers, over all rows.
        similarity: Quantiles ("0.5" is the median) of the similarity between the mined negatives
            and their anchors; empty if none was mined.
        positive_similarity: The same quantiles for the positives of these rows.
        warnings: Sentences for people.
    """

    rows: pd.DataFrame = field(metadata=NOT_PLAIN)
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
        return {"rows": len(self.rows)} | plain_values(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Choice:
    """The choice for each query.

    Attributes:
        passage: The chosen passage, -1 if there is none.
        similarity: Its similarity to the query.
        filtered: Number of candidates that are too similar.
    """

    passage: _Integers
    similarity: _Floats
    filtered: _Integers


def mine(
    rows: pd.DataFrame, queries: _Floats, passages: _Floats, config: HardNegativesConfig, seed: int
) -> MiningResult:
    """Give each pair without a negative a hard one from the distinct positives of all rows.

    A passage is never the negative of a row of its own cluster or group, nor of an anchor that some
    row pairs it with (texts are compared normalised). Of the remaining passages, the nearest
    `candidates` are considered, from rank `skip_top` on. Allowed are candidates with a similarity
    of at most p - margin * |p|, where p is the similarity of the row's own positive: for positive
    p, this is the rule TopK-PercPos of NV-Retriever (Moreira et al. 2024,
    https://arxiv.org/abs/2407.15831, section 3).

    Args:
        rows: Pairs of the train side.
        queries: Unit vectors of the anchors, [rows, dimensions].
        passages: Unit vectors of the positives, [rows, dimensions].
        config: Which passages are allowed, and which of the allowed ones is taken.
        seed: Of `sampling: random`.

    Raises:
        ValueError: The rows aren't all pairs, or there isn't one vector of each kind for each row.
        SampleError: A vector is not finite.
    """
    _check_input(rows, queries, passages)
    negatives = list(rows["negative"]) if "negative" in rows else [None] * len(rows)
    needs_negative = [config.replace or not text for text in negatives]
    mined_rows = np.flatnonzero(needs_negative)

    # Equal positives are one passage, so that a row's own answer can't come back as a twin.
    texts = list(rows["positive"])
    passage_of_row, first_rows = _unique_passages(texts)

    positive_similarity = np.zeros(0, np.float32)
    if len(rows):
        # Row by row, which is only the diagonal of queries @ passages.T.
        positive_similarity = np.einsum("ij,ij->i", queries, passages, dtype=np.float32)
    # The absolute value keeps the limit below the positive when their similarity is negative.
    limits = positive_similarity - config.margin * np.abs(positive_similarity)

    # One draw for each row, used or not: which rows need a negative doesn't change the draws.
    draws = np.random.default_rng(seed).random(len(rows))
    choice = _choose_passages(
        queries[mined_rows],
        passages[first_rows],
        limits[mined_rows],
        _barred_passages(rows, passage_of_row, mined_rows),
        draws[mined_rows],
        config,
    )

    has_choice = choice.passage >= 0
    filled_rows = mined_rows[has_choice]
    source_rows = first_rows[choice.passage[has_choice]]
    for row_index, source_row in zip(filled_rows.tolist(), source_rows.tolist(), strict=True):
        negatives[row_index] = texts[source_row]

    without = sum(not text for text in negatives)
    filled = object_series([text or None for text in negatives], index=rows.index)
    return MiningResult(
        rows=rows.assign(negative=filled),
        mined=len(filled_rows),
        kept=len(rows) - len(filled_rows) - without,
        without=without,
        passages=len(first_rows),
        filtered=int(choice.filtered.sum()),
        similarity=quantiles(choice.similarity[has_choice], _QUANTILES),
        positive_similarity=quantiles(positive_similarity[filled_rows], _QUANTILES),
        warnings=_warnings(len(rows), without, config),
    )


def _check_input(rows: pd.DataFrame, queries: _Floats, passages: _Floats) -> None:
    other_shapes = sorted(set(rows["shape"]) - {"pair"})
    if other_shapes:
        raise ValueError(f"rows must be pairs, got {', '.join(other_shapes)}.")
    if queries.shape != passages.shape or queries.ndim != 2 or len(queries) != len(rows):
        raise ValueError(
            f"queries and passages must be [{len(rows)}, dimensions], got {queries.shape} and "
            f"{passages.shape}."
        )

    for name, vectors in (("anchor", queries), ("positive", passages)):
        broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(broken):
            raise SampleError(
                f"the vector of {name} must be finite, got NaN or infinity for row_id "
                f"{rows['row_id'].iloc[broken[0]]} and {len(broken) - 1} other rows. Turn off "
                "feature_engineering.hard_negatives, or name another model."
            )


def _unique_passages(texts: Sequence[str]) -> tuple[_Integers, _Integers]:
    """Return each row's passage, numbered by first appearance, and each passage's first row."""
    passage_of_text: dict[str, int] = {}
    passage_of_row: list[int] = []
    first_rows: list[int] = []
    for row_index, text in enumerate(map(normalized, texts)):
        if text not in passage_of_text:
            passage_of_text[text] = len(first_rows)
            first_rows.append(row_index)
        passage_of_row.append(passage_of_text[text])
    return np.array(passage_of_row, dtype=np.int64), np.array(first_rows, dtype=np.int64)


def _barred_passages(
    rows: pd.DataFrame, passage_of_row: _Integers, mined_rows: _Integers
) -> list[list[_Integers]]:
    """Return the passages that can't be the negative of each row, as one array for each reason."""
    anchors: list[Hashable] = list(map(normalized, rows["anchor"]))
    positives: list[Hashable] = list(map(normalized, rows["positive"]))

    # Pairs of a value for each row, and the passages that it rules out.
    reasons = [(anchors, _passages_by_value(anchors, passage_of_row))]
    for column in _SOURCE_COLUMNS:
        if column in rows:
            values: list[Hashable] = list(rows[column])
            reasons.append((values, _passages_by_value(values, passage_of_row)))

    # An anchor can be the positive of another row, word for word.
    reasons.append((anchors, _passages_by_value(positives, passage_of_row)))

    barred = []
    for row_index in mined_rows.tolist():
        looked_up = [passages.get(values[row_index]) for values, passages in reasons]
        barred.append([array for array in looked_up if array is not None])
    return barred


def _passages_by_value(
    values: Sequence[Hashable], passage_of_row: _Integers
) -> dict[Hashable, _Integers]:
    """Return the passages of the rows with each value; a missing value connects no rows."""
    passages_of: dict[Hashable, set[int]] = {}
    for value, passage in zip(values, passage_of_row.tolist(), strict=True):
        if not _is_missing(value):
            passages_of.setdefault(value, set()).add(passage)

    return {
        value: np.array(sorted(passages), dtype=np.int64) for value, passages in passages_of.items()
    }


def _is_missing(value: Any) -> bool:
    return value is None or value != value  # NaN is not equal to itself


def _choose_passages(
    queries: _Floats,
    passages: _Floats,
    limits: npt.NDArray[np.floating[Any]],
    barred: Sequence[Sequence[_Integers]],
    draws: npt.NDArray[np.float64],
    config: HardNegativesConfig,
) -> _Choice:
    """Choose a passage for each query, in blocks of queries that bound the memory."""
    passage = np.full(len(queries), -1, dtype=np.int64)
    similarity = np.zeros(len(queries), dtype=np.float32)
    filtered = np.zeros(len(queries), dtype=np.int64)

    for block in _blocks(len(queries), len(passages)):
        ranked, similarities = _rank_candidates(queries[block] @ passages.T, barred[block], config)
        is_candidate = similarities > -np.inf
        is_allowed = is_candidate & (similarities <= limits[block, None])
        filtered[block] = (is_candidate & ~is_allowed).sum(axis=1)

        # Which of the allowed candidates is taken, counted from the nearest: 0 is the hardest.
        counts = is_allowed.sum(axis=1)
        turn = np.zeros_like(counts)
        if config.sampling != "hardest":
            turn = (draws[block] * counts).astype(np.int64)
        is_taken = is_allowed & (is_allowed.cumsum(axis=1) - 1 == turn[:, None])
        rank = is_taken.argmax(axis=1)[:, None]

        chosen = np.take_along_axis(ranked, rank, axis=1)[:, 0]
        passage[block] = np.where(counts > 0, chosen, -1)
        similarity[block] = np.take_along_axis(similarities, rank, axis=1)[:, 0]
    return _Choice(passage=passage, similarity=similarity, filtered=filtered)


def _blocks(rows: int, passages: int) -> Iterator[slice]:
    size = max(1, _SIMILARITIES_AT_ONCE // max(passages, 1))
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def _rank_candidates(
    similarities: _Floats, barred: Sequence[Sequence[_Integers]], config: HardNegativesConfig
) -> tuple[_Integers, _Floats]:
    """Return the passages from rank `skip_top` to `candidates`, nearest first.

    Returns:
        The passages and their similarities, both [queries, ranks]; barred passages have -inf.
    """
    for row, arrays in enumerate(barred):
        for array in arrays:
            similarities[row, array] = -np.inf

    # A partition first: sorting all passages would take most of the time.
    count = similarities.shape[1]
    width = min(config.candidates, count)
    nearest = np.argpartition(similarities, count - width, axis=1)[:, count - width :]
    values = np.take_along_axis(similarities, nearest, axis=1)

    # Ties are ordered by passage, so that the result doesn't depend on the partition.
    order = np.lexsort((nearest, -values), axis=-1)
    order = order[:, min(config.skip_top, width - 1) :]
    ranked = np.take_along_axis(nearest, order, axis=1)
    values = np.take_along_axis(values, order, axis=1)

    if config.skip_top >= width:
        values[:] = -np.inf  # so few passages that all of them are skipped
    return ranked, values


def _warnings(rows: int, without: int, config: HardNegativesConfig) -> tuple[str, ...]:
    if without == 0 or without < _WARN_SHARE * rows:
        return ()
    return (
        f"{without} of {rows} pairs ({without / rows:.0%}) have no hard negative: all of their "
        f"{config.candidates} candidates may be true answers. Raise "
        "feature_engineering.hard_negatives.candidates or lower its margin.",
    )
