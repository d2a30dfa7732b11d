"""Outliers: which rows don't belong to a session, because the rest of it explains them badly.

Methods by neighbours alone (local outlier factor, distance to the k-th neighbour) were measured:
they miss foreign rows of one kind as soon as there are more of them than neighbours. Here each row
is explained by rows that aren't of its kind.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors

from tunetrail.data.checks.row_vectors import normalize_and_reduce

FEWEST_ROWS = 50
"""With fewer rows nothing is flagged, because what is usual in the session isn't known."""

_CLUSTERS = 40
_CLUSTERINGS = 2
# Of the rows: foreign rows of one kind may be as many and still don't explain one another.
_LEFT_OUT = 0.06
# Of the mean variance: keeps the covariance invertible if there are few rows.
_RIDGE = 0.1
_TRIMMED = 0.2
_TRIM_STEPS = 4
_NEIGHBORS_WEIGHT = 0.15

# Thresholds are in units of the distance from the median of the scores to this quantile.
_UNIT_QUANTILE = 0.8
_NEAREST_THRESHOLD = 2.5
_USUAL_THRESHOLD = 4.0
_BANDWIDTH = 0.15
_VALLEY_DEPTH = 0.7
_FEWEST_ON_BUMP = 3
_FEWEST_OF_LABEL = 5

_Floats = npt.NDArray[np.float64]
_Flags = npt.NDArray[np.bool_]


def outlier_scores(
    vectors: npt.NDArray[np.floating[Any]], *, neighbors: int = 5, seed: int
) -> _Floats:
    """Return how foreign each row is, [rows]; scores are comparable within one session only.

    A score is the sum of two log squared Mahalanobis distances of the unit-normalised vector, with
    a ridge of a tenth of the mean variance:

    - from all rows except its own cluster and the nearest clusters (k-means; 6 % of the rows are
      left out),
    - from the 80 % of the rows that are least foreign (concentration steps of a minimum covariance
      determinant, Rousseeuw and Van Driessen 1999, started from the first distance).

    The mean score of the nearest neighbours counts for 15 %. Apart from the search for neighbours,
    time and memory grow linearly with the rows.

    Args:
        vectors: [rows, dimensions], finite; more than 512 dimensions are reduced to as many
            principal components.
        neighbors: Number of nearest neighbours.
        seed: For the clusters.
    """
    x = normalize_and_reduce(vectors, seed=seed)
    if len(x) < 3 or not np.any(np.ptp(x, axis=0) > 1e-9):
        return np.zeros(len(x))

    # Several clusterings, because the borders of one are partly chance.
    left_out = []
    for clustering in range(_CLUSTERINGS):
        cluster_ids = _cluster(x, seed + clustering)
        left_out.append(_log(_left_out_distances(x, cluster_ids)))
    foreignness: _Floats = np.mean(left_out, axis=0)
    scores = foreignness + _log(_trimmed_distances(x, foreignness))

    search = NearestNeighbors(n_neighbors=min(neighbors, len(x) - 1), algorithm="brute").fit(x)
    nearest = search.kneighbors(return_distance=False)
    of_neighbors: _Floats = scores[nearest].mean(axis=1)
    smoothed: _Floats = (1.0 - _NEIGHBORS_WEIGHT) * scores + _NEIGHBORS_WEIGHT * of_neighbors
    return smoothed


def outliers(
    vectors: npt.NDArray[np.floating[Any]], *, seed: int, labels: Sequence[str | None] | None = None
) -> _Flags:
    """Return which rows don't belong to the session, [rows]; none of fewer than `FEWEST_ROWS`.

    The threshold follows from the scores: it is the deepest valley before a bump of at least 3 rows
    and at most 6 % of the rows, or a distance that a clean session hardly reaches. Without labels,
    a small kind of rows that has nothing in common with the rest looks just like foreign rows.

    Args:
        vectors: [rows, dimensions], finite.
        seed: For the clusters.
        labels: The label of each row, or None. If a label of 5 rows or more stands out as a whole,
            it is a kind of its own and isn't flagged.
    """
    if len(vectors) < FEWEST_ROWS:
        return np.zeros(len(vectors), dtype=np.bool_)

    scores = outlier_scores(vectors, seed=seed)
    flagged: _Flags = scores > _threshold(scores)
    return flagged if labels is None else flagged & ~_of_distinct_labels(flagged, labels)


def _log(distances: _Floats) -> _Floats:
    logarithms: _Floats = np.log(np.maximum(distances, 1e-12))
    return logarithms


