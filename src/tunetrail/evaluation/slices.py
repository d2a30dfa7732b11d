"""Slices: on which kinds of rows a model is weak, and on which it lost against another one.

Rows are divided by what is known of them (length, label, source, ...), and every slice is compared
with an interval. Of many slices, some look bad by chance: the corrected intervals hold for all of
them at once.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import norm, t
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning

from tunetrail.errors import UserError
from tunetrail.evaluation.metric import Array, Floats
from tunetrail.evaluation.metrics import metric_named
from tunetrail.evaluation.resampling import (
    differing_clusters,
    drawn_counts,
    expanded_tail,
    least_differing,
)
from tunetrail.evaluation.scores import Scores, unit_vectors

LEAST_CLUSTERS = 20
"""Independent rows (clusters) that a slice needs: an interval from fewer isn't worth reading."""

COLUMNS = (
    "attribute",
    "value",
    "rows",
    "clusters",
    "before",
    "after",
    "improvement",
    "lower",
    "upper",
    "corrected_lower",
    "corrected_upper",
    "gap",
    "gap_lower",
    "gap_upper",
)
"""Columns of a table of slices; see `score_slices`."""

EMBEDDING_CLUSTER = "embedding_cluster"
"""The attribute by which rows with similar vectors are together."""

_ATTRIBUTES = ("characters", "language", "label", "group", EMBEDDING_CLUSTER)
_QUANTILES = 4
# Slices of one attribute, the largest ones: a column of many values divides into crumbs.
_MOST_VALUES = 50
_MOST_EMBEDDING_CLUSTERS = 10
_MOST_ROWS_AT_ONCE = 10_000
# Up to this many different numbers are categories; more are divided by quantiles.
_FEW_NUMBERS = 8
# With 2,000, a bound at 2.5 % rests on 50 resamples; 500 tell a standard error to 3 %.
_RESAMPLES, _FEWEST_RESAMPLES = 2000, 500
# Clusters times resamples from which fewer resamples are drawn: seconds for 100,000 rows.
_MOST_CELLS = 50_000_000


@dataclass(frozen=True, kw_only=True)
class _Slice:
    """The rows that have one value of an attribute.

    Attributes:
        attribute: Name of the attribute.
        value: The value.
        rows: Positions of the rows, [rows].
        clusters: The clusters that they are in, ascending, [clusters].
        cluster_of: The position of each row's cluster in `clusters`, [rows].
        before: Scores of the older model on these rows.
        after: Scores of the newer model on these rows.
    """

    attribute: str
    value: str
    rows: Array
    clusters: Array
    cluster_of: Array
    before: Scores
    after: Scores


def attributes_of(table: pd.DataFrame, own_columns: Sequence[str] = ()) -> pd.DataFrame:
    """Return by what rows can be divided: the value of each attribute as text, None if unknown.

    Numbers of many values are divided into quarters of the rows.

    Args:
        table: Example rows.
        own_columns: Names of the columns that the user gave the rows.
    """
    attributes = {}
    for name in (*_ATTRIBUTES, *own_columns):
        if name not in table:
            continue
        column = table[name]
        is_number = pd.api.types.is_numeric_dtype(column) and name != EMBEDDING_CLUSTER
        if is_number and column.nunique() > _FEW_NUMBERS:
            attributes[name] = _quarters(column.astype(np.float64))
        else:
            texts = column.astype(object).map(_as_text).astype(object)
            attributes[name] = texts.where(column.notna(), None)
    return pd.DataFrame(attributes, index=table.index, dtype=object)


def _as_text(value: object) -> str:
    """Return a value as text: whole numbers without `.0`, which a gap in their column adds."""
    is_whole = isinstance(value, float) and value.is_integer()
    return f"{value:.0f}" if is_whole else str(value)


