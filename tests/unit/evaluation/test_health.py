import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from sentence_transformers.sentence_transformer.evaluation import TripletEvaluator

from tunetrail.evaluation.health import (
    health_values,
    label_alignments,
    pair_alignments,
    triplet_values,
)
from tunetrail.evaluation.metric import Array, Values
from tunetrail.evaluation.metrics import metric_named
from tunetrail.evaluation.scores import scores_from, unit_vectors


def unit(seed: int, rows: int, dimensions: int = 16) -> Array:
    vectors = np.random.default_rng(seed).normal(size=(rows, dimensions))
    return unit_vectors(vectors, "vectors")


def metric_of(name: str, values: Values) -> float:
    return scores_from(dict(values), name).metrics[name]


@pytest.mark.parametrize("rows", [5, 300])
def test_uniformity_is_the_formula_of_wang_and_isola(rows: int) -> None:
    vectors = unit(0, rows)
    # Their listing: torch.pdist(x, p=2).pow(2).mul(-t).exp().mean().log() with t = 2.
    expected = torch.pdist(torch.tensor(vectors), p=2).pow(2).mul(-2).exp().mean().log().item()

    value = metric_of("uniformity", health_values(vectors))

    assert value == pytest.approx(expected, rel=1e-5)
    assert value == pytest.approx(math.log(np.exp(-2 * pdist(vectors) ** 2).mean()), rel=1e-5)


def test_uniformity_of_many_vectors_is_near_that_of_all_pairs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vectors = unit(0, 1000)
    whole = metric_of("uniformity", health_values(vectors))
    monkeypatch.setattr("tunetrail.evaluation.health._CHUNK", 200)
    assert metric_of("uniformity", health_values(vectors)) == pytest.approx(whole, abs=0.02)


@pytest.mark.parametrize("shape", [(200, 16), (10, 16)], ids=["tall", "wide"])
def test_effective_rank_is_the_formula_of_roy_and_vetterli(shape: tuple[int, int]) -> None:
    vectors = unit(0, *shape) * np.linspace(0.1, 2.0, 16).astype(np.float32)
    shares = np.linalg.svd(vectors.astype(np.float64), compute_uv=False)
    shares /= shares.sum()
    expected = math.exp(-(shares * np.log(shares)).sum())

    assert metric_of("effective_rank", health_values(vectors)) == pytest.approx(expected)


def test_resamples_of_effective_rank_and_uniformity_follow_the_real_ones() -> None:
    vectors = unit(0, 400, 6) * np.linspace(0.3, 1.0, 6).astype(np.float32)
    values = health_values(unit_vectors(vectors, "vectors"))
    indices = np.random.default_rng(1).integers(400, size=(200, 400))
    counts = np.stack([np.bincount(row, minlength=400) for row in indices]).astype(float)

    for name in ("effective_rank", "uniformity"):
        resampled = metric_named(name).resampler(values, np.arange(400))(counts)
        # Another example in place of a drawn twin: twins are at distance 0 from one another.
        real = []
        for row in indices:
            chosen = vectors[np.unique(row)] if name == "uniformity" else vectors[row]
            real.append(metric_of(name, health_values(unit_vectors(chosen, "vectors"))))
        assert np.corrcoef(resampled, real)[0, 1] > (0.6 if name == "uniformity" else 0.98)


def test_health_of_collapsed_vectors() -> None:
    same = np.tile(unit(0, 1), (20, 1))
    values = health_values(same)
    assert metric_of("uniformity", values) == pytest.approx(0.0, abs=1e-5)
    assert metric_of("effective_rank", values) == pytest.approx(1.0, abs=1e-4)

    zero = health_values(np.zeros((20, 4), dtype=np.float32))
    assert set(zero) == {"gaussian_potential"} and metric_of("uniformity", zero) == 0.0
    assert health_values(unit(0, 1)) == {}


def test_alignment_is_the_mean_squared_distance_of_positive_pairs() -> None:
    queries, documents = unit(0, 20), unit(1, 30)
    one_each = [[position] for position in range(20)]
    # Their listing: (x - y).norm(p=2, dim=1).pow(2).mean().
    difference = torch.tensor(queries) - torch.tensor(documents[:20])
    expected = difference.norm(p=2, dim=1).pow(2).mean().item()

    alignments = pair_alignments(queries, documents, one_each)
    assert alignments.mean() == pytest.approx(expected)

    several = pair_alignments(queries[:1], documents, [[0, 7, 9]])
    distances = ((queries[0] - documents[[0, 7, 9]]) ** 2).sum(axis=1)
    assert several == pytest.approx([distances.mean()])


def test_alignment_of_labels_is_that_of_all_pairs_of_a_label() -> None:
    queries, documents = unit(0, 12), unit(1, 30)
    query_labels, document_labels = [str(n % 3) for n in range(12)], [str(n % 3) for n in range(30)]
    relevant = [list(range(n % 3, 30, 3)) for n in range(12)]

    alignments = label_alignments(queries, query_labels, documents, document_labels)

    assert alignments == pytest.approx(pair_alignments(queries, documents, relevant), rel=1e-5)


def test_triplet_accuracy_agrees_with_sentence_transformers_on_ties() -> None:
    queries, documents = unit(0, 8), unit(1, 12)
    documents[3] = documents[2]
    # A query with several triplets, one without any, and a tie of documents 2 and 3.
    triplets = [(0, 1, 5), (0, 2, 3), (1, 4, 6), (2, 7, 8), (4, 9, 10), (5, 11, 1), (6, 2, 0)]
    columns = list(map(list, zip(*triplets, strict=True)))

    values = triplet_values(queries, documents, *columns)

    query_of, positive_of, negative_of = columns
    evaluator = TripletEvaluator(["a"], ["b"], ["c"], main_similarity_function="cosine")
    texts = {"a": queries[query_of], "b": documents[positive_of], "c": documents[negative_of]}
    evaluator.anchors, evaluator.positives, evaluator.negatives = "a", "b", "c"
    evaluator.embed_inputs = lambda model, name, **_: torch.tensor(texts[name])  # type: ignore
    model = type("Model", (), {"similarity_fn_name": "cosine"})()
    evaluator.prefix_name_to_metrics = lambda metrics, name: metrics  # type: ignore
    evaluator.store_metrics_in_model_card_data = lambda *_: None  # type: ignore
    expected = evaluator(model)["cosine_accuracy"]
    assert metric_of("triplet_accuracy", values) == pytest.approx(expected)
    assert values["triplets"].tolist() == [2, 1, 1, 0, 1, 1, 1, 0]
    # Equal cosines count against the model, as `>` does in sentence-transformers.
    assert values["triplet_hits"][0] <= 1
