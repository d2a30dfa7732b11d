"""Vectors: the form in which the judgements over a session take them. Knows nothing of what is judged."""

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA

MOST_DIMENSIONS = 512
"""More than these are reduced: the judgements' time grows with the cube of the dimensions."""


def unit_vectors(vectors: npt.NDArray[np.floating[Any]], *, seed: int) -> npt.NDArray[np.float64]:
    """Return vectors of length 1 as float64, [rows, dimensions]; those without a length stay zero.

    Where there are more than `MOST_DIMENSIONS` and more rows than that, it is their first principal components.

    Args:
        vectors: [rows, dimensions], finite.
        seed: For the principal components.
    """
    raw = np.asarray(vectors, dtype=np.float64)
    # By the largest value first, so that no square overflows.
    raw = raw / np.maximum(np.abs(raw).max(axis=1, keepdims=True, initial=0.0), 1e-300)
    x: npt.NDArray[np.float64] = raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-12)
    if min(x.shape) > MOST_DIMENSIONS:
        x = np.asarray(
            PCA(MOST_DIMENSIONS, svd_solver="randomized", random_state=seed).fit_transform(x)
        )
    return x