def embedding_clusters(
    vectors: Array, row_ids: Sequence[int], seed: int
) -> npt.NDArray[np.int64] | None:
    """Return for each row the cluster of the embedding space that it is in, by k-means.

    A cluster is called after the row nearest to its centre, so that a person can look it up.

    Args:
        vectors: The rows' vectors, [rows, dimensions].
        row_ids: The id of each row.
        seed: Where the centres begin.

    Returns:
        Ids of the middle rows, [rows]; None if there are too few rows for two slices.
    """
    count = min(_MOST_EMBEDDING_CLUSTERS, len(vectors) // (2 * LEAST_CLUSTERS))
    if count < 2:
        return None

    unit = unit_vectors(vectors, "vectors")
    # Batches are as good for a rough division, and seconds instead of minutes on many rows.
    kind = KMeans if len(unit) <= _MOST_ROWS_AT_ONCE else MiniBatchKMeans
    with warnings.catch_warnings():
        # Fewer different vectors than clusters give fewer clusters.
        warnings.simplefilter("ignore", ConvergenceWarning)
        k_means = kind(count, n_init=3, random_state=seed).fit(unit)

    names = np.empty(len(unit), dtype=np.int64)
    for code in np.unique(k_means.labels_):
        rows = np.flatnonzero(k_means.labels_ == code)
        nearest = rows[np.argmax(unit[rows] @ k_means.cluster_centers_[code])]
        names[rows] = row_ids[nearest]
    return names


def score_slices(
    before: Scores, after: Scores, attributes: pd.DataFrame, *, confidence: float, seed: int
) -> pd.DataFrame:
    """Compare two models on every slice of at least 20 clusters, the surest loss first.

    All intervals come from the same resamples of whole clusters. The corrected ones hold for all
    slices at once with the given confidence, however slices overlap: with the estimates e_i, their
    standard errors s_i and their resamples e*_i, an interval is e_i +- c s_i, where c is the
    quantile of max_i |e*_i - e_i| / s_i over the resamples (the single-step max-T method: Westfall
    and Young 1993, "Resampling-Based Multiple Testing"; Romano and Wolf 2005,
    https://doi.org/10.1198/016214504000000539). As a slice may have few clusters, c is carried over
    from the normal distribution to Student's t.

    Args:
        before: Scores of the older model.
        after: Scores of the newer model on the same examples.
        attributes: The value of each attribute for each example, as text; None if unknown.
        confidence: Coverage of the intervals.
        seed: Seed of the resamples.

    Returns:
        A line for each slice, with `COLUMNS`. `improvement` is positive if the newer model is
        better; `lower` and `upper` are its bounds for this slice alone, `corrected_lower` and
        `corrected_upper` those for the search. They are NaN if too few clusters differ. `gap` is
        how much better the newer model is on the slice than on all rows, with corrected bounds. The
        lines are in the order of `corrected_upper`.

    Raises:
        UserError: A value is not finite.
        ValueError: There are more or fewer lines of attributes than examples.
    """
    if len(attributes) != after.examples:
        raise ValueError(f"attributes must have {after.examples} lines, got {len(attributes)}.")
    for scores in (before, after):
        _check_finite(scores)

    cluster_of = np.arange(after.examples)
    if after.clusters is not None:
        _, cluster_of = np.unique(np.asarray(after.clusters), return_inverse=True)
    slices = list(_slices(before, after, attributes, cluster_of))
    if not slices:
        return pd.DataFrame(columns=list(COLUMNS))

    sign = 1.0 if after.higher_is_better else -1.0
    table = _estimates(slices, after.statistic(), sign)
    old, new, everywhere = _resampled(slices, after, cluster_of, seed)
    cluster_counts = table["clusters"].to_numpy()

    # The improvement on each slice, by itself and corrected for the number of slices. If few
    # clusters differ, these agree by chance too often for an interval.
    differing = [
        differing_clusters(scored_slice.before, scored_slice.after, scored_slice.cluster_of)
        for scored_slice in slices
    ]
    has_interval = np.array(differing) >= least_differing(confidence)
    improvements = sign * (new - old)
    for position in np.flatnonzero(has_interval):
        tail = expanded_tail(confidence, int(cluster_counts[position]))
        bounds = np.quantile(improvements[position], (tail, 1.0 - tail))
        table.loc[position, ["lower", "upper"]] = bounds

    estimates = table["improvement"].to_numpy()
    widths = _corrected_widths(estimates, improvements, cluster_counts, confidence, has_interval)
    table["corrected_lower"], table["corrected_upper"] = estimates - widths, estimates + widths

    # How far the newer model is from its value on all rows: any number of clusters shows that.
    gaps, resampled_gaps = table["gap"].to_numpy(), sign * (new - everywhere)
    every_slice = np.ones(len(slices), dtype=bool)
    widths = _corrected_widths(gaps, resampled_gaps, cluster_counts, confidence, every_slice)
    table["gap_lower"], table["gap_upper"] = gaps - widths, gaps + widths

    order = ["corrected_upper", "improvement"]
    return table.sort_values(order, ignore_index=True, kind="stable")[list(COLUMNS)]


def weakest_first(slices: pd.DataFrame) -> pd.DataFrame:
    """Return slices in the order in which the newer model is surely weaker than on all rows."""
    return slices.sort_values(["gap_upper", "gap"], ignore_index=True, kind="stable")


def _check_finite(scores: Scores) -> None:
    for name in metric_named(scores.metric).reads:
        broken = int(np.count_nonzero(~np.isfinite(scores.per_example[name].astype(np.float64))))
        if broken:
            raise UserError(
                f"{name} must be finite for every row, got {broken} of {scores.examples} rows on "
                "which it isn't. Train the model again."
            )


def _quarters(column: pd.Series) -> pd.Series:
    """Return for each number the range of the quarter of the rows that it is in."""
    codes = pd.qcut(column, _QUANTILES, labels=False, duplicates="drop")
    is_whole = (column.dropna() % 1.0 == 0.0).all()
    form = "{:,.0f} to {:,.0f}" if is_whole else "{:,.3g} to {:,.3g}"
    bounds = column.groupby(codes).agg(["min", "max"])
    ranges = dict(zip(bounds.index, map(form.format, bounds["min"], bounds["max"]), strict=True))
    return codes.map(ranges).astype(object).where(codes.notna(), None)


def _slices(
    before: Scores, after: Scores, attributes: pd.DataFrame, cluster_of: Array
) -> Iterator[_Slice]:
    """Yield the slices that are large enough, and smaller than everything."""
    for attribute in attributes:
        codes, values = pd.factorize(attributes[attribute])
        sizes = np.bincount(codes[codes >= 0], minlength=len(values))

        for code in np.argsort(-sizes, kind="stable")[:_MOST_VALUES]:
            rows = np.flatnonzero(codes == code)
            clusters, local_cluster_of = np.unique(cluster_of[rows], return_inverse=True)
            if len(clusters) < LEAST_CLUSTERS or len(rows) == after.examples:
                continue
            yield _Slice(
                attribute=str(attribute),
                value=str(values[code]),
                rows=rows,
                clusters=clusters,
                cluster_of=local_cluster_of,
                before=_scores_of_rows(before, rows),
                after=_scores_of_rows(after, rows),
            )


def _scores_of_rows(scores: Scores, rows: Array) -> Scores:
    """Return the scores with the values that the primary metric reads, of some rows only."""
    reads = metric_named(scores.metric).reads
    per_example = {name: scores.per_example[name][rows] for name in reads}
    return Scores(metric=scores.metric, metrics={}, per_example=per_example)


def _estimates(slices: Sequence[_Slice], everywhere: float, sign: float) -> pd.DataFrame:
    """Return a line for each slice with everything except the intervals, which are NaN.

    Args:
        slices: The slices.
        everywhere: The newer model's metric on all rows, from which the gap is measured.
        sign: 1 if a higher metric is better, otherwise -1.
    """
    lines = []
    for scored_slice in slices:
        old, new = scored_slice.before.statistic(), scored_slice.after.statistic()
        lines.append(
            {
                "attribute": scored_slice.attribute,
                "value": scored_slice.value,
                "rows": len(scored_slice.rows),
                "clusters": len(scored_slice.clusters),
                "before": old,
                "after": new,
                "improvement": sign * (new - old),
                "gap": sign * (new - everywhere),
            }
        )

    return pd.DataFrame(lines, columns=list(COLUMNS))


def _resampled(
    slices: Sequence[_Slice], after: Scores, cluster_of: Array, seed: int
) -> tuple[Floats, Floats, Floats]:
    """Return the metric of both models on each slice, and of the newer one on all rows.

    Shapes: [slices, resamples] twice, and [resamples].
    """
    metric = metric_named(after.metric)
    old = [
        metric.resampler(scored_slice.before.per_example, scored_slice.cluster_of)
        for scored_slice in slices
    ]
    new = [
        metric.resampler(scored_slice.after.per_example, scored_slice.cluster_of)
        for scored_slice in slices
    ]
    everywhere = metric.resampler(after.per_example, cluster_of)

    clusters = int(cluster_of.max()) + 1
    samples = max(_FEWEST_RESAMPLES, min(_RESAMPLES, _MOST_CELLS // clusters))
    blocks = []
    for counts in drawn_counts(clusters, samples, seed):
        values = np.empty((2 * len(slices) + 1, len(counts)))
        for position, scored_slice in enumerate(slices):
            # One draw for all slices, so that the dependence of slices that overlap is kept.
            counts_of_slice = counts[:, scored_slice.clusters]
            values[2 * position] = old[position](counts_of_slice)
            values[2 * position + 1] = new[position](counts_of_slice)
        values[-1] = everywhere(counts)
        blocks.append(values)

    resampled = np.concatenate(blocks, axis=1)
    return resampled[:-1:2], resampled[1::2], resampled[-1]


def _corrected_widths(
    estimates: Floats, resampled: Floats, clusters: Array, confidence: float, has_interval: Array
) -> Floats:
    """Return the half-widths of intervals that hold for all slices at once, [slices].

    By the largest studentised deviation of all slices in a resample (max-t; Romano and Wolf 2005,
    https://doi.org/10.1198/016214504000000539).

    Args:
        estimates: [slices].
        resampled: The same on each resample, [slices, resamples].
        clusters: Number of clusters of each slice.
        confidence: Coverage of all intervals together.
        has_interval: Which slices get an interval; NaN for the others.
    """
    # The bootstrap's own spread is too small by the factor sqrt((n - 1) / n).
    spreads = resampled.std(axis=1) * np.sqrt(clusters / (clusters - 1.0))
    usable = has_interval & (spreads > 0.0)
    widths = np.full(len(estimates), np.nan)
    if not usable.any():
        return widths

    deviations = np.abs(resampled[usable] - estimates[usable, np.newaxis])
    largest = (deviations / spreads[usable, np.newaxis]).max(axis=0)
    critical = np.quantile(largest, confidence)
    # Student's t with the same tail: slices of few clusters have heavier tails.
    quantiles = t.isf(norm.sf(critical), clusters[usable] - 1)
    widths[usable] = quantiles * spreads[usable]
    return widths
