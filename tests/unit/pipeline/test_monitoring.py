"""What the validation of a training watches, by the jobs that the pipeline runs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from tests.packages import Install
from tests.unit.pipeline.jobs import rows_of

from tunetrail.config import (
    AdapterConfig,
    EmbeddingConfig,
    EvaluationConfig,
    LanguageModelConfig,
    PreparationConfig,
    Settings,
    TrainingConfig,
)
from tunetrail.config.training import AveragingConfig
from tunetrail.data.rows import records_of, rows_frame
from tunetrail.errors import ConfigError
from tunetrail.learning.automatic.auto_values import AutoValues
from tunetrail.pipeline.families import EMBEDDING, LLM, family_named
from tunetrail.pipeline.jobs import JobRows, TrainingJob, run_fit_job
from tunetrail.pipeline.monitoring import embedding_monitors
from tunetrail.samples import SampleKind, parse_sample

SUBJECTS = [f"{noun} number {count}" for noun in ("snow", "fire", "bread") for count in range(12)]
TEXTS = [
    f"{noun} {verb}" for noun in ("a cat", "snow", "we", "it") for verb in ("runs", "is", "ate")
]


def settings_of(embedding: str, language: str = "", **training: Any) -> Settings:
    config = TrainingConfig(
        **(
            {"batch_size": 8, "learning_rate": 1e-3, "num_epochs": 2, "warmup_steps": 0}
            | {"early_stopping_patience": 0}
            | training
        )
    )
    adapter = AdapterConfig(rank=2, alpha=4)
    return Settings(
        preparation=PreparationConfig(cache_gigabytes=0.0),
        embedding=EmbeddingConfig(model=embedding, training=config),
        llm=LanguageModelConfig(model=language, training=config, adapter=adapter),
    )


def job_of(
    folder: Path,
    settings: Settings,
    train: pd.DataFrame,
    validation: pd.DataFrame,
    model_type: str = "embedding",
) -> dict[str, Any]:
    """Train on rows, and return the measurements."""
    family = family_named(model_type)
    corpus = family.validation_corpus(settings, train, validation)
    JobRows(train=train, validation=validation, corpus=corpus).write(folder)
    TrainingJob(
        model_type=model_type,
        shape=str(train["shape"].iloc[0]),
        settings=settings,
        start=family.section(settings).model,
        auto_values=AutoValues(),
    ).write(folder)
    return run_fit_job(folder)


def score_rows(scores: Sequence[float]) -> pd.DataFrame:
    """Return the pairs of TEXTS with some of these scores, in their order."""
    pairs = [(first, second) for first in TEXTS for second in TEXTS if first < second]
    rows = [
        {"sentence1": first, "sentence2": second, "score": score}
        for (first, second), score in zip(pairs, scores, strict=False)
    ]
    samples = [parse_sample(row, SampleKind.EMBEDDING) for row in rows]
    return rows_frame(enumerate(samples))


def contradicting_rows(path: str, center: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return rows to learn from and validation rows whose scores have the opposite order.

    The base model orders the validation rows perfectly, and every step makes it worse.
    """
    learner = EMBEDDING.learner(settings_of(path), "score", None)
    rows = score_rows([0.0] * 64)
    model = learner.load(path)
    first, second = (
        EMBEDDING.row_vectors(learner, model, list(rows[name]))
        for name in ("sentence1", "sentence2")
    )
    order = np.argsort(np.argsort((first * second).sum(axis=1)))
    spread = 0.1 * (order / len(order) - 0.5)
    return score_rows(center - spread), score_rows(center + spread)


@pytest.mark.parametrize("averaging", ["none", "ema"])
@pytest.mark.parametrize("model_type", ["embedding", "llm"])
def test_the_metric_of_a_validation_is_that_of_the_evaluation(
    tiny_embedding_model: str,
    tiny_language_model: str,
    tmp_path: Path,
    model_type: str,
    averaging: str,
) -> None:
    settings = settings_of(
        tiny_embedding_model, tiny_language_model, averaging=AveragingConfig(kind=averaging)
    )
    train, validation = rows_of(model_type, SUBJECTS[:24]), rows_of(model_type, SUBJECTS[24:])

    result = job_of(tmp_path / "fit", settings, train, validation, model_type)

    family = family_named(model_type)
    learner = family.learner(settings, str(train["shape"].iloc[0]), None)
    model = learner.load(str(tmp_path / "fit" / "model"))
    corpus = records_of(family.validation_corpus(settings, train, validation))
    scores = family.score(learner, model, records_of(validation), corpus, settings.evaluation)
    assert result["monitor"] == f"val/{scores.metric}"
    assert result["best_value"] == pytest.approx(scores.value, abs=1e-5)
    curve = dict(result["history"][result["monitor"]])
    assert curve[result["best_step"]] == result["best_value"]
    best = max if scores.higher_is_better else min
    assert result["best_value"] == best(curve.values())
    assert len(corpus) == (len(validation) if model_type == "embedding" else 0)


