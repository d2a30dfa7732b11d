from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from tunetrail.errors import SampleError
from tunetrail.evaluation.comparison import compare
from tunetrail.evaluation.ranking import retrieval_scores
from tunetrail.evaluation.scoring import distinguishing_metrics, score_embedding
from tunetrail.fingerprints import value_fingerprint

WORDS = ("red", "green", "blue", "black", "white", "pink")


def encode(texts: Sequence[str]) -> np.ndarray:
    """One dimension per word, whatever its case: texts that share words are near."""
    return np.array(
        [[float(text.lower().count(word)) + 1e-3 for word in WORDS] for text in texts],
        dtype=np.float32,
    )


def test_score_embedding_finds_each_positive_of_a_pair() -> None:
    scores = score_embedding(
        "pair", [{"anchor": word, "positive": word.upper()} for word in WORDS], encode
    )
    assert (scores.metric, scores.value, scores.examples) == ("ndcg_at_10", pytest.approx(1.0), 6)


def test_score_embedding_ranks_negatives_among_the_documents() -> None:
    records = [
        {"anchor": "red", "positive": "red blue", "negative": "RED"},
        {"anchor": "green", "positive": "GREEN"},
    ]
    scores = score_embedding("pair", records, encode)
    assert scores.metrics["recall_at_1"] == pytest.approx(0.5)


def test_score_embedding_joins_the_positives_of_one_anchor() -> None:
    records = [
        {"anchor": "red", "positive": "RED"},
        {"anchor": "red", "positive": "red red"},
        {"anchor": "blue", "positive": "BLUE"},
    ]
    scores = score_embedding("pair", records, encode)
    assert scores.examples == 2 and scores.value == pytest.approx(1.0)


def test_score_embedding_correlates_similarity_with_scores() -> None:
    records = [
        {"sentence1": "red", "sentence2": "RED", "score": 1.0},
        {"sentence1": "red blue", "sentence2": "red green", "score": 0.5},
        {"sentence1": "red", "sentence2": "pink", "score": 0.0},
    ]
    assert score_embedding("score", records, encode).value == pytest.approx(1.0)


def test_score_embedding_retrieves_texts_of_the_same_label() -> None:
    records = [
        {"text": text, "label": text.split()[0].lower()}
        for text in ("red a", "RED b", "blue a", "BLUE b")
    ]
    assert score_embedding("label", records, encode).value == pytest.approx(1.0)


def test_score_embedding_compares_with_target_vectors() -> None:
    records = [{"text": word, "embedding": encode([word])[0].tolist()} for word in WORDS]
    scores = score_embedding("vector", records, encode)
    assert (scores.metric, scores.value) == ("cosine_to_target", pytest.approx(1.0))


def test_score_embedding_retrieves_the_second_half_of_a_text_by_its_first() -> None:
    records = [{"text": f"{word} {word.upper()}"} for word in WORDS] + [{"text": "word"}]
    scores = score_embedding("text", records[:6], encode)
    assert scores.examples == 6 and scores.value == pytest.approx(1.0)
    assert score_embedding("text", records, encode).examples == 7


@pytest.mark.parametrize(
    ("shape", "records", "row_ids"),
    [
        (
            "pair",
            [
                {"anchor": "red", "positive": "RED", "row_id": 4},
                {"anchor": "blue", "positive": "BLUE", "row_id": 2},
                {"anchor": "red", "positive": "red red", "row_id": 3},
            ],
            [4, 2],
        ),
        (
            "score",
            [
                {"sentence1": "red", "sentence2": "RED", "score": 1.0, "row_id": 9},
                {"sentence1": "red", "sentence2": "pink", "score": 0.0, "row_id": 1},
            ],
            [9, 1],
        ),
        (
            "label",
            [
                {"text": "red", "label": "x", "row_id": 5},
                {"text": "blue", "label": "once", "row_id": 6},
                {"text": "RED", "label": "x", "row_id": 7},
            ],
            [5, 7],
        ),
        (
            "vector",
            [{"text": "red", "embedding": [1.0] * len(WORDS), "row_id": 3}],
            [3],
        ),
        ("text", [{"text": "red RED", "row_id": 8}, {"text": "blue", "row_id": 2}], [8, 2]),
    ],
)
def test_score_embedding_names_the_row_of_each_example(
    shape: str, records: list[dict[str, Any]], row_ids: list[int]
) -> None:
    scores = score_embedding(shape, records, encode)

    assert scores.row_ids == row_ids
    assert scores.table()["row_id"].tolist() == row_ids


