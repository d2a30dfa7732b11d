"""Outliers: how little the rest of a session explains each row's vector, and which rows don't belong. Knows no texts.

Methods by neighbours alone (local outlier factor, distance to the k-th neighbour) were measured; they miss foreign rows
of one kind as soon as these are more than the neighbours. Here each row is explained by rows that aren't of its kind.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors

from tunetrail.data.checks.vectors import unit_vectors

FEWEST_ROWS = 50
"""Among fewer rows nothing is flagged: what is usual in the session isn't known."""

_CLUSTERS = 40
_CLUSTERINGS = 2
_LEFT_OUT = 0.06
_RIDGE = 0.1
_TRIMMED = 0.2
_TRIM_STEPS = 4
_NEIGHBORS_WEIGHT = 0.15

# In units of what lies between the median of the scores and their 80 % quantile.
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
    """Return how foreign each row is, [rows], higher for more; comparable within one session only.

    A score is the sum of two log squared Mahalanobis distances, with a ridge of a tenth of the mean variance, of the
    unit-normalised vector: from all rows but those of its own cluster and its nearest clusters (k-means; 6 % of the
    rows are left out), and from the 80 % of the rows that are least foreign (a minimum covariance determinant's
    concentration steps, Rousseeuw and Van Driessen 1999, started from the first distance). The mean score of the
    nearest neighbours counts for 15 %. Time and memory grow linearly with the rows, but for the neighbours.

    Args:
        vectors: [rows, dimensions], finite; more than 512 dimensions are reduced to these by principal components.
        neighbors: Number of nearest neighbours.
        seed: For the clusters.
    """
    x = unit_vectors(vectors, seed=seed)
    if len(x) < 3 or not np.any(np.ptp(x, axis=0) > 1e-9):
        return np.zeros(len(x))
    left_out = [
        _log(_left_out_distances(x, _clusters(x, seed + turn))) for turn in range(_CLUSTERINGS)
    ]
    apart: _Floats = np.mean(left_out, axis=0)
    scores = apart + _log(_trimmed_distances(x, apart))
    search = NearestNeighbors(n_neighbors=min(neighbors, len(x) - 1), algorithm="brute").fit(x)
    nearest = search.kneighbors(return_distance=False)
    smoothed: _Floats = (1.0 - _NEIGHBORS_WEIGHT) * scores + _NEIGHBORS_WEIGHT * scores[
        nearest
    ].mean(axis=1)
    return smoothed


def outliers(
    vectors: npt.NDArray[np.floating[Any]], *, seed: int, labels: Sequence[str | None] | None = None
) -> _Flags:
    """Return which rows don't belong to the session, [rows]; none among fewer than `FEWEST_ROWS`.

    The threshold follows from the scores: the deepest valley before a bump of at least 3 rows and at most 6 % of them,
    else a distance that a clean session hardly reaches. Without labels, a small kind of rows that has nothing in
    common with the rest looks just like foreign rows.

    Args:
        vectors: [rows, dimensions], finite.
        seed: For the clusters.
        labels: One for each row, or None: a label of 5 rows or more that stands out as a whole is a kind of its own
            and isn't flagged.
    """
    if len(vectors) < FEWEST_ROWS:
        return np.zeros(len(vectors), dtype=np.bool_)
    scores = outlier_scores(vectors, seed=seed)
    flagged: _Flags = scores > _threshold(scores)
    return flagged if labels is None else flagged & ~_kinds_of_their_own(flagged, labels)


def _log(distances: _Floats) -> _Floats:
    logarithms: _Floats = np.log(np.maximum(distances, 1e-12))
    return logarithms