def test_the_preferences_of_a_validation_are_those_of_the_evaluation(
    tiny_embedding_model: str, tiny_language_model: str, tmp_path: Path
) -> None:
    settings = settings_of(tiny_embedding_model, tiny_language_model, learning_rate=1e-2)
    rows = [
        {"prompt": f"what is {subject}?", "chosen": f"{subject}, yes", "rejected": f"no {subject}"}
        for subject in SUBJECTS
    ]
    frame = rows_frame(enumerate(parse_sample(row, SampleKind.LLM) for row in rows))
    validation = frame[24:].reset_index(drop=True)

    result = job_of(tmp_path / "fit", settings, frame[:24], validation, "llm")

    learner = LLM.learner(settings, "preference", None)
    model = learner.load(str(tmp_path / "fit" / "model"))
    scores = LLM.score(learner, model, records_of(validation), [], settings.evaluation)
    assert result["monitor"] == f"val/{scores.metric}" == "val/preference_accuracy"
    assert result["best_value"] == pytest.approx(scores.value, abs=1e-6)
    assert "val/reward_accuracy" in result["history"]


@pytest.mark.parametrize(("monitor", "is_first_best"), [("auto", True), ("val/loss", False)])
def test_the_step_with_the_best_metric_is_kept_if_the_loss_disagrees(
    tiny_embedding_model: str, tmp_path: Path, monitor: str, is_first_best: bool
) -> None:
    # The cosines come nearer to all scores, while their order turns round.
    settings = settings_of(tiny_embedding_model, monitor=monitor, validations_per_epoch=4)
    settings.embedding.loss = "cosine_similarity"
    train, validation = contradicting_rows(tiny_embedding_model, center=-0.3)

    result = job_of(tmp_path / "fit", settings, train, validation)

    history = result["history"]
    losses = [value for _, value in history["val/loss"]]
    assert losses[-1] == min(losses) < 0.9 * losses[0]
    assert result["monitor"] == ("val/spearman" if is_first_best else "val/loss")
    if is_first_best:
        correlations = dict(history["val/spearman"])
        assert max(correlations.values()) > min(correlations.values()) + 0.01
        assert result["best_step"] == max(correlations, key=lambda step: correlations[step])
        assert result["best_step"] < result["steps"]
    else:
        assert result["best_step"] == result["steps"]

    learner = EMBEDDING.learner(settings, "score", None)
    model = learner.load(str(tmp_path / "fit" / "model"))
    scores = EMBEDDING.score(learner, model, records_of(validation), [], settings.evaluation)
    if is_first_best:
        assert scores.value == pytest.approx(result["best_value"], abs=1e-5)