def test_score_embedding_names_the_cluster_of_each_example() -> None:
    def encode(texts: Sequence[str]) -> Any:
        return np.eye(8)[[len(text) % 8 for text in texts]]

    pairs = [
        {"anchor": a, "positive": a + "!", "cluster": c}
        for a, c in [("x", "1"), ("yy", "2"), ("x", "1")]
    ]
    assert score_embedding("pair", pairs, encode).clusters == ["1", "2"]
    labelled = [
        {"text": "a" * n, "label": label, "cluster": str(n)} for n, label in enumerate("ppqp")
    ]
    assert score_embedding("label", labelled, encode).clusters == ["0", "1", "3"]
    assert score_embedding("pair", [{"anchor": "x", "positive": "y"}], encode).clusters is None


def test_score_embedding_reads_the_documents_of_pairs_in_their_own_way() -> None:
    read: dict[str, list[str]] = {"query": [], "document": []}

    def reader(role: str) -> Callable[[Sequence[str]], np.ndarray]:
        def encode_as(texts: Sequence[str]) -> np.ndarray:
            read[role] += texts
            return encode(texts)

        return encode_as

    pairs = [
        {"anchor": word, "positive": word.upper(), "negative": f"{word} not"} for word in WORDS
    ]
    score_embedding("pair", pairs, reader("query"), reader("document"))
    assert read["query"] == list(WORDS)
    assert read["document"] == [word.upper() for word in WORDS] + [f"{word} not" for word in WORDS]
    read["document"].clear()
    for shape, record in (
        ("text", {"text": "red blue"}),
        ("score", {"sentence1": "a", "sentence2": "b", "score": 0.5}),
    ):
        score_embedding(shape, [record] * 3, reader("query"), reader("document"))
    assert read["document"] == []


def pair(anchor: str, positive: str, **further: str) -> dict[str, str]:
    return {"anchor": anchor, "positive": positive, **further}


def labelled(text: str, label: str) -> dict[str, str]:
    return {"text": text, "label": label}


def test_documents_of_the_corpus_are_ranked_before_the_answer_if_they_are_nearer() -> None:
    records = [pair("red", "red blue"), pair("green", "GREEN")]

    alone = score_embedding("pair", records, encode)
    among = score_embedding("pair", records, encode, corpus=[pair("pink", "RED")])

    assert alone.metrics["recall_at_1"] == 1.0 and alone.documents == 2
    assert among.metrics["recall_at_1"] == 0.5 and among.documents == 3
    # The corpus adds documents, no queries.
    assert among.examples == 2


def test_negatives_of_the_corpus_are_documents_too() -> None:
    corpus = [pair("pink", "PINK", negative="RED")]
    scores = score_embedding("pair", [pair("red", "red blue")], encode, corpus=corpus)
    assert scores.metrics["recall_at_1"] == 0.0 and scores.documents == 3


def test_an_answer_in_the_corpus_is_right_as_well() -> None:
    records = [pair("red", "red blue")]

    scores = score_embedding("pair", records, encode, corpus=[pair("red", "RED")])

    assert scores.value == pytest.approx(1.0)
    assert scores.metrics["recall_at_1"] == pytest.approx(0.5)


def test_a_document_of_record_and_corpus_is_ranked_once() -> None:
    scores = score_embedding("pair", [pair("red", "RED")], encode, corpus=[pair("pink", "RED")])
    assert scores.documents == 1 and scores.value == pytest.approx(1.0)