def _cluster(x: _Floats, seed: int) -> npt.NDArray[np.int64]:
    # k-means warns if it is asked for more clusters than there are different rows.
    distinct = len(np.unique(x.round(9), axis=0))
    count = max(1, min(_CLUSTERS, len(x) // 2, distinct))
    model = KMeans(count, n_init=1, max_iter=30, random_state=seed)
    return np.asarray(model.fit_predict(x), dtype=np.int64)


def _left_out_distances(x: _Floats, cluster_ids: npt.NDArray[np.int64]) -> _Floats:
    """Return each row's squared Mahalanobis distance from rows of clusters that aren't near it.

    A row's own cluster and the clusters nearest to it, `_LEFT_OUT` of all rows at least, are left
    out: a dense group of outliers must not make itself look normal.
    """
    clusters, sizes = np.unique(cluster_ids, return_counts=True)
    members = [cluster_ids == cluster for cluster in clusters]

    # Sums and outer products by cluster: any set of clusters is left out by subtraction.
    cluster_sums = np.stack([x[rows].sum(axis=0) for rows in members])
    cluster_outers = [x[rows].T @ x[rows] for rows in members]
    total, total_outer = cluster_sums.sum(axis=0), x.T @ x
    means = cluster_sums / sizes[:, None]

    distances = np.zeros(len(x))
    for index, rows in enumerate(members):
        nearest_clusters = np.argsort(((means - means[index]) ** 2).sum(axis=1), kind="stable")
        cumulative_sizes = np.cumsum(sizes[nearest_clusters])
        left_out_count = 1 + int(np.searchsorted(cumulative_sizes, _LEFT_OUT * len(x)))
        left_out = nearest_clusters[:left_out_count]
        remaining = len(x) - int(sizes[left_out].sum())
        if remaining > 0:
            remaining_sum = total - cluster_sums[left_out].sum(axis=0)
            remaining_outer = total_outer - np.add.reduce(
                [cluster_outers[cluster] for cluster in left_out]
            )
            distances[rows] = _squared_distances(x[rows], remaining_sum, remaining_outer, remaining)
    return distances


def _trimmed_distances(x: _Floats, start: _Floats) -> _Floats:
    """Return each row's squared distance from the rows that are nearest to the middle."""
    distances, count = start, max(2, round((1.0 - _TRIMMED) * len(x)))
    for _ in range(_TRIM_STEPS):
        core = np.argsort(distances, kind="stable")[:count]
        distances = _squared_distances(x, x[core].sum(axis=0), x[core].T @ x[core], count)
        # A row of the core counts as if it had been left out of the core (Sherman and Morrison
        # 1950), so that all rows are comparable.
        distances[core] /= np.maximum(1.0 - distances[core] / count, 1e-3)
    return distances


def _squared_distances(x: _Floats, total: _Floats, outer: _Floats, count: int) -> _Floats:
    """Return the squared Mahalanobis distances of `x` from a set of rows.

    The set has `count` rows, their sum is `total`, and `outer` is the sum of their outer products.
    """
    mean = total / count
    covariance = outer / count - np.outer(mean, mean)
    width = len(mean)
    covariance.flat[:: width + 1] += max(_RIDGE * float(np.trace(covariance)) / width, 1e-6)

    root = np.linalg.cholesky(covariance)
    whitened = solve_triangular(root, (x - mean).T, lower=True, check_finite=False)
    # Only the diagonal of the product: the whole of it would be [rows, rows].
    squares: _Floats = np.einsum("ij,ij->j", whitened, whitened)
    return squares


def _threshold(scores: _Floats) -> float:
    """Return the score above which a row is an outlier; infinity if the scores don't differ.

    Foreign rows of one kind have similar scores, so they form a bump far above the usual scores.
    The threshold is the deepest valley below such a bump, or the usual one if no valley is deep
    enough.
    """
    median = float(np.median(scores))
    unit = float(np.quantile(scores, _UNIT_QUANTILE)) - median
    if unit <= 1e-9:
        return np.inf

    far = (scores - median) / unit
    far = far[far > _NEAREST_THRESHOLD - 1.0]
    highest = max(_USUAL_THRESHOLD, far.max(initial=0.0)) + 0.3
    candidates = np.linspace(_NEAREST_THRESHOLD, highest, 300)

    # A kernel density of the far scores, and its highest bump beyond each candidate.
    density = np.exp(-0.5 * ((candidates[:, None] - far) / _BANDWIDTH) ** 2).sum(axis=1)
    bump = np.maximum.accumulate(density[::-1])[::-1]
    rows_above = (far > candidates[:, None]).sum(axis=1)
    is_possible = (rows_above >= _FEWEST_ON_BUMP) & (rows_above <= _LEFT_OUT * len(scores))

    # One row is added to both: an empty valley before three rows means less than before thirty.
    depth = np.where(is_possible, (density + 1.0) / (bump + 1.0), np.inf)
    deepest = int(np.argmin(depth))
    is_valley = depth[deepest] < _VALLEY_DEPTH
    return median + unit * (float(candidates[deepest]) if is_valley else _USUAL_THRESHOLD)


def _of_distinct_labels(flagged: _Flags, labels: Sequence[str | None]) -> _Flags:
    """Return which rows have a label most of whose rows are flagged, [rows]."""
    rows_of_label = defaultdict(list)
    for row, label in enumerate(labels):
        if label is not None:
            rows_of_label[label].append(row)

    is_distinct = np.zeros(len(flagged), dtype=np.bool_)
    for rows in rows_of_label.values():
        is_distinct[rows] = len(rows) >= _FEWEST_OF_LABEL and float(flagged[rows].mean()) > 0.5
    return is_distinct
