"""Outliers: how little the rest of a session explains each row's vector, and which rows don't belong. Knows no texts.

Neighbour methods (local outlier factor, distance to the k-th neighbour) were measured first and miss foreign rows of one
kind as soon as there are more of them than neighbours. Here a row is explained by rows that are not of its own kind.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular
from scipy.stats import norm
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

FEWEST_ROWS = 50
"""Below this number of rows nothing is flagged: what is usual in the session isn't known."""

_CLUSTERS = (20, 40)
_RIDGE = 0.1
_TRIMMED = 0.2
_TRIM_STEPS = 4
_MOST_DIMENSIONS = 512

_Floats = npt.NDArray[np.float64]
_Flags = npt.NDArray[np.bool_]


def outlier_scores(vectors: npt.NDArray[np.floating[Any]], *, seed: int) -> _Floats:
    x = _prepared(vectors, seed)
    if len(x) < 3 or not np.any(np.ptp(x, axis=0) > 0.0):
        return np.zeros(len(x))
    apart = np.mean([_log(_left_out_distances(x, _clusters(x, count, seed))) for count in _CLUSTERS], axis=0)
    return apart + _log(_trimmed_distances(x, apart))


def _log(distances: _Floats) -> _Floats:
    return np.log(np.maximum(distances, 1e-12))


def _prepared(vectors, seed):
    x = np.asarray(vectors, dtype=np.float64)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    if x.shape[1] > _MOST_DIMENSIONS and len(x) > _MOST_DIMENSIONS:
        x = PCA(_MOST_DIMENSIONS, svd_solver="randomized", random_state=seed).fit_transform(x)
    return x


def _clusters(x, count, seed):
    return KMeans(min(count, len(x) // 2), n_init=1, max_iter=30, random_state=seed).fit_predict(x)


def _squared_distances(x, rows, total, outer, count):
    mean = total / count
    covariance = outer / count - np.outer(mean, mean)
    width = x.shape[1]
    covariance.flat[:: width + 1] += max(_RIDGE * float(np.trace(covariance)) / width, 1e-9)
    scaled = solve_triangular(np.linalg.cholesky(covariance), (x[rows] - mean).T, lower=True, check_finite=False)
    return np.einsum("ij,ij->j", scaled, scaled)


def _left_out_distances(x, labels):
    total, outer = x.sum(axis=0), x.T @ x
    distances = np.zeros(len(x))
    for label in np.unique(labels):
        own = labels == label
        distances[own] = _squared_distances(
            x, own, total - x[own].sum(axis=0), outer - x[own].T @ x[own], len(x) - int(own.sum())
        )
    return distances


def _trimmed_distances(x, start):
    distances = start
    kept = max(2, round((1.0 - _TRIMMED) * len(x)))
    for _ in range(_TRIM_STEPS):
        core = np.argsort(distances, kind="stable")[:kept]
        distances = _squared_distances(x, slice(None), x[core].sum(axis=0), x[core].T @ x[core], kept)
        leverage = distances[core] / kept
        distances[core] /= np.maximum(1.0 - leverage, 1e-3)
    return distances
