from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import pdist

from tunetrail.errors import TrainingError, UserError
from tunetrail.evaluation.embedding_map import (
    embedding_map,
    read_embedding_map,
    write_embedding_map,
)

GENERATOR = np.random.default_rng(0)


def test_a_turned_space_has_the_same_map() -> None:
    """Two models whose vectors differ by a rotation find the same rows similar."""
    before = GENERATOR.normal(size=(40, 6))
    turn, _ = np.linalg.qr(GENERATOR.normal(size=(6, 6)))

    mapped = embedding_map(before, before @ turn, list(range(100, 140)))

    assert mapped is not None and mapped.table["row_id"].tolist() == list(range(100, 140))
    old, new = (mapped.table[[f"{name}_x", f"{name}_y"]].to_numpy() for name in ("before", "after"))
    np.testing.assert_allclose(new, old, atol=1e-6)
    assert mapped.before_share == pytest.approx(mapped.after_share)


def test_vectors_in_a_plane_keep_their_distances() -> None:
    angles = np.linspace(0.0, 2.0 * np.pi, 12, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles), np.zeros(12), np.zeros(12)], axis=1)

    mapped = embedding_map(circle, 3.0 * circle[:, :2], list(range(12)))

    assert mapped is not None
    for moment in ("before", "after"):
        points = mapped.table[[f"{moment}_x", f"{moment}_y"]].to_numpy()
        np.testing.assert_allclose(pdist(points), pdist(circle), atol=1e-6)
    assert mapped.before_share == mapped.after_share == pytest.approx(1.0)


def test_equal_vectors_are_one_point() -> None:
    mapped = embedding_map(np.ones((5, 3)), GENERATOR.normal(size=(5, 3)), list(range(5)))

    assert mapped is not None
    assert not mapped.table[["before_x", "before_y"]].to_numpy().any()
    assert np.isfinite(mapped.table.to_numpy()).all()


def test_too_little_for_a_map() -> None:
    assert embedding_map(np.ones((2, 3)), np.ones((2, 3)), [1, 2]) is None
    assert embedding_map(np.ones((5, 1)), np.ones((5, 3)), list(range(5))) is None


def test_vectors_that_are_not_finite_are_refused() -> None:
    with pytest.raises(TrainingError, match="vectors must be finite, got 1 of 5 rows"):
        embedding_map(np.ones((5, 3)), np.array([[np.nan] * 3, *np.eye(3), [1, 1, 1]]), range(5))


def test_the_file_holds_the_map(tmp_path: Path) -> None:
    mapped = embedding_map(GENERATOR.normal(size=(9, 4)), GENERATOR.normal(size=(9, 4)), range(9))
    assert mapped is not None
    path = tmp_path / "map.parquet"

    write_embedding_map(mapped, path)
    read = read_embedding_map(path)

    pd.testing.assert_frame_equal(read.table, mapped.table)
    assert (read.before_share, read.after_share) == (mapped.before_share, mapped.after_share)
    assert path.stat().st_mode & 0o077 == 0


def test_another_file_is_no_map(tmp_path: Path) -> None:
    path = tmp_path / "map.parquet"
    pd.DataFrame({"row_id": [1]}).to_parquet(path)

    with pytest.raises(UserError, match="must be the map of an evaluation, got "):
        read_embedding_map(path)