def _clusters(x: _Floats, seed: int) -> npt.NDArray[np.int64]:
    distinct = len(np.unique(x.round(9), axis=0))
    model = KMeans(
        max(1, min(_CLUSTERS, len(x) // 2, distinct)), n_init=1, max_iter=30, random_state=seed
    )
    return np.asarray(model.fit_predict(x), dtype=np.int64)


def _left_out_distances(x: _Floats, labels: npt.NDArray[np.int64]) -> _Floats:
    """Return each row's squared distance from the rows beyond its cluster and the nearest clusters."""
    found, sizes = np.unique(labels, return_counts=True)
    sums = np.stack([x[labels == label].sum(axis=0) for label in found])
    outers = [x[labels == label].T @ x[labels == label] for label in found]
    means, outer = sums / sizes[:, None], x.T @ x
    distances = np.zeros(len(x))
    for place, label in enumerate(found):
        order = np.argsort(((means - means[place]) ** 2).sum(axis=1), kind="stable")
        left = order[: 1 + int(np.searchsorted(np.cumsum(sizes[order]), _LEFT_OUT * len(x)))]
        rest = len(x) - int(sizes[left].sum())
        own = labels == label
        if rest > 0:
            outer_rest = outer - np.add.reduce([outers[other] for other in left])
            distances[own] = _squared_distances(
                x[own], sums.sum(axis=0) - sums[left].sum(axis=0), outer_rest, rest
            )
    return distances


def _trimmed_distances(x: _Floats, start: _Floats) -> _Floats:
    """Return each row's squared distance from the rows that are nearest to the middle."""
    distances, count = start, max(2, round((1.0 - _TRIMMED) * len(x)))
    for _ in range(_TRIM_STEPS):
        core = np.argsort(distances, kind="stable")[:count]
        distances = _squared_distances(x, x[core].sum(axis=0), x[core].T @ x[core], count)
        # A row of the core is as if it had been left out of it (Sherman and Morrison), so that all are comparable.
        distances[core] /= np.maximum(1.0 - distances[core] / count, 1e-3)
    return distances


def _squared_distances(x: _Floats, total: _Floats, outer: _Floats, count: int) -> _Floats:
    """Return the Mahalanobis distances of `x` from `count` rows with that sum and that sum of outer products."""
    mean = total / count
    covariance = outer / count - np.outer(mean, mean)
    width = len(mean)
    covariance.flat[:: width + 1] += max(_RIDGE * float(np.trace(covariance)) / width, 1e-6)
    scaled = solve_triangular(
        np.linalg.cholesky(covariance), (x - mean).T, lower=True, check_finite=False
    )
    squares: _Floats = np.einsum("ij,ij->j", scaled, scaled)
    return squares


def _threshold(scores: _Floats) -> float:
    middle = float(np.median(scores))
    unit = float(np.quantile(scores, _UNIT_QUANTILE)) - middle
    if unit <= 1e-9:
        return np.inf
    far = (scores - middle) / unit
    far = far[far > _NEAREST_THRESHOLD - 1.0]
    grid = np.linspace(_NEAREST_THRESHOLD, max(_USUAL_THRESHOLD, far.max(initial=0.0)) + 0.3, 300)
    density = np.exp(-0.5 * ((grid[:, None] - far) / _BANDWIDTH) ** 2).sum(axis=1)
    bump = np.maximum.accumulate(density[::-1])[::-1]
    above = (far > grid[:, None]).sum(axis=1)
    possible = (above >= _FEWEST_ON_BUMP) & (above <= _LEFT_OUT * len(scores))
    # One row more on either: an empty valley before three rows is less than one before thirty.
    depth = np.where(possible, (density + 1.0) / (bump + 1.0), np.inf)
    valley = int(np.argmin(depth))
    return middle + unit * (
        float(grid[valley]) if depth[valley] < _VALLEY_DEPTH else _USUAL_THRESHOLD
    )


def _kinds_of_their_own(flagged: _Flags, labels: Sequence[str | None]) -> _Flags:
    rows: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        if label is not None:
            rows.setdefault(label, []).append(row)
    own = np.zeros(len(flagged), dtype=np.bool_)
    for members in rows.values():
        own[members] = len(members) >= _FEWEST_OF_LABEL and float(flagged[members].mean()) > 0.5
    return own
