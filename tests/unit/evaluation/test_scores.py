import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr

from tunetrail.errors import ConfigError, SampleError, TrainingError
from tunetrail.evaluation.language_scores import language_scores
from tunetrail.evaluation.metric import Array
from tunetrail.evaluation.ranking import label_retrieval_scores, retrieval_scores
from tunetrail.evaluation.scores import Scores, similarity_scores, vector_scores


def vectors(seed: int, rows: int, dimensions: int = 16) -> Array:
    return np.random.default_rng(seed).normal(size=(rows, dimensions))


def cosine(first: Array, second: Array) -> Array:
    unit = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in (first, second)]
    return np.asarray(unit[0] @ unit[1].T)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 80))
def test_similarity_scores_agree_with_scipy(seed: int, pairs: int) -> None:
    a, b = vectors(seed, pairs), vectors(seed + 1, pairs)
    gold = np.random.default_rng(seed).integers(0, 5, pairs).astype(float)
    gold[:2] = (0.0, 1.0)
    similarities = np.round(np.diag(cosine(a, b)), 6)

    scores = similarity_scores(a, b, gold)

    assert scores.metrics["spearman"] == pytest.approx(
        spearmanr(similarities, gold).statistic, abs=0.01
    )
    assert scores.metrics["pearson"] == pytest.approx(
        pearsonr(similarities, gold).statistic, abs=1e-4
    )


@pytest.mark.parametrize("gold", [[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])
def test_similarity_scores_of_a_constant_side_are_zero(gold: list[float]) -> None:
    same = np.tile(np.full(384, 0.123), (3, 1))
    assert similarity_scores(same, same, gold).metrics == {"spearman": 0.0, "pearson": 0.0}


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_similarity_scores_refuse_gold_that_is_not_finite(broken: float) -> None:
    with pytest.raises(
        SampleError,
        match=r"score must be a finite number, got 1 of 3 scores that are not\. Correct",
    ):
        similarity_scores(vectors(0, 3), vectors(1, 3), [0.0, broken, 1.0])


def test_vector_scores_hear_the_direction_only() -> None:
    targets = vectors(0, 5)

    assert vector_scores(targets * 3.0, targets).metrics == pytest.approx(
        {"cosine_to_target": 1.0, "mse": 0.0}, abs=1e-6
    )

    opposite = vector_scores(-targets, targets).metrics
    assert opposite == pytest.approx({"cosine_to_target": -1.0, "mse": 4.0 / 16}, abs=1e-6)


@pytest.mark.parametrize(
    "scores",
    [
        retrieval_scores(vectors(0, 30), vectors(1, 30), [[index] for index in range(30)]),
        label_retrieval_scores(vectors(0, 30), [str(index % 5) for index in range(30)]),
        similarity_scores(vectors(0, 30), vectors(1, 30), np.arange(30)),
        vector_scores(vectors(0, 30), vectors(1, 30)),
        language_scores(np.arange(1.0, 31.0), np.full(30, 3), np.arange(2, 32)),
    ],
    ids=lambda scores: scores.metric,
)
def test_scores_statistic_recomputes_the_primary_metric(scores) -> None:  # type: ignore[no-untyped-def]
    assert scores.statistic() == pytest.approx(scores.value)
    assert scores.statistic(np.arange(30)[::-1]) == pytest.approx(scores.value)
    draws = np.random.default_rng(0).integers(30, size=(4, 30))
    assert scores.statistics(draws) == pytest.approx([scores.statistic(draw) for draw in draws])
    assert all(len(values) == scores.examples for values in scores.per_example.values())


def test_scores_table_has_a_line_for_each_example() -> None:
    scores = language_scores(np.array([2.0, 4.0]), np.array([1, 2]), np.array([4, 8]))
    records = [{"row_id": 7, "cluster": "b"}, {"row_id": 3, "cluster": "a"}]

    table = scores.identified(records).table()

    assert table["row_id"].tolist() == [7, 3] and table["cluster"].tolist() == ["b", "a"]
    assert table["bits_per_byte"].tolist() == scores.per_example["bits_per_byte"].tolist()
    assert list(scores.table().columns) == list(scores.per_example)


def test_scores_have_no_ids_unless_every_record_has_one() -> None:
    scores = vector_scores(vectors(0, 2), vectors(1, 2))

    some = scores.identified([{"row_id": 1, "cluster": "a"}, {"cluster": "a"}])

    assert (some.row_ids, some.clusters) == (None, ["a", "a"])
    with pytest.raises(ValueError, match="number of records must be 2, got 1"):
        scores.identified([{"row_id": 1}])


def test_scores_of_an_unknown_metric_are_refused() -> None:
    scores = Scores(metric="bleu", metrics={"bleu": 1.0}, per_example={"bleu": np.ones(2)})

    with pytest.raises(ConfigError, match=r"metric must be one of ndcg_at_10, .*, got 'bleu'"):
        scores.statistic()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: retrieval_scores(vectors(0, 2), vectors(0, 3, 4), [[0], [1]]),
            ValueError,
            "dimensions of document_vec",
        ),
        (
            lambda: retrieval_scores(vectors(0, 2), vectors(0, 3), [[0]]),
            ValueError,
            "length of relevant must be 2, got 1",
        ),
        (
            lambda: retrieval_scores(vectors(0, 1), vectors(0, 3), [[]]),
            ValueError,
            r"relevant\[0\] must hold positions",
        ),
        (
            lambda: retrieval_scores(vectors(0, 1), vectors(0, 3), [[3]]),
            ValueError,
            "positions from 0 to 2, got",
        ),
        (
            lambda: retrieval_scores(vectors(0, 1), vectors(0, 3), [[-1]]),
            ValueError,
            "positions from 0 to 2, got",
        ),
        (
            lambda: retrieval_scores(np.zeros(3), vectors(0, 3), [[0]]),
            ValueError,
            "query_vectors must have the shape",
        ),
        (
            lambda: retrieval_scores(np.full((1, 2), np.nan), np.ones((1, 2)), [[0]]),
            TrainingError,
            "1 of 1 rows",
        ),
        (
            lambda: label_retrieval_scores(vectors(0, 3), ["a", "b", "c"]),
            SampleError,
            "labels must occur at least twice",
        ),
        (
            lambda: label_retrieval_scores(vectors(0, 3), ["a"]),
            ValueError,
            "length of labels must be 3, got 1",
        ),
        (
            lambda: similarity_scores(vectors(0, 1), vectors(0, 1), [1.0]),
            ValueError,
            "gold must hold at least 2",
        ),
        (
            lambda: similarity_scores(vectors(0, 2), vectors(0, 3), [1.0, 2.0]),
            ValueError,
            "shape of vectors_b",
        ),
        (lambda: vector_scores(vectors(0, 2), vectors(0, 2, 8)), ValueError, "shape of targets"),
        (
            lambda: language_scores(np.ones(1), np.ones(2), np.ones(1)),
            ValueError,
            "length of tokens must be 1, got 2",
        ),
        (
            lambda: language_scores(np.ones(1), np.ones(1), np.zeros(1)),
            ValueError,
            "bytes must be above 0",
        ),
        (
            lambda: language_scores(np.ones(0), np.ones(0), np.ones(0)),
            ValueError,
            "tokens must be above 0",
        ),
        (
            lambda: language_scores(np.full(1, np.inf), np.ones(1), np.ones(1)),
            TrainingError,
            "nats must be finite",
        ),
    ],
)
def test_scores_refuse_what_they_cannot_score(call, error, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        call()
