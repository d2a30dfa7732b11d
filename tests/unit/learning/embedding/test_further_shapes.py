"""Training on several shapes of samples in one run."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tunetrail.config import EmbeddingConfig, FurtherLossesConfig, TrainingConfig
from tunetrail.errors import ConfigError, SampleError
from tunetrail.learning.embedding.data import EmbeddingBatch, EmbeddingDataModule
from tunetrail.learning.embedding.learner import EmbeddingLearner
from tunetrail.learning.embedding.module import EmbeddingModule
from tunetrail.learning.training_plan import TrainingPlan

PAIRS = [
    {"anchor": f"question {n}", "positive": f"answer {n * 7}", "shape": "pair"} for n in range(12)
]
SCORES = [
    {"sentence1": f"one {n}", "sentence2": f"two {n}", "score": n / 8, "shape": "score"}
    for n in range(8)
]
TEXTS = [{"text": f"a text {n} by itself", "shape": "text"} for n in range(6)]
FURTHER = FurtherLossesConfig(score="auto", text="simcse")
TRAINING = TrainingConfig(
    batch_size=4,
    learning_rate=1e-3,
    num_epochs=1,
    warmup_steps=0,
    validations_per_epoch=1,
    logging_steps=1,
)


def ignore(metrics: Mapping[str, float], step: int) -> None:
    """Take metrics and forget them."""


def learner(**config: Any) -> EmbeddingLearner:
    changed = {"shape": "pair", "also_train": FURTHER, "training": TRAINING, **config}
    return EmbeddingLearner(config=EmbeddingConfig(**changed), shape="pair", seed=0)


def batches(records: list[dict[str, Any]]) -> list[EmbeddingBatch]:
    data = EmbeddingDataModule(
        train=records, validation=[], shape="pair", batch_size=4, seen_twice=("text",)
    )
    return [shared.batch for shared in data.train_dataloader()]


@pytest.mark.parametrize("mini_batch_size", [0, 2])
def test_each_batch_has_the_loss_of_its_shape(
    tiny_embedding_model: str, mini_batch_size: int
) -> None:
    together = EmbeddingModule(
        model=tiny_embedding_model,
        shape="pair",
        further_losses={"score": "cosent", "text": "simcse"},
    ).eval()
    together.mini_batch_size = mini_batch_size
    seen = set()
    for batch in batches([*PAIRS, *SCORES, *TEXTS]):
        alone = EmbeddingModule(model=tiny_embedding_model, shape=batch.shape).eval()
        torch.testing.assert_close(together.measures_of(batch), alone.measures_of(batch))
        seen.add(batch.shape)
    assert seen == {"pair", "score", "text"}


def test_a_training_learns_from_every_shape(tiny_embedding_model: str, tmp_path: Path) -> None:
    losses = {}
    for name, records in (("pairs", PAIRS), ("all", [*PAIRS, *SCORES, *TEXTS])):
        _, result = learner().train(
            tiny_embedding_model,
            records,
            PAIRS,
            TRAINING,
            TrainingPlan(folder=tmp_path / name, on_metrics=ignore),
        )
        losses[name] = result.history["val/loss"][-1][1]
        assert result.steps == {"pairs": 3, "all": 3 + 2 + 2}[name]
    assert losses["pairs"] != losses["all"]


def test_what_is_auto_is_found_with_the_rows_that_are_scored(tiny_embedding_model: str) -> None:
    training = replace(TRAINING, batch_size="auto")
    found = learner().find_auto_values(tiny_embedding_model, [*SCORES, *PAIRS, *TEXTS], training)
    assert found.batch is not None and 1 <= found.batch.batch_size <= len(PAIRS)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"shape": None}, r"embedding\.shape must be the shape that is scored if"),
        (
            {"also_train": {"pair": "auto"}},
            r"embedding\.also_train\.pair must be null for the shape that is scored",
        ),
        (
            {"also_train": {"score": "triplet"}},
            r"embedding\.also_train\.score must be one of auto, cosent",
        ),
        (
            {"also_train": {"text": "mse"}},
            r"embedding\.also_train\.text must be one of auto, simcse, got 'mse'",
        ),
    ],
)
def test_what_cannot_be_trained_along_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        if "also_train" in config:
            config = {"also_train": FurtherLossesConfig(**config["also_train"])}
        learner(**config)


def test_rows_that_a_further_loss_cannot_learn_from_are_refused(tiny_embedding_model: str) -> None:
    wrong = [{**record, "score": 3.0} for record in SCORES]
    scored = learner(also_train=FurtherLossesConfig(score="cosine_similarity"))

    message = r"score must be between -1 and 1 for the loss cosine_similarity, got 3"
    with pytest.raises(SampleError, match=message):
        scored.check(tiny_embedding_model, [*PAIRS, *wrong], scored.load)


def test_a_single_row_for_a_loss_that_needs_others_is_refused_before_training(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    with pytest.raises(SampleError, match=r"at least 2 rows for the loss simcse, got 1"):
        learner().train(
            tiny_embedding_model,
            [*PAIRS, *TEXTS[:1]],
            PAIRS,
            TRAINING,
            TrainingPlan(folder=tmp_path, on_metrics=ignore),
        )