def test_labels_are_scored_against_the_texts_of_the_corpus() -> None:
    corpus = [labelled("RED", "warm"), labelled("PINK", "warm"), labelled("BLUE", "cold")]
    records = [labelled("red", "warm"), labelled("blue", "cold"), labelled("pink", "cold")]

    scores = score_embedding("label", records, encode, corpus=corpus)

    # The scored texts themselves are no documents.
    assert scores.documents == 3
    assert scores.per_example["recall_at_1"].tolist() == [0.5, 1.0, 0.0]
    # All three documents vote, and two of them are warm.
    assert scores.per_example["knn_accuracy"].tolist() == [1.0, 0.0, 0.0]


def test_a_row_whose_label_the_corpus_lacks_is_no_query() -> None:
    records = [
        {**labelled("red", "warm"), "row_id": 4},
        {**labelled("black", "none"), "row_id": 5},
    ]

    scores = score_embedding("label", records, encode, corpus=[labelled("RED", "warm")])

    assert scores.row_ids == [4]
    with pytest.raises(SampleError, match=r"labels of held-out rows must occur .* got none of 2"):
        score_embedding("label", records, encode, corpus=[labelled("GREEN", "other")])


def test_second_halves_of_the_corpus_are_documents_of_plain_texts() -> None:
    records = [{"text": "red red blue blue"}, {"text": "green GREEN"}]
    corpus = [{"text": "black RED"}, {"text": "white GREEN"}]

    alone = score_embedding("text", records, encode)
    among = score_embedding("text", records, encode, corpus=corpus)

    assert alone.documents == 2
    # The half that both texts share is ranked once.
    assert among.documents == 3
    assert among.per_example["recall_at_1"].tolist() == [0.0, 1.0]


def test_scores_among_other_documents_are_not_compared() -> None:
    records = [pair(word, word.upper()) for word in WORDS]
    alone = score_embedding("pair", records, encode)
    among = score_embedding("pair", records, encode, corpus=[pair("a", "grey")])

    with pytest.raises(ValueError, match=r"corpus must be the same .* got 6 and 7 documents"):
        compare(alone, among, bootstrap_samples=100, confidence=0.95, seed=0)


@pytest.mark.parametrize("labels", [2, 5, 20])
def test_scores_of_labels_equal_those_of_a_retrieval_with_the_same_documents(labels: int) -> None:
    generator = np.random.default_rng(labels)
    vectors = generator.normal(size=(150, 8))
    texts = [str(row) for row in range(150)]
    records = [labelled(text, f"label {int(text) % labels}") for text in texts]

    def encode_rows(rows: Sequence[str]) -> np.ndarray:
        return vectors[list(map(int, rows))]

    scores = score_embedding("label", records[:50], encode_rows, corpus=records[50:])

    relevant = [
        [document - 50 for document in range(50, 150) if document % labels == query % labels]
        for query in range(50)
    ]
    expected = retrieval_scores(vectors[:50], vectors[50:], relevant)
    for name in (*expected.metrics, "best_rank"):
        assert scores.per_example[name] == pytest.approx(expected.per_example[name])


def test_score_embedding_names_the_wrong_document_that_stands_first() -> None:
    records = [
        {"row_id": 7, "anchor": "red", "positive": "red blue", "negative": "RED"},
        {"row_id": 8, "anchor": "green", "positive": "GREEN"},
    ]
    corpus = [{"row_id": 9, "anchor": "x", "positive": "green blue"}]

    values = score_embedding("pair", records, encode, corpus=corpus).per_example

    assert values["best_rank"].tolist() == [2.0, 1.0]
    assert values["top_wrong_row"].tolist() == [7, 9]
    expected = [value_fingerprint([text]) for text in ("RED", "green blue")]
    assert values["top_wrong_hash"].tolist() == expected


