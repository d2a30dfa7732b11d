"""A run that ends after a stage, or within its training, and goes on from there."""

import gc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sentence_transformers import SentenceTransformer

from tunetrail import DataSciencePipeline
from tunetrail.config import EvaluationConfig, Settings, SplitConfig
from tunetrail.config.trainer import TrainerConfig
from tunetrail.data.rows import rows_frame
from tunetrail.errors import ConfigError
from tunetrail.pipeline import Pruned
from tunetrail.pipeline.families import EMBEDDING, LLM
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.pipeline.stages.fit import MonitoredValue
from tunetrail.run_reports import REPORT_ARTIFACT
from tunetrail.samples import SampleKind, parse_sample

Make = Callable[..., Settings]


@pytest.fixture
def rows(make_rows: Any) -> pd.DataFrame:
    samples = [parse_sample(row, SampleKind.EMBEDDING) for row in make_rows("pair")]
    return rows_frame(enumerate(samples, start=1))


@pytest.mark.processes
def test_run_ends_after_the_fit_and_goes_on_to_the_deployment(
    workplace: Path, make_settings: Make, rows: pd.DataFrame
) -> None:
    pipeline = DataSciencePipeline(make_settings(workplace))

    models_in_memory: list[int] = []

    def count_models(deployment: Any = None) -> None:
        gc.collect()
        models = [thing for thing in gc.get_objects() if isinstance(thing, SentenceTransformer)]
        models_in_memory.append(len(models))

    fitted = pipeline.run("embedding", rows, until="fit")
    run = pipeline.tracker.run(fitted.mlflow_run_id)
    count_models()
    deployed = pipeline.run("embedding", rows, resumed=run, on_decision=count_models)

    assert (fitted.state, deployed.state) == ("fitted", "promoted")
    # The base model that the candidate was compared with is gone by then.
    before, at_decision = models_in_memory
    assert at_decision == before + 1
    assert list(fitted.to_dict())[-1] == "training" and fitted.evaluation is None
    assert fitted.objective == fitted.steps["training"]["best_validation_loss"] is not None
    assert deployed.objective == fitted.objective
    assert list(Path(pipeline.settings.output_dir).iterdir()) == []
    # Without a run above it, it has a page of its own.
    assert run.artifacts("report/embedding")
    page = Path(run.artifact_location(REPORT_ARTIFACT)).read_text(encoding="utf-8")
    assert "Promoted to root: nDCG@10" in page


@pytest.mark.processes
def test_run_on_two_devices_trains_with_what_is_found_on_one(
    workplace: Path, make_settings: Make, rows: pd.DataFrame
) -> None:
    settings = make_settings(workplace, trainer=TrainerConfig(accelerator="cpu", devices=2))
    settings.embedding.training.batch_size = settings.embedding.training.learning_rate = "auto"
    settings.embedding.training.batches.effective_size = 8

    fitted = DataSciencePipeline(settings).run("embedding", rows, until="fit")

    training = fitted.steps["training"]
    batch_size, rate = training["found"]["batch_size"], training["found"]["learning_rate"]["rate"]
    assert (batch_size["batch_size"], batch_size["devices"]) == (8, 2)
    # Of a step of eight rows, a rank computes no more.
    assert max(batch["rows"] for batch in batch_size["measured"]) == 4
    assert training["steps"] == 3
    # The first of three steps, from which the rate falls to zero.
    assert training["history"]["train/learning_rate"][0] == [1, pytest.approx(rate * 2 / 3)]


def metrics_of(family: ModelFamily, shape: str, rows: list[dict[str, Any]]) -> list[str]:
    """The metrics that a family announces before a training."""
    assert family.metrics is not None
    return list(family.metrics(shape, rows, EvaluationConfig()))


