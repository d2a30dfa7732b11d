import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tunetrail.evaluation.error_analysis import (
    costliest_tokens,
    label_confusion,
    most_confused,
    row_changes,
    row_quality,
)
from tunetrail.evaluation.example_rows import ExampleRows, ScoredRun, example_table
from tunetrail.evaluation.language_scores import language_scores, preference_scores
from tunetrail.evaluation.ranking import labelled_document_scores, retrieval_scores
from tunetrail.evaluation.scores import Scores, similarity_scores

# The documents 0, 1, 2, ... lie on the axes, and each query finds the document of its own axis.
AXES = np.eye(6)


def rows_of(before: Scores, after: Scores, **details: Any) -> ExampleRows:
    row_ids = list(range(100, 100 + after.examples))
    run = ScoredRun(
        model_type="embedding",
        shape="pair",
        metric=after.metric,
        against="base",
        run_id="ab12",
        metrics=after.metrics,
        reference_metrics=before.metrics,
    )
    columns = {"text_hash": [f"hash {row}" for row in row_ids], **details}
    known = pd.DataFrame(columns, index=row_ids)
    records = [{"row_id": row_id} for row_id in row_ids]
    table = example_table(after.identified(records), before.identified(records), known)
    return ExampleRows(run=run, table=table)


def ranked(documents: list[int]) -> Scores:
    """Scores of six queries that find these documents; each has its own as its answer."""
    return retrieval_scores(AXES[documents], AXES + 0.01, [[row] for row in range(6)])


def test_a_planted_regression_is_listed_under_breaks() -> None:
    # The older model mixes 0 and 1 up; the newer one finds both, but no longer 4.
    changes = row_changes(rows_of(ranked([1, 0, 2, 3, 4, 0]), ranked([0, 1, 2, 3, 5, 0])))

    assert changes.rule == "a right document comes first"
    assert changes.fixes["row_id"].tolist() == [100, 101]
    assert changes.breaks["row_id"].tolist() == [104]
    assert changes.worst["row_id"].tolist() == [104, 105]
    counts = {"fixed": 2, "broken": 1, "right": 2, "wrong": 1}
    assert changes.to_dict() == {"rule": changes.rule, **counts}
    json.dumps(changes.to_dict())


def test_labels_are_right_if_they_are_predicted() -> None:
    labels = ["a", "b", "c", "a", "b", "c"]
    documents = np.repeat(np.eye(3), 10, axis=0)
    document_labels = [label for label in "abc" for _ in range(10)]

    def predicted(found_labels: list[int]) -> Scores:
        return labelled_document_scores(np.eye(3)[found_labels], labels, documents, document_labels)

    rows = rows_of(predicted([0, 1, 1, 0, 0, 2]), predicted([0, 1, 2, 1, 0, 2]), label=labels)
    changes, confusion = row_changes(rows), label_confusion(rows)

    assert changes.rule == "its predicted label is its label"
    assert changes.fixes["row_id"].tolist() == [102]
    assert changes.breaks["row_id"].tolist() == [103]
    assert confusion is not None
    assert confusion.loc["a"].tolist() == [1, 1, 0] and confusion.loc["b"].tolist() == [1, 1, 0]
    mistakes = [["a", "b", 1], ["b", "a", 1]]
    assert most_confused(confusion).to_numpy().tolist() == mistakes


def test_rows_without_labels_have_no_confusion() -> None:
    assert label_confusion(rows_of(ranked([0] * 6), ranked([1] * 6))) is None


def test_preferences_that_tie_are_not_right() -> None:
    def preferring(margins: list[float]) -> Scores:
        sizes = np.ones(len(margins))
        chosen = language_scores(2.0 * sizes, sizes, sizes)
        return preference_scores(chosen, language_scores(2.0 + np.array(margins), sizes, sizes))

    changes = row_changes(rows_of(preferring([1.0, 0.0, -1.0]), preferring([0.0, 1.0, -1.0])))

    assert changes.rule == "the preferred answer is likelier"
    assert (changes.fixes["row_id"].tolist(), changes.breaks["row_id"].tolist()) == ([101], [100])


def test_language_models_are_measured_by_the_median_row_before() -> None:
    sizes = np.ones(5)
    before = language_scores(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), sizes, sizes)
    after = language_scores(np.array([1.0, 4.0, 3.0, 2.0, 9.0]), sizes, sizes)

    changes = row_changes(rows_of(before, after))

    assert "median row" in changes.rule
    assert (changes.fixes["row_id"].tolist(), changes.breaks["row_id"].tolist()) == ([103], [101])
    assert changes.worst["row_id"].tolist() == [104, 101]


def test_answers_written_to_some_rows_do_not_decide_about_all() -> None:
    sizes = np.ones(3)
    before, after = (language_scores(np.array([1.0, 2.0, 3.0]), sizes, sizes) for _ in range(2))
    for scores in (before, after):
        scores.per_example["exact_match"] = np.array([1.0, 0.0, np.nan])
    assert "median row" in row_changes(rows_of(before, after)).rule

    before.per_example["exact_match"] = np.array([0.0, 1.0, 0.0])
    after.per_example["exact_match"] = np.array([1.0, 0.0, 0.0])
    changes = row_changes(rows_of(before, after))
    assert changes.rule == "the text written is the wanted one"
    assert (changes.fixed, changes.broken, changes.wrong) == (1, 1, 1)


def test_quality_of_a_pair_is_how_near_its_ranks_are() -> None:
    vectors = np.array([[1.0, 0.0]] * 4)
    angles = np.array([0.1, 0.5, 0.9, 1.3])
    texts = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    scores = similarity_scores(vectors, texts, [4.0, 3.0, 1.0, 2.0])

    quality = row_quality(rows_of(scores, scores).table, "spearman")

    assert quality.tolist() == [0.0, 0.0, -0.25, -0.25]


@pytest.mark.parametrize("row_count", [1, 6])
def test_models_that_tie_fix_and_break_nothing(row_count: int) -> None:
    sizes = np.ones(row_count)
    scores = language_scores(sizes, sizes, sizes)
    changes = row_changes(rows_of(scores, scores))
    assert (changes.fixed, changes.broken) == (0, 0)
    assert changes.right == row_count and changes.worst.empty


def tokens(*bits: float, texts: str = "abcdef") -> pd.DataFrame:
    letters = list(texts[: len(bits)])
    return pd.DataFrame({"text_before": "x", "token": letters, "text_after": "", "bits": bits})


def test_costliest_tokens_of_either_model_have_the_bits_of_both() -> None:
    before, after = tokens(1.0, 9.0, 2.0, 3.0), tokens(8.0, 0.5, 2.5, 3.0)
    table = costliest_tokens(before, after, limit=1)
    assert table["token"].tolist() == ["b", "a"]
    assert table[["bits_before", "bits_after"]].to_numpy().tolist() == [[9.0, 0.5], [1.0, 8.0]]


def test_costliest_tokens_of_models_that_split_differently_have_a_line_each() -> None:
    table = costliest_tokens(tokens(1.0, 9.0), tokens(4.0, 5.0, 6.0, texts="uvw"), limit=2)
    assert table["token"].tolist() == ["b", "w", "v", "a"]
    assert table["bits_before"].notna().tolist() == [True, False, False, True]
    assert table["bits_after"].notna().tolist() == [False, True, True, False]
