"""The map of an embedding space: rows in two dimensions, before and after a training."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.linalg import orthogonal_procrustes
from sklearn.decomposition import PCA

from tunetrail.errors import UserError, first_line
from tunetrail.evaluation.metric import Array, Floats
from tunetrail.evaluation.scores import unit_vectors

MAP_ARTIFACT = "evaluation/map.parquet"
"""Path of the file among the artifacts of its run."""

MOST_ROWS = 1_000
"""Rows on a map: more of them cover one another."""

_COORDINATES = ("before_x", "before_y", "after_x", "after_y")
_SHARES = (b"before_share", b"after_share")
_FEWEST_ROWS = 3


@dataclass(frozen=True, kw_only=True)
class EmbeddingMap:
    """Rows in the plane of their first two principal components.

    Attributes:
        table: A line for each row with `row_id`, `before_x`, `before_y`, `after_x` and `after_y`.
        before_share: The share of the vectors' variance that the plane holds, before the training.
        after_share: The same after the training.
    """

    table: pd.DataFrame
    before_share: float
    after_share: float


def embedding_map(before: Array, after: Array, row_ids: Sequence[int]) -> EmbeddingMap | None:
    """Return the map of the rows' unit vectors; None if there are fewer than three rows.

    Each model's vectors have a plane of their own. The one after the training is turned and
    mirrored, which keeps all distances, until its rows are as near as possible to those before
    (orthogonal Procrustes: Schoenemann 1966, https://doi.org/10.1007/BF02289451).

    Args:
        before: Vectors of the version to beat, [rows, dimensions].
        after: Vectors of the candidate, [rows, dimensions], possibly of other dimensions.
        row_ids: The id of each row.
    """
    if len(row_ids) < _FEWEST_ROWS or min(before.shape[1], after.shape[1]) < 2:
        return None

    old, before_share = _plane(before)
    new, after_share = _plane(after)
    rotation, _ = orthogonal_procrustes(new, old)
    coordinates = np.hstack([old, new @ rotation])
    table = pd.DataFrame(coordinates, columns=list(_COORDINATES))
    table.insert(0, "row_id", list(row_ids))
    return EmbeddingMap(table=table, before_share=before_share, after_share=after_share)


def _plane(vectors: Array) -> tuple[Floats, float]:
    """Return the coordinates of vectors in a plane, [rows, 2], and its share of their variance."""
    unit = unit_vectors(vectors, "vectors").astype(np.float64)
    # Vectors that are all equal have no variance to divide by.
    if np.allclose(unit, unit[0]):
        return np.zeros((len(unit), 2)), 1.0
    plane = PCA(2, svd_solver="full").fit(unit)
    return plane.transform(unit), float(plane.explained_variance_ratio_.sum())


def write_embedding_map(embedding_map: EmbeddingMap, path: Path) -> None:
    """Write the map to a Parquet file that only its owner can read."""
    shares = map(str, (embedding_map.before_share, embedding_map.after_share))
    table = pa.Table.from_pandas(embedding_map.table, preserve_index=False)
    path.touch(mode=0o600)
    pq.write_table(table.replace_schema_metadata(dict(zip(_SHARES, shares, strict=True))), path)


def read_embedding_map(path: Path) -> EmbeddingMap:
    """Return the map of a Parquet file; raises `UserError` if the file is no map."""
    try:
        table = pq.read_table(path, columns=["row_id", *_COORDINATES])
        before_share, after_share = (float(table.schema.metadata[name]) for name in _SHARES)
    # pyarrow's errors are ValueErrors or OSErrors; another file lacks the columns or the shares.
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} must be the map of an evaluation, got {first_line(error)}. "
            "Train again to have it written."
        ) from error
    return EmbeddingMap(table=table.to_pandas(), before_share=before_share, after_share=after_share)