def test_run_that_ends_with_the_fit_is_scored_on_the_validation_rows(
    workplace: Path, make_settings: Make, make_rows: Any, rows: pd.DataFrame
) -> None:
    # Enough validation rows for an interval.
    settings = make_settings(workplace, split=SplitConfig(validation_share=0.4))
    pipeline = DataSciencePipeline(settings)
    values: list[MonitoredValue] = []

    fitted = pipeline.run("embedding", rows, until="fit", on_validation=values.append)
    again = pipeline.run(
        "embedding", rows, until="fit", resumed=pipeline.tracker.run(fitted.mlflow_run_id)
    )

    scores = fitted.validation
    run = pipeline.tracker.find_run(fitted.mlflow_run_id)
    assert scores is not None and run is not None and fitted.prepared is not None
    assert (scores.metric, scores.rows) == ("ndcg_at_10", len(fitted.prepared.split.validation))
    assert {"recall_at_5", "mrr_at_10", "uniformity"} <= set(scores.metrics)
    assert list(scores.metrics) == metrics_of(EMBEDDING, "pair", make_rows("pair"))
    lower, upper = scores.intervals["ndcg_at_10"]
    assert lower < scores.metrics["ndcg_at_10"] < upper
    assert scores.model_mib > 0.01
    assert run.data.metrics["validation/ndcg_at_10"] == scores.metrics["ndcg_at_10"]
    assert run.data.metrics["validation/ndcg_at_10/lower"] == lower
    assert scores.rows == scores.side_rows == run.data.metrics["validation/side_rows"]
    assert scores.documents == run.data.metrics["validation/documents"]
    assert scores.documents is not None and scores.documents > scores.rows
    assert (run.info.status, run.data.tags["tunetrail.state"]) == ("FINISHED", "fitted")
    assert not [name for name in run.data.metrics if name.startswith("evaluation/")]
    # A resumed run that had scored its model doesn't do so again.
    assert again.validation == scores

    training = fitted.steps["training"]
    assert [(value.step, value.value) for value in values] == [
        tuple(point) for point in training["history"][training["monitor"]]
    ]
    assert all(value.higher_is_better for value in values)


@pytest.mark.processes
@pytest.mark.parametrize("shape", ["completion", "preference", "verdict"])
def test_language_model_has_the_scores_that_were_announced(
    workplace: Path, make_settings: Make, make_rows: Any, shape: str
) -> None:
    samples = [parse_sample(row, SampleKind.LLM) for row in make_rows(shape)]
    pipeline = DataSciencePipeline(make_settings(workplace))

    fitted = pipeline.run("llm", rows_frame(enumerate(samples, start=1)), until="fit")

    assert fitted.validation is not None
    assert list(fitted.validation.metrics) == metrics_of(LLM, shape, make_rows(shape))
    assert next(iter(fitted.validation.metrics)) == fitted.validation.metric


@pytest.mark.processes
@pytest.mark.parametrize("shape", ["score", "label", "vector", "text"])
def test_embedding_model_has_the_scores_that_were_announced(
    workplace: Path, make_settings: Make, make_rows: Any, shape: str
) -> None:
    samples = [parse_sample(row, SampleKind.EMBEDDING) for row in make_rows(shape)]
    pipeline = DataSciencePipeline(make_settings(workplace))

    fitted = pipeline.run("embedding", rows_frame(enumerate(samples, start=1)), until="fit")

    assert fitted.validation is not None
    assert set(fitted.validation.metrics) == set(metrics_of(EMBEDDING, shape, make_rows(shape)))


def test_run_refuses_an_unknown_stage(
    workplace: Path, make_settings: Make, rows: pd.DataFrame
) -> None:
    pipeline = DataSciencePipeline(make_settings(workplace))
    with pytest.raises(ConfigError, match=r"prepare, cross_validate, fit, .* got 'fitt'.*'fit'"):
        pipeline.run("embedding", rows, until="fitt")


def test_run_that_is_pruned_ends_without_a_failure(
    workplace: Path, make_settings: Make, rows: pd.DataFrame
) -> None:
    def prune(metrics: Mapping[str, float], step: int) -> None:
        raise Pruned("no better than the others")

    pipeline = DataSciencePipeline(make_settings(workplace))

    outcome = pipeline.run("embedding", rows, on_metrics=prune)

    run = pipeline.tracker.find_run(outcome.mlflow_run_id)
    assert run is not None and outcome.state == "pruned" and outcome.objective is None
    assert outcome.reason == run.data.tags["tunetrail.reason"] == "no better than the others"
    assert run.data.tags["tunetrail.state"] == "pruned"
    assert run.info.status == "FINISHED"
    assert run.data.tags["tunetrail.outcome"] == "pruned"
