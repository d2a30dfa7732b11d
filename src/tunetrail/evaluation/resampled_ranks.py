"""Rank correlation of many resamples, whose ranks come from counting instead of sorting.

Rows are sorted once. In a resample, the rank of a row follows from the number of drawn rows up to
it, which is a cumulative sum of counts. Resamples lie side by side in memory, so that each
operation reads and writes several of them at once.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Moments = tuple[Floats, Floats, Floats]
"""Sum of products and both sums of squares of centred ranks, each [resamples]."""

# Ranks held at a time: few enough for the processor's cache.
_CELLS_AT_ONCE = 800_000
# Resamples side by side even of many rows: numpy copies 32 bytes at a time fast.
_LEAST_HEIGHT = 8
# Strips of rows that are added up at the same time, as a plain sum waits for row after row.
_STRIPS = 64


def rank_moments(first: Array, second: Array, cluster_of: Array) -> Callable[[Array], Moments]:
    """Return a function that computes the moments of a rank correlation on many resamples.

    The moments are the sums of which Spearman's correlation is made: the products and the squares
    of centred ranks. Ranks are doubled, so that ties have whole ranks too: then all sums are exact
    up to 2^53, which is enough for 200,000 rows.

    Args:
        first: What the rows are ranked by on one side, [rows].
        second: What they are ranked by on the other side, [rows].
        cluster_of: The cluster of each row, as an index.

    Returns:
        A function that takes how often each cluster was drawn, [resamples, clusters], and returns
        the moments of each resample.
    """
    # In the order of one side, so that its ranks are read in sequence.
    order = np.argsort(second, kind="stable")
    cluster_of_row = cluster_of[order]
    first_ranks, second_ranks = (
        _ResampledRanks(side[order], cluster_of_row) for side in (first, second)
    )
    height = max(_LEAST_HEIGHT, _CELLS_AT_ONCE // len(order))

    def block_moments(counts: Array) -> Moments:
        draws = np.ascontiguousarray(counts.T.astype(np.int32))
        first_centred, first_squares = first_ranks(draws)
        second_centred, second_squares = second_ranks(draws)

        weighted = draws.take(cluster_of_row, axis=0)
        weighted *= second_centred
        products = np.einsum("ij,ij->j", weighted, first_centred, dtype=np.float64)
        return products, first_squares, second_squares

    def moments(counts: Array) -> Moments:
        starts = range(0, len(counts), height)
        blocks = [block_moments(counts[start : start + height]) for start in starts]
        products, first_squares, second_squares = map(np.concatenate, zip(*blocks, strict=True))
        return products, first_squares, second_squares

    return moments


def rank_moment_shares(first: Array, second: Array) -> Floats:
    """Return values [3, rows] whose means are the moments of centred ranks as shares of the rows.

    `rank_moments` defines the moments. A row's value is the moment plus the row's influence:
    how the moment changes, to first order, as the row gains weight. So the mean over a resample is
    the resample's own moment, to first order, without ranks for each.

    Args:
        first: What the rows are ranked by on one side, [rows].
        second: What they are ranked by on the other side, [rows].
    """
    from scipy.stats import rankdata

    rows = len(first)
    first_ranks, second_ranks = (
        (rankdata(side) - (rows + 1.0) / 2.0) / rows for side in (first, second)
    )

    def moment_shares(left: Array, left_ranks: Floats, right: Array, right_ranks: Floats) -> Floats:
        products = left_ranks * right_ranks
        # More weight on a row raises the ranks of all rows above it.
        raised = _mean_above(left, right_ranks) + _mean_above(right, left_ranks)
        shares: Floats = products + raised - 2.0 * products.mean()
        return shares

    return np.stack(
        [
            moment_shares(first, first_ranks, second, second_ranks),
            moment_shares(first, first_ranks, first, first_ranks),
            moment_shares(second, second_ranks, second, second_ranks),
        ]
    )


def _mean_above(values: Array, weights: Floats) -> Floats:
    """Return the sum of the weights of the rows above each row over all rows; ties count half."""
    _, tie_of = np.unique(values, return_inverse=True)
    sums = np.bincount(tie_of, weights=weights)
    above = sums[::-1].cumsum()[::-1] - sums / 2.0
    means: Floats = above[tie_of] / len(values)
    return means


class _ResampledRanks:
    """Ranks rows in each resample, ties by the mean of their ranks.

    Args:
        values: What the rows are ranked by, [rows].
        cluster_of: The cluster of each row, as an index.
    """

    def __init__(self, values: Array, cluster_of: Array) -> None:
        order = np.argsort(values, kind="stable")
        # The sorted rows fill a table of strips column by column.
        self._width = -(-len(order) // _STRIPS)
        column, strip = np.divmod(np.arange(len(order)), _STRIPS)
        place = strip * self._width + column
        # Places after the last row hold a row as well: nothing reads the sums that it is in.
        self._cluster_of = np.zeros(_STRIPS * self._width, dtype=np.intp)
        self._cluster_of[place] = cluster_of[order]

        changes = np.diff(values[order]) != 0.0
        self._ends_of_ties = place[np.append(changes, True)]
        self._tie_of_row = np.empty_like(order)
        self._tie_of_row[order] = np.append(0, changes.cumsum())

    def __call__(self, draws: Array) -> tuple[Array, Floats]:
        """Return twice the distance of each row's rank to the mean rank, and the sum of squares.

        Args:
            draws: How often each cluster was drawn, int32 [clusters, resamples].

        Returns:
            Whole numbers, int32 [rows, resamples], and the sum of their squares over the drawn
            rows, [resamples].
        """
        # How many rows are drawn up to the end of each tie, which is the start of the next.
        ends = np.zeros((len(self._ends_of_ties) + 1, draws.shape[1]), dtype=np.int32)
        self._rows_up_to(draws).take(self._ends_of_ties, axis=0, out=ends[1:], mode="clip")

        # A tie has the mean of the ranks start + 1 to end; the mean of all ranks is half of
        # the rows + 1.
        centred = ends[:-1] + ends[1:]
        centred -= ends[-1]
        by_row = centred.take(self._tie_of_row, axis=0)

        # The ranks of n rows have the sum of squares (n^3 - n) / 12, of which each tie of t rows
        # takes (t^3 - t) / 12; doubled ranks have four times that.
        sizes = np.subtract(ends[1:], ends[:-1], out=centred)
        cubes = np.einsum("ij,ij,ij->j", sizes, sizes, sizes, dtype=np.float64)
        return by_row, (ends[-1].astype(np.float64) ** 3 - cubes) / 3.0

    def _rows_up_to(self, draws: Array) -> Array:
        """Return how many rows are drawn up to each place of the table, [places, resamples]."""
        table = draws.take(self._cluster_of, axis=0)
        strips = table.reshape(_STRIPS, self._width, -1)
        for strip in range(1, _STRIPS):
            strips[strip] += strips[strip - 1]

        # The last strip now has the sum of each column, which the later columns add.
        columns_before = np.zeros_like(strips[0])
        np.cumsum(strips[-1, :-1], axis=0, out=columns_before[1:])
        strips += columns_before
        return table
