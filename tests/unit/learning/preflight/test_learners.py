"""What preflight and guards know of records, through the learners that the pipeline has."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tunetrail.config import AdapterConfig, EmbeddingConfig, LanguageModelConfig, TrainingConfig
from tunetrail.errors import ConfigError
from tunetrail.learning.embedding.learner import EmbeddingLearner
from tunetrail.learning.language_model.learner import LanguageModelLearner
from tunetrail.learning.preflight.findings import PreflightReport, Severity
from tunetrail.learning.training_plan import TrainingPlan

RECORDS: list[dict[str, Any]] = [{"input": f"Say {n}.", "output": f"It is {n}."} for n in range(8)]
PAIRS = [{"anchor": f"question {n}", "positive": f"the answer is {n * 7}"} for n in range(8)]
TRAINING = TrainingConfig(
    batch_size=4,
    num_epochs=1,
    warmup_steps=0,
    learning_rate=1e-3,
    early_stopping_patience=0,
)


def language_learner(max_length: int = 256) -> LanguageModelLearner:
    config = LanguageModelConfig(max_length=max_length, adapter=AdapterConfig(rank=4, alpha=8))
    return LanguageModelLearner(config=config, seed=0)


def warnings(report: PreflightReport | None) -> dict[str, str]:
    assert report is not None
    return {finding.name: finding.message for finding in report.of(Severity.WARNING)}


def test_training_counts_the_rows_that_it_leaves_out_and_names_rows_as_the_records_do(
    tiny_language_model: str, tmp_path: Path
) -> None:
    records = [{"input": "x" * 300, "output": "y"}, *RECORDS]
    records[5] = {**records[5], "weight": math.nan}

    _, result = language_learner().train(
        tiny_language_model,
        records,
        RECORDS[:2],
        TRAINING,
        TrainingPlan(folder=tmp_path, on_metrics=lambda metrics, step: None),
    )

    assert (
        "left out: 1 row whose output is empty" in warnings(result.preflight)["supervised tokens"]
    )
    assert 5 in result.skipped_rows and 0 not in result.skipped_rows
    assert (result.rewinds, result.skipped_rows, result.steps) == (0, (5,), 2)


def test_preflight_is_silent_in_an_ordinary_training(
    tiny_language_model: str, tiny_embedding_model: str, tmp_path: Path
) -> None:
    _, result = language_learner().train(
        tiny_language_model,
        RECORDS,
        RECORDS,
        TRAINING,
        TrainingPlan(folder=tmp_path, on_metrics=lambda metrics, step: None),
    )

    assert warnings(result.preflight) == {}

    learner = EmbeddingLearner(config=EmbeddingConfig(query_prompt="find: "), shape="pair", seed=0)
    _, result = learner.train(
        tiny_embedding_model,
        PAIRS,
        PAIRS,
        TRAINING,
        TrainingPlan(folder=tmp_path / "e", on_metrics=lambda metrics, step: None),
    )

    assert warnings(result.preflight) == {}
    assert result.preflight is not None and "read: find: question 0" in result.preflight.preview


def test_embedding_training_with_one_row_per_batch_does_not_begin(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    learner = EmbeddingLearner(config=EmbeddingConfig(), shape="pair", seed=0)
    training = TrainingConfig(batch_size=1, num_epochs=1)

    with pytest.raises(
        ConfigError, match=r"training\.batch_size must be at least 2 for the loss multiple"
    ):
        learner.train(
            tiny_embedding_model,
            PAIRS,
            PAIRS,
            training,
            TrainingPlan(folder=tmp_path, on_metrics=lambda metrics, step: None),
        )


def test_scoring_out_of_memory_gives_the_same_likelihoods(tiny_language_model: str) -> None:
    learner = language_learner()
    model = learner.load(tiny_language_model)
    expected = learner.likelihoods(model, RECORDS, 8)
    decoder = model.model.get_decoder()
    forward, failed = decoder.forward, []

    def limited(*arguments: Any, **keywords: Any) -> Any:
        if keywords["input_ids"].numel() > 150:
            failed.append(keywords["input_ids"].numel())
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(*arguments, **keywords)

    decoder.forward = limited
    likelihoods = learner.likelihoods(model, RECORDS, 8)
    assert failed
    np.testing.assert_allclose(likelihoods.nats, expected.nats, rtol=1e-6)
