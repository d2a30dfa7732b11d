import numpy as np
import pytest

from tunetrail.data.checks.row_vectors import MOST_DIMENSIONS, normalize_and_reduce


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e200])
def test_normalize_and_reduce_have_length_one_at_any_scale(scale: float) -> None:
    vectors = np.random.default_rng(0).normal(size=(9, 7)) * scale
    result = normalize_and_reduce(vectors, seed=0)
    assert np.linalg.norm(result, axis=1) == pytest.approx(np.ones(9))
    assert result == pytest.approx(normalize_and_reduce(vectors / scale, seed=0))


@pytest.mark.parametrize("shape", [(0, 7), (1, 7), (3, 0)])
def test_normalize_and_reduce_keeps_zeros_and_emptiness(shape: tuple[int, int]) -> None:
    assert (
        normalize_and_reduce(np.zeros(shape, dtype=np.float32), seed=0).tolist()
        == np.zeros(shape).tolist()
    )


def test_normalize_and_reduce_reduces_many_dimensions_and_keeps_distances() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(600, 20)) @ generator.normal(size=(20, 700))

    reduced, whole = (
        normalize_and_reduce(vectors, seed=1),
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
    )

    assert reduced.shape == (600, MOST_DIMENSIONS)
    assert np.linalg.norm(reduced[:-1] - reduced[1:], axis=1) == pytest.approx(
        np.linalg.norm(whole[:-1] - whole[1:], axis=1), rel=1e-6
    )
