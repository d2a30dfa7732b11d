"""The metric that decides at the gate: which rows give it, and what it decides."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from tests.packages import Install

from tunetrail.config import EmbeddingConfig, EvaluationConfig, GateConfig, Settings
from tunetrail.data.rows import records_of, rows_frame
from tunetrail.errors import ConfigError, SampleError
from tunetrail.evaluation.comparison import compare
from tunetrail.evaluation.scores import Scores, scores_from
from tunetrail.pipeline.families import EMBEDDING, LLM
from tunetrail.samples import SampleKind, parse_sample

PACKAGE = """
from tunetrail.evaluation.metric import ExampleMetric

def distance(records, vectors, options):
    return 1.0 - (vectors("anchor") * vectors("positive")).sum(axis=1)

DISTANCE = ExampleMetric(
    name="distance", label="distance", shapes=("pair",), of_vectors=distance, higher_is_better=False
)
LENGTH = ExampleMetric(
    name="length", label="length", of_answer=lambda answer, expected, options: len(answer)
)
"""
METRICS = {"distance": "DISTANCE", "length": "LENGTH"}

PAIRS = [
    {"anchor": f"question {row}", "positive": f"answer {row}", "negative": f"joke {row}"}
    for row in range(8)
]
SCORED = [
    {"sentence1": f"first {row}", "sentence2": f"second {row}", "score": float(row % 2)}
    for row in range(8)
]
COMPLETIONS = [{"input": f"question {row}", "output": f"answer {row}"} for row in range(8)]


def records(rows: list[dict[str, Any]], kind: SampleKind) -> list[dict[str, Any]]:
    return records_of(rows_frame(enumerate(parse_sample(row, kind) for row in rows)))


def settings_with(metric: str, **evaluation: Any) -> Settings:
    return Settings(gate=GateConfig(metric=metric), evaluation=EvaluationConfig(**evaluation))


def embedding_names(rows: list[dict[str, Any]], settings: Settings) -> list[str]:
    embedding_records = records(rows, SampleKind.EMBEDDING)
    shape = str(embedding_records[0]["shape"])
    return list(EMBEDDING.metric_names(settings, shape, embedding_records))


def test_the_metric_that_is_asked_for_comes_first(install: Install) -> None:
    install(PACKAGE, metrics=METRICS)
    usual = embedding_names(PAIRS, settings_with("auto"))
    completions = records(COMPLETIONS, SampleKind.LLM)

    by_recall = embedding_names(PAIRS, settings_with("recall_at_1"))
    by_distance = embedding_names(PAIRS, settings_with("distance", metrics=["distance"]))
    by_accuracy = LLM.metric_names(settings_with("token_accuracy"), "completion", completions)

    assert usual[0] == "ndcg_at_10"
    assert by_recall == ["recall_at_1", *(name for name in usual if name != "recall_at_1")]
    assert by_distance == ["distance", *usual]
    assert by_accuracy[0] == "token_accuracy"
    # The shape's own metric may be named, whatever it is.
    assert embedding_names(SCORED, settings_with("spearman"))[0] == "spearman"


@pytest.mark.parametrize(
    ("rows", "metric", "message"),
    [
        (PAIRS, "recal_at_1", r"pair row \(auto, ndcg_at_10, .*got 'recal_at_1'\. Did you mean"),
        (PAIRS, "triplet_accuracy", r"gate\.metric must be a metric that has a value for each"),
        (PAIRS, "alignment", r"got 'alignment'"),
        (PAIRS, "bits_per_byte", r"got 'bits_per_byte'"),
        (SCORED, "pearson", r"each score row \(auto, spearman\), got 'pearson'"),
        (SCORED, "best_accuracy", r"got 'best_accuracy'"),
        (PAIRS, "distance", r"Add it to evaluation\.metrics: evaluation\.metrics=\[distance\]"),
        (PAIRS, "exact_match", r"computed of written answers, and not every row has one"),
    ],
)
def test_a_metric_that_cannot_decide_is_refused(
    install: Install, rows: list[dict[str, Any]], metric: str, message: str
) -> None:
    install(PACKAGE, metrics=METRICS)

    with pytest.raises(ConfigError, match=message):
        embedding_names(rows, settings_with(metric))


def test_a_packages_metric_of_answers_cannot_decide(install: Install) -> None:
    install(PACKAGE, metrics=METRICS)
    settings, completions = (
        settings_with("length", metrics=["length"]),
        records(COMPLETIONS, SampleKind.LLM),
    )

    with pytest.raises(ConfigError, match=r"'length'\. It is computed of written answers"):
        LLM.metric_names(settings, "completion", completions)


@pytest.mark.parametrize("metric", ["", "recall@1", 3])
def test_what_is_no_name_is_refused(metric: Any) -> None:
    with pytest.raises(ConfigError, match=r"gate\.metric must be auto or the name of a metric"):
        GateConfig(metric=metric)


def test_validation_and_early_stopping_go_by_it_if_the_rows_give_it() -> None:
    pairs = records(PAIRS, SampleKind.EMBEDDING)

    def monitored(metric: str, **training: Any) -> str:
        settings = settings_with(metric)
        embedding = dataclasses.replace(EmbeddingConfig().training, **training)
        settings = dataclasses.replace(settings, embedding=EmbeddingConfig(training=embedding))
        return EMBEDDING.monitor(settings, "pair", pairs, []).key

    assert monitored("auto") == "val/ndcg_at_10"
    assert monitored("recall_at_1") == "val/recall_at_1"
    assert monitored("recall_at_1", monitor="val/mrr_at_10") == "val/mrr_at_10"
    # A linear probe takes too long for a validation.
    assert monitored("probe_accuracy") == "val/ndcg_at_10"


def scores(distances: list[float]) -> Scores:
    values = {"ndcg_at_10": np.ones(len(distances)), "distance": np.array(distances)}
    return scores_from(values, "ndcg_at_10", "distance")


def test_scores_are_compared_by_it_in_its_direction(install: Install) -> None:
    install(PACKAGE, metrics=METRICS)
    before, after = scores([0.4] * 30), scores([0.1] * 30)

    comparison = compare(
        before.judged_by("distance"),
        after.judged_by("distance"),
        bootstrap_samples=100,
        confidence=0.95,
        seed=0,
    )

    assert (comparison.metric, comparison.higher_is_better) == ("distance", False)
    assert comparison.improvement == pytest.approx(0.3)
    assert comparison.lower is not None and comparison.lower > 0.0
    assert list(after.judged_by("distance").metrics) == ["distance", "ndcg_at_10"]
    assert after.judged_by("ndcg_at_10") is after


def test_a_row_without_a_value_cannot_be_judged(install: Install) -> None:
    install(PACKAGE, metrics=METRICS)

    with pytest.raises(SampleError, match=r"'distance' without one for 1 of 3"):
        scores([0.4, np.nan, 0.1]).judged_by("distance")
    with pytest.raises(SampleError, match=r"\(ndcg_at_10, distance\), got 'mrr_at_10'"):
        scores([0.4, 0.1]).judged_by("mrr_at_10")
