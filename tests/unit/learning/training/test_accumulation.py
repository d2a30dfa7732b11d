"""One step has the same loss and gradient, however its rows are shared out over micro-batches."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.families import assert_close

from tunetrail.config import TrainingConfig
from tunetrail.config.training import BatchesConfig, GuardsConfig, OptimizerConfig
from tunetrail.learning.embedding.data import EmbeddingDataModule
from tunetrail.learning.embedding.module import EmbeddingModule
from tunetrail.learning.fitting import fit, optimization_settings
from tunetrail.learning.language_model.data import LanguageModelDataModule
from tunetrail.learning.language_model.module import LanguageModelModule
from tunetrail.learning.recovery.failures import Recovery
from tunetrail.learning.tokens.chat import IGNORED, TokenizedExample
from tunetrail.learning.training_plan import TrainingPlan

Folder = Callable[..., str]

LENGTHS = (3, 40, 9, 17, 2, 30, 5, 11)
WEIGHTS = (1.0, 0.25, 2.0, 1.0, 4.0, 0.5, 0.0, 1.0)
EXAMPLES = [
    TokenizedExample(
        input_ids=(ids := [3 + (number * 37 + place * 11) % 250 for place in range(length)]),
        labels=[token if place > length // 3 else IGNORED for place, token in enumerate(ids)],
        supervised_bytes=0,
        truncated=False,
        weight=weight,
    )
    for number, (length, weight) in enumerate(zip(LENGTHS, WEIGHTS, strict=True))
]
SCORES = [
    {"sentence1": f"text {'a ' * n}", "sentence2": f"other {n * 7}", "score": math.cos(n)}
    for n in range(8)
]
VECTORS = [
    {"text": f"text {'a ' * n}", "embedding": [math.sin(n + i) for i in range(32)]}
    for n in range(8)
]
SHARES = [(8, 1), (1, 8), (4, 2), (2, 4), (3, 3), (100, 1)]
"""Rows per micro-batch, and micro-batches per step; of three times three rows one is missing."""


def one_step(
    module: Any, data: Any, training: TrainingConfig, folder: Path, parts: int = 1
) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the loss of a step and its gradient: what plain descent with the rate 1 takes off the weights."""
    before = {name: each.detach().clone() for name, each in module.named_parameters()}
    plan = TrainingPlan(
        folder=folder,
        on_metrics=lambda metrics, step: None,
        validate=False,
        recovery=Recovery(parts=parts),
    )
    result = fit(module, data, training, plan, seed=0)
    assert result.steps == 1
    gradient = {name: before[name] - each.detach() for name, each in module.named_parameters()}
    ((_, loss),) = result.history["train/loss"]
    return loss, gradient


def descent(batch_size: int, accumulate: int, **training: Any) -> TrainingConfig:
    return TrainingConfig(
        batch_size=batch_size,
        num_epochs=1,
        warmup_steps=0,
        learning_rate=1.0,
        schedule="constant",
        weight_decay=0.0,
        max_grad_norm=0.0,
        optimizer=OptimizerConfig(name="sgd", momentum=0.0),
        batches=BatchesConfig(accumulate=accumulate, **training),
        guards=GuardsConfig(preflight=False),
    )


def language_step(path: str, folder: Path, training: TrainingConfig, parts: int = 1) -> Any:
    module = LanguageModelModule(
        model=path,
        pad_token_id=1,
        padding_free=training.batches.padding_free,
        optimization=optimization_settings(training),
    )
    data = LanguageModelDataModule(
        train=EXAMPLES,
        validation=[],
        batch_size=training.rows_per_batch,
        batches=training.batches,
        padded=not module.forward_pass.padding_free,
    )
    return one_step(module, data, training, folder, parts)


@pytest.mark.parametrize("padding_free", [True, False])
@pytest.mark.parametrize("share", SHARES[1:])
def test_a_language_models_step_is_normalised_over_all_its_tokens(
    decoder_folder: Folder, tmp_path: Path, share: tuple[int, int], padding_free: bool
) -> None:
    path = decoder_folder("llama")
    expected_loss, expected = language_step(path, tmp_path, descent(8, 1))
    loss, found = language_step(path, tmp_path, descent(*share, padding_free=padding_free))
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert_close(found, expected)


def test_a_language_models_step_is_the_same_in_parts_and_by_tokens(
    decoder_folder: Folder, tmp_path: Path
) -> None:
    path = decoder_folder("qwen2")
    expected_loss, expected = language_step(path, tmp_path, descent(8, 1))
    # The last of five parts of four rows is empty.
    for training, parts in ((descent(4, 2), 3), (descent(4, 2), 5), (descent(4, 8, tokens=50), 1)):
        loss, found = language_step(path, tmp_path, training, parts)
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        assert_close(found, expected)


@pytest.mark.parametrize(
    ("shape", "loss", "records"),
    [("score", "cosine_similarity", SCORES), ("vector", "mse", VECTORS)],
)
@pytest.mark.parametrize("share", SHARES[1:])
def test_an_embedding_models_step_is_normalised_over_all_its_rows(
    encoder_folder: Folder,
    tmp_path: Path,
    share: tuple[int, int],
    shape: str,
    loss: str,
    records: Any,
) -> None:
    def step(training: TrainingConfig) -> Any:
        module = EmbeddingModule(
            model=encoder_folder("bert"),
            shape=shape,
            loss=loss,
            max_length=64,
            optimization=optimization_settings(training),
        )
        data = EmbeddingDataModule(
            train=records,
            validation=[],
            shape=shape,
            batch_size=training.rows_per_batch,
            batches=training.batches,
        )
        return one_step(module, data, training, tmp_path)

    expected_loss, expected = step(descent(8, 1))
    found_loss, found = step(descent(*share))
    assert found_loss == pytest.approx(expected_loss, rel=1e-5)
    assert_close(found, expected)