def test_a_training_that_overfits_stops_early_with_the_default_recipe(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    settings = settings_of(tiny_embedding_model)
    # A tiny model of random weights needs a high rate, and the few rows of a test small batches.
    settings.embedding.training = TrainingConfig(learning_rate=1e-3, batch_size=16, warmup_steps=0)
    train, validation = contradicting_rows(tiny_embedding_model, center=0.5)

    result = job_of(tmp_path / "fit", settings, train, validation)

    # Six validations, of which the first is the best and the fourth the last.
    assert result["stopped_early"]
    assert (result["best_step"], result["steps"]) == (2, 8)
    findings = {finding["name"]: finding for finding in result["preflight"]["findings"]}
    assert findings["early stopping"]["severity"] == "ok"


def test_a_metric_that_the_rows_do_not_give_is_refused(tiny_embedding_model: str) -> None:
    settings = settings_of(tiny_embedding_model, monitor="val/spearmen")
    message = (
        r"^embedding\.training\.monitor must be auto or a metric that the 64 validation rows of the "
        r"shape score give \(val/spearman, val/pearson, .*val/loss\), got 'val/spearmen'\. Did you"
    )

    with pytest.raises(ConfigError, match=message):
        EMBEDDING.monitor_of(settings, score_rows([0.0, 0.5] * 32), score_rows([0.0, 0.5] * 32))


def test_rows_that_can_not_tell_models_apart_leave_the_choice_to_the_loss(
    tiny_embedding_model: str,
) -> None:
    settings = settings_of(tiny_embedding_model)
    rows = score_rows([0.5] * 64)

    assert EMBEDDING.monitor_of(settings, rows, rows).key == "val/loss"
    assert EMBEDDING.monitor_of(settings, rows, score_rows([0.1])).key == "val/loss"
    assert EMBEDDING.monitor_of(settings, rows, score_rows([0.1, 0.2])).key == "val/spearman"


@pytest.fixture
def only_what_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a linear probe and the singular values of health fail."""

    def refuse(*arguments: Any, **settings: Any) -> None:
        raise AssertionError("neither a probe nor health is computed to choose weights")

    monkeypatch.setattr(LogisticRegression, "fit", refuse)
    monkeypatch.setattr(np.linalg, "svd", refuse)


@pytest.mark.usefixtures("only_what_chooses")
@pytest.mark.parametrize("metric", ["ndcg_at_10", "knn_accuracy"])
def test_a_validation_computes_only_what_it_monitors(metric: str) -> None:
    records = [{"text": text, "label": text.split()[0]} for text in TEXTS]
    monitors = embedding_monitors("label", records, records, EvaluationConfig())
    (monitor,) = [monitor for monitor in monitors if monitor.metric == metric]

    def encode_by_label(texts: Sequence[str], role: str) -> np.ndarray:
        return np.array([[1.0, float(text.startswith("snow"))] for text in texts])

    assert monitor.measure is not None
    assert 0.0 < monitor.measure(encode_by_label) < 1.0
    # A collapsed model has the best alignment, so health must not choose weights.
    names = {monitor.metric for monitor in monitors}
    assert names.isdisjoint({"probe_accuracy", "alignment", "uniformity", "effective_rank"})


NEAR = """
from tunetrail.evaluation.metric import ExampleMetric

def near(records, vectors, options):
    return ((vectors("anchor") * vectors("positive")).sum(axis=1) > 0.5).astype(float)

NEAR = ExampleMetric(name="near", label="near answers", shapes=("pair",), of_vectors=near)
LABELS = ExampleMetric(name="labels", label="labels", shapes=("label",), of_vectors=near)
"""


def test_a_metric_of_a_package_can_be_monitored(install: Install) -> None:
    install(NEAR, metrics={"near": "NEAR", "labels": "LABELS"})
    config = EvaluationConfig(metrics=["near", "labels"])
    pairs = [{"anchor": text, "positive": f"not {text}"} for text in TEXTS]

    monitors = {monitor.key: monitor for monitor in embedding_monitors("pair", pairs, [], config)}

    def encode_by_subject(texts: Sequence[str], role: str) -> np.ndarray:
        return np.array([[1.0, 2.0 * (text.startswith("not snow"))] for text in texts])

    # After ours, since `auto` takes the first; not the metric of samples with labels.
    assert list(monitors)[-1] == "val/near" and "val/labels" not in monitors
    assert monitors["val/near"].higher_is_better and monitors["val/near"].measure is not None
    assert monitors["val/near"].measure(encode_by_subject) == pytest.approx(9 / 12)
    assert "val/near" not in {
        monitor.key for monitor in embedding_monitors("pair", pairs, [], EvaluationConfig())
    }


def test_a_metric_of_a_package_chooses_weights_if_the_settings_name_it(
    install: Install, tiny_embedding_model: str, tmp_path: Path
) -> None:
    install(NEAR, metrics={"near": "NEAR", "labels": "LABELS"})
    settings = settings_of(tiny_embedding_model, monitor="val/near")
    rows = [{"anchor": f"ask {text}", "positive": text} for text in TEXTS]
    samples = [parse_sample(row, SampleKind.EMBEDDING) for row in rows]
    frame = rows_frame(enumerate(samples))

    with pytest.raises(ConfigError, match=r"embedding\.training\.monitor must be auto or a metric"):
        EMBEDDING.monitor_of(settings, frame, frame)
    settings = replace(settings, evaluation=EvaluationConfig(metrics=["near"]))
    measurements = job_of(tmp_path, settings, frame, frame)

    values = [value for _, value in measurements["history"]["val/near"]]
    assert values and all(0.0 <= value <= 1.0 for value in values)


@pytest.mark.usefixtures("only_what_chooses")
def test_earlier_sessions_are_scored_by_the_primary_metric_only(tiny_embedding_model: str) -> None:
    settings = settings_of(tiny_embedding_model)
    learner = EMBEDDING.learner(settings, "label", None)
    model = learner.load(tiny_embedding_model)
    records = [{"text": text, "label": text.split()[-1]} for text in TEXTS]

    assert EMBEDDING.score_primary is not None
    scores = EMBEDDING.score_primary(learner, model, records, records, settings.evaluation)

    assert scores.metric == "ndcg_at_10" and "knn_accuracy" not in scores.metrics
    with pytest.raises(AssertionError, match="neither a probe nor health"):
        EMBEDDING.score(learner, model, records, records, settings.evaluation)
