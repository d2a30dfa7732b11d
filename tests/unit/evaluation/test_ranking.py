import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from tunetrail.evaluation.metrics import Array
from tunetrail.evaluation.ranking import label_retrieval_scores, retrieval_scores


def vectors(seed: int, rows: int, dimensions: int = 16) -> Array:
    return np.random.default_rng(seed).normal(size=(rows, dimensions))


def cosine(first: Array, second: Array) -> Array:
    unit = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in (first, second)]
    return np.asarray(unit[0] @ unit[1].T)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 20), st.integers(12, 60), st.integers(1, 15))
def test_retrieval_scores_agree_with_scikit_learn(
    seed: int, queries: int, documents: int, most: int
) -> None:
    generator = np.random.default_rng(seed)
    a, b = vectors(seed, queries), vectors(seed + 1, documents)
    relevant = [
        generator.choice(documents, generator.integers(1, most + 1) % 12 + 1, False).tolist()
        for _ in range(queries)
    ]
    truth = np.zeros((queries, documents))
    for query, positions in enumerate(relevant):
        truth[query, positions] = 1.0
    similarities = cosine(a, b)

    scores = retrieval_scores(a, b, relevant)

    assert scores.value == pytest.approx(ndcg_score(truth, similarities, k=10), abs=1e-6)

    order = np.argsort(-similarities, axis=1)
    hits = np.take_along_axis(truth, order, axis=1)
    for k in (1, 5, 10):
        assert scores.metrics[f"recall_at_{k}"] == pytest.approx(
            (hits[:, :k].sum(1) / truth.sum(1)).mean()
        )

    first = hits.argmax(axis=1)
    assert scores.metrics["mrr_at_10"] == pytest.approx(
        np.where(first < 10, 1.0 / (first + 1), 0.0).mean()
    )


def test_retrieval_scores_of_perfect_vectors_are_one() -> None:
    same = vectors(0, 50)
    scores = retrieval_scores(same, same, [[query] for query in range(50)])
    assert all(value == pytest.approx(1.0) for value in scores.metrics.values())
    assert scores.metric == "ndcg_at_10" and scores.higher_is_better and scores.examples == 50
    json.dumps(scores.to_dict(), allow_nan=False)


@pytest.mark.parametrize("row", [np.zeros(384), np.full(384, 0.123)])
def test_retrieval_scores_of_a_constant_model_are_the_worst(row: Array) -> None:
    constant = np.tile(row, (501, 1))
    scores = retrieval_scores(constant, constant, [[query] for query in range(501)])
    assert set(scores.metrics.values()) == {0.0}
    assert set(label_retrieval_scores(constant, ["a", "b", "c"] * 167).metrics.values()) == {0.0}


def test_retrieval_scores_rank_ties_against_the_model() -> None:
    documents = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert retrieval_scores(documents[:1], documents, [[0]]).metrics["mrr_at_10"] == 0.5
    assert retrieval_scores(documents[:1], documents, [[0, 1]]).value == pytest.approx(1.0)


def test_retrieval_scores_in_blocks_equal_those_in_one_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a, b = vectors(0, 40), vectors(1, 60)
    relevant = [[query, (query * 7) % 60] for query in range(40)]
    whole = retrieval_scores(a, b, relevant)
    monkeypatch.setattr("tunetrail.evaluation.ranking._CELLS_AT_ONCE", 190)
    assert retrieval_scores(a, b, relevant).metrics == pytest.approx(whole.metrics)


def test_label_retrieval_scores_agree_with_retrieval_over_the_other_rows() -> None:
    rows = vectors(0, 60)
    labels = [str(index % 4) for index in range(59)] + ["alone"]

    scores = label_retrieval_scores(rows, labels)

    assert scores.examples == 59

    singles = []
    for query in range(59):
        passages = [passage for passage in range(60) if passage != query]
        relevant_ranks = [
            rank for rank, passage in enumerate(passages) if labels[passage] == labels[query]
        ]
        singles.append(retrieval_scores(rows[[query]], rows[passages], [relevant_ranks]).metrics)

    for name, value in scores.metrics.items():
        assert value == pytest.approx(np.mean([single[name] for single in singles]))


def test_label_retrieval_scores_of_separated_labels_are_one() -> None:
    labels = ["a", "b"] * 5
    assert label_retrieval_scores(
        np.array([[1.0, 0.0], [0.0, 1.0]] * 5), labels
    ).value == pytest.approx(1.0)


def test_retrieval_scores_of_5000_by_5000_take_seconds() -> None:
    a = vectors(0, 5000, 64)
    retrieval_scores(a, a + 0.1, [[query] for query in range(5000)])
