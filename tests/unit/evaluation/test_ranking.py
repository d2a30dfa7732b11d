import json

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ndcg_score

from tunetrail.evaluation.metric import Array
from tunetrail.evaluation.ranking import (
    label_retrieval_scores,
    labelled_document_scores,
    retrieval_scores,
)


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


def test_retrieval_scores_agree_with_trec_eval_and_sentence_transformers_on_ties_and_duplicates() -> (
    None
):
    # Sums of two axes, so that many cosines are exactly equal, and equal documents.
    generator = np.random.default_rng(3)
    queries, documents = (
        generator.integers(0, 3, (40, 3)) + 0.0,
        generator.integers(0, 3, (60, 3)) + 0.0,
    )
    queries[:, 0], documents[:, 0] = 1.0, 1.0
    documents[50:] = documents[:10]
    relevant = [
        generator.choice(60, size, replace=False).tolist() for size in generator.integers(1, 15, 40)
    ]
    cutoffs = (1, 3, 5, 10, 20)

    scores = retrieval_scores(queries, documents, relevant, cutoffs)

    # A tie counts against the model. trec_eval orders ties by name, the last name first, and
    # sentence-transformers the first name first: the relevant documents get the names that lose.
    similarities = np.round(cosine(queries, documents), 6)
    trec = trec_eval(similarities, relevant, cutoffs)
    peers = sentence_transformers_metrics(similarities, relevant, cutoffs)
    for cutoff in cutoffs:
        for ours, theirs in (
            ("ndcg", "ndcg_cut"),
            ("map", "map_cut"),
            ("recall", "recall"),
            ("precision", "P"),
        ):
            values = [trec[str(query)][f"{theirs}_{cutoff}"] for query in range(40)]
            assert scores.per_example[f"{ours}_at_{cutoff}"] == pytest.approx(values, abs=1e-9)
        for name in ("ndcg", "mrr", "recall", "precision"):
            assert scores.metrics[f"{name}_at_{cutoff}"] == pytest.approx(
                peers[f"{name}@k"][cutoff]
            )

    # sentence-transformers divides by min(k, relevant documents), trec_eval by all of them.
    assert scores.metrics["map_at_20"] == pytest.approx(peers["map@k"][20])
    assert len({round(value, 6) for value in similarities[0]}) < 40


def trec_eval(
    similarities: Array, relevant: list[list[int]], cutoffs: tuple[int, ...]
) -> dict[str, dict[str, float]]:
    run, truth = {}, {}
    for query, positions in enumerate(relevant):
        names = [f"{'a' if document in positions else 'z'}{document}" for document in range(60)]
        run[str(query)] = dict(zip(names, similarities[query].tolist(), strict=True))
        truth[str(query)] = {name: 1 for name in names if name.startswith("a")}
    at = ",".join(map(str, cutoffs))
    measures = {f"{name}.{at}" for name in ("ndcg_cut", "map_cut", "recall", "P")}
    results: dict[str, dict[str, float]] = pytrec_eval.RelevanceEvaluator(truth, measures).evaluate(
        run
    )
    return results


def sentence_transformers_metrics(
    similarities: Array, relevant: list[list[int]], cutoffs: tuple[int, ...]
) -> dict[str, dict[int, float]]:
    names = [
        [f"{'z' if row in positions else 'a'}{row}" for row in range(60)] for positions in relevant
    ]
    evaluator = InformationRetrievalEvaluator(
        queries={str(query): "" for query in range(len(relevant))},
        corpus={"a0": ""},
        relevant_docs={
            str(query): {f"z{position}" for position in positions}
            for query, positions in enumerate(relevant)
        },
        mrr_at_k=list(cutoffs),
        ndcg_at_k=list(cutoffs),
        accuracy_at_k=list(cutoffs),
        precision_recall_at_k=list(cutoffs),
        map_at_k=list(cutoffs),
    )
    hits = [
        [
            {"corpus_id": name, "score": similarity}
            for name, similarity in zip(names[query], similarities[query].tolist(), strict=True)
        ]
        for query in range(len(relevant))
    ]
    metrics: dict[str, dict[int, float]] = evaluator.compute_metrics(hits)
    return metrics


def test_mrr_without_a_cutoff_is_trec_evals_reciprocal_rank() -> None:
    similarities = np.round(cosine(vectors(0, 20), vectors(1, 30)), 6)
    relevant = [[query, query + 5] for query in range(20)]
    truth = {
        str(query): {f"d{d}": 1 for d in positions} for query, positions in enumerate(relevant)
    }
    run = {
        str(q): {f"d{d}": float(s) for d, s in enumerate(row)} for q, row in enumerate(similarities)
    }
    expected = pytrec_eval.RelevanceEvaluator(truth, {"recip_rank"}).evaluate(run)

    scores = retrieval_scores(vectors(0, 20), vectors(1, 30), relevant, [30])

    ranks = [expected[str(query)]["recip_rank"] for query in range(20)]
    assert scores.per_example["mrr_at_30"] == pytest.approx(ranks)
    # The primary metric is there, whatever the cutoffs.
    assert scores.metric == "ndcg_at_10"


def test_labelled_documents_are_probed_by_a_logistic_regression() -> None:
    generator = np.random.default_rng(0)
    centres = 2.0 * generator.normal(size=(4, 16))
    document_labels, query_labels = [str(n % 4) for n in range(80)], [str(n % 4) for n in range(40)]
    documents = centres[np.arange(80) % 4] + generator.normal(size=(80, 16)) * 2.0
    queries = centres[np.arange(40) % 4] + generator.normal(size=(40, 16)) * 2.0

    scores = labelled_document_scores(queries, query_labels, documents, document_labels)

    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (documents, queries)]
    probe = LogisticRegression(max_iter=1000).fit(unit[0], document_labels)
    is_right = probe.predict(unit[1]) == np.array(query_labels)
    assert scores.per_example["probe_accuracy"].tolist() == is_right.tolist()
    assert 0.5 < scores.metrics["probe_accuracy"] == pytest.approx(is_right.mean())


def test_documents_of_one_label_teach_no_probe() -> None:
    scores = labelled_document_scores(vectors(0, 3), ["a"] * 3, vectors(1, 5), ["a"] * 5)
    assert "probe_accuracy" not in scores.metrics and scores.metrics["knn_accuracy"] == 1.0


def test_retrieval_scores_of_perfect_vectors_are_one() -> None:
    same = vectors(0, 50)
    scores = retrieval_scores(same, same, [[query] for query in range(50)])
    precisions = {f"precision_at_{k}": 1.0 / k for k in (1, 5, 10)}
    perfect = dict.fromkeys(scores.metrics, 1.0) | precisions
    assert scores.metrics == pytest.approx(perfect)
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