def test_score_embedding_names_no_wrong_document_if_all_are_right() -> None:
    records = [{"row_id": 7, "anchor": "red", "positive": "RED"}]
    values = score_embedding("pair", records, encode).per_example
    assert (values["top_wrong_row"].tolist(), values["top_wrong_hash"].tolist()) == ([None], [None])


def test_score_embedding_predicts_the_label_of_the_nearest_texts() -> None:
    corpus = [
        {"row_id": 3, "text": "red", "label": "a"},
        {"row_id": 4, "text": "blue", "label": "b"},
    ]
    records = [
        {"row_id": 1, "text": "red red", "label": "b"},
        {"row_id": 2, "text": "blue", "label": "b"},
    ]

    values = score_embedding("label", records, encode, corpus=corpus).per_example

    assert values["top_wrong_row"].tolist() == [3, 3]
    assert values["predicted_label"].tolist() == ["a", "a"]


def test_equal_anchors_are_one_example_and_all_of_their_rows_are_scored() -> None:
    records = [
        {"anchor": "red", "positive": "RED"},
        {"anchor": "red", "positive": "red red"},
        {"anchor": "blue", "positive": "BLUE"},
    ]
    scores = score_embedding("pair", records, encode).of_side(5)
    assert scores.examples == 2
    assert scores.counts == {"scored_rows": 3, "side_rows": 5, "documents": scores.documents}
    assert compare(
        scores, scores, bootstrap_samples=100, confidence=0.95, seed=0
    ).rows_in_words == ("3 of 5 test rows (2 queries)")


def test_rows_whose_label_nobody_learnt_count_as_not_scored() -> None:
    corpus = [{"text": "red", "label": "a"}, {"text": "blue", "label": "a"}]
    records = [
        *[{"text": "red", "label": "a"}] * 6,
        *[{"text": "green", "label": f"unknown {row}"} for row in range(70)],
    ]
    scores = score_embedding("label", records, encode, corpus=corpus).of_side(len(records))
    assert (
        compare(scores, scores, bootstrap_samples=100, confidence=0.95, seed=0).rows_in_words
        == "6 of 76 test rows"
    )


@pytest.mark.parametrize(
    ("shape", "records", "corpus", "primary"),
    [
        ("pair", [{"anchor": "a", "positive": "b"}], [], None),
        ("pair", [{"anchor": "a", "positive": "c"}, {"anchor": "b", "positive": "c"}], [], None),
        (
            "pair",
            [{"anchor": "a", "positive": "c"}, {"anchor": "b", "positive": "c"}],
            [{"anchor": "d", "positive": "e"}],
            "ndcg_at_10",
        ),
        ("label", [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}], [], None),
        (
            "label",
            [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}],
            [{"text": "c", "label": "x"}, {"text": "d", "label": "y"}],
            "ndcg_at_10",
        ),
        (
            "vector",
            [{"text": name, "embedding": [1.0, 0.0]} for name in "ab"],
            [],
            "cosine_to_target",
        ),
    ],
)
def test_metrics_that_no_model_could_change_tell_nothing(
    shape: str, records: list[Any], corpus: list[Any], primary: str | None
) -> None:
    metrics = distinguishing_metrics(shape, records, corpus)
    assert metrics[:1] == ([] if primary is None else [primary])


def test_health_of_many_examples_is_that_of_a_sample() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(12_000, 8))

    def encode_rows(texts: Sequence[str]) -> np.ndarray:
        return vectors[list(map(int, texts))]

    records = [{"text": str(row), "embedding": [1.0] * 8} for row in range(len(vectors))]
    scores = score_embedding("vector", records, encode_rows)

    assert np.isfinite(scores.per_example["gaussian_potential"]).sum() == 10_000
    few = score_embedding("vector", records[:9_000], encode_rows)
    assert scores.metrics["uniformity"] == pytest.approx(few.metrics["uniformity"], abs=0.02)
    assert scores.metrics["effective_rank"] == pytest.approx(
        few.metrics["effective_rank"], rel=0.01
    )
