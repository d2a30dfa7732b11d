import random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunetrail.data.checks.drift import embedding_drift, length_drift, vocabulary_drift
from tunetrail.data.stdlib_docs import stdlib_docs
from tunetrail.samples import SampleKind

Vectors = npt.NDArray[np.float32]


def vectors(rows: int, seed: int, shift: float = 0.0) -> Vectors:
    generator = np.random.default_rng(seed)
    return (generator.normal(size=(rows, 32)) + shift * np.eye(32)[0]).astype(np.float32)


def documentation(seed: int) -> list[str]:
    texts = [row["anchor"] for row in stdlib_docs(SampleKind.EMBEDDING, 600)]
    random.Random(seed).shuffle(texts)
    return texts


@pytest.mark.parametrize("rows", [20, 200, 2000])
def test_length_drift_sees_a_change_and_no_chance(rows: int) -> None:
    generator = np.random.default_rng(rows)
    before, now = generator.poisson(60, rows), generator.poisson(60, rows)
    assert length_drift(before, now) < 0.1
    assert length_drift(before, now * 3) > 0.9


@pytest.mark.processes
@pytest.mark.parametrize("rows", [50, 300])
def test_vocabulary_drift_sees_another_domain_and_no_chance(rows: int) -> None:
    texts = documentation(rows)
    assert vocabulary_drift(texts[:rows], texts[-rows:]) < 0.1
    words = ["sugar", "butter", "oven", "flour", "bake", "the", "a"]
    later_texts = [" ".join(random.Random(seed).choices(words, k=12)) for seed in range(rows)]
    assert vocabulary_drift(texts[:rows], later_texts) > 0.5


def test_vocabulary_drift_is_one_without_a_common_word_and_zero_for_the_same_texts() -> None:
    before, now = ["red green blue"] * 50, ["one two three"] * 50
    assert vocabulary_drift(before, now) == pytest.approx(1.0)
    assert vocabulary_drift(before, [text.upper() for text in before]) == 0.0


@pytest.mark.parametrize("rows", [20, 200, 1000])
def test_embedding_drift_sees_another_domain_and_no_chance(rows: int) -> None:
    assert embedding_drift(vectors(rows, 1), vectors(rows, 2), seed=0) < 0.1
    assert embedding_drift(vectors(rows, 1), vectors(rows, 2, shift=20.0), seed=0) > 0.8


def test_embedding_drift_draws_rows_by_the_seed() -> None:
    before, now = vectors(2500, 1), vectors(2200, 2, shift=1.0)
    assert embedding_drift(before, now, seed=0) == embedding_drift(before, now, seed=0)
    assert embedding_drift(before, now, seed=0) == pytest.approx(
        embedding_drift(before, now, seed=1), abs=0.1
    )


@pytest.mark.parametrize("rows", [0, 1, 2, 30])
def test_embedding_drift_survives_constant_vectors(rows: int) -> None:
    same = np.ones((rows, 4), dtype=np.float32)
    assert embedding_drift(same, same, seed=0) == 0.0
    assert embedding_drift(same, same * 0.0, seed=0) == (1.0 if rows == 30 else 0.0)


def test_embedding_drift_refuses_other_dimensions() -> None:
    with pytest.raises(ValueError, match="vectors must have the same dimensions, got 32 and 5"):
        embedding_drift(vectors(30, 1), vectors(30, 2)[:, :5], seed=0)


@pytest.mark.parametrize(
    "texts", [[], [""], ["..."], ["a"], ["\ud800\x00", "x" * 1_000_000], ["a a"] * 9]
)
def test_drift_survives_degenerate_texts(texts: list[str]) -> None:
    lengths = np.array([len(text) for text in texts])

    assert 0.0 <= length_drift(lengths, np.array([*lengths, 4])) <= 1.0
    assert 0.0 <= vocabulary_drift(texts, [*texts, "word"]) <= 1.0
    assert length_drift(lengths, lengths) == 0.0
    assert vocabulary_drift(texts, texts) == 0.0


@given(st.lists(st.text(max_size=20), max_size=8), st.lists(st.text(max_size=20), max_size=8))
def test_vocabulary_drift_is_a_share(before: list[str], now: list[str]) -> None:
    assert 0.0 <= vocabulary_drift(before, now, seed=1) <= 1.0
