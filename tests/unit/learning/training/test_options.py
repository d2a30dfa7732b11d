"""Every option of an optimizer, schedule, precision, average and memory trains both kinds of model."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tunetrail.config import AdapterConfig, TrainingConfig
from tunetrail.config.training import (
    AveragingConfig,
    BatchesConfig,
    CheckpointsConfig,
    MemoryConfig,
    OptimizerConfig,
)
from tunetrail.learning.embedding.data import EmbeddingDataModule
from tunetrail.learning.embedding.module import EmbeddingModule
from tunetrail.learning.fit_result import FitResult
from tunetrail.learning.fitting import fit, optimization_settings
from tunetrail.learning.language_model.data import LanguageModelDataModule
from tunetrail.learning.language_model.module import LanguageModelModule, load_tokenizer
from tunetrail.learning.tokens.chat import tokenize_record
from tunetrail.learning.training.module import TrainedModule
from tunetrail.learning.training_plan import TrainingPlan

# Whole trainings.
pytestmark = pytest.mark.processes

KINDS = ("embedding", "lora")
OPTIONS: dict[str, dict[str, Any]] = {
    "adam": {"optimizer": OptimizerConfig(name="adam")},
    "adafactor": {"optimizer": OptimizerConfig(name="adafactor"), "learning_rate": 0.05},
    "sgd": {"optimizer": OptimizerConfig(name="sgd"), "learning_rate": 0.05},
    "layer_decay": {"optimizer": OptimizerConfig(layer_decay=0.8)},
    "inverse_sqrt": {"schedule": "inverse_sqrt", "warmup_steps": 2},
    "wsd": {"schedule": "wsd", "warmup_ratio": 0.2},
    "bf16-mixed": {"precision": "bf16-mixed"},
    "ema": {"averaging": AveragingConfig(kind="ema", decay=0.5)},
    "swa": {"averaging": AveragingConfig(kind="swa", start=0.5)},
    "gradient_checkpointing": {"memory": MemoryConfig(gradient_checkpointing=True)},
}


def language_model_parts(path: str, config: TrainingConfig) -> tuple[TrainedModule, Any]:
    tokenizer = load_tokenizer(path)
    records = [{"input": f"{number} ?", "output": "abc" * (1 + number % 3)} for number in range(12)]
    examples = [tokenize_record(tokenizer, record, 64) for record in records]
    module = LanguageModelModule(
        model=path,
        adapter=asdict(AdapterConfig(kind="lora", rank=4, alpha=8)),
        optimization=optimization_settings(config),
    )
    return module, LanguageModelDataModule(
        train=examples, validation=examples, batch_size=4, batches=config.batches
    )


def embedding_parts(path: str, config: TrainingConfig) -> tuple[TrainedModule, Any]:
    records = [
        {"anchor": f"{number} ?", "positive": f"{number * 7} {'abc' * (number % 3)}"}
        for number in range(12)
    ]
    module = EmbeddingModule(model=path, shape="pair", optimization=optimization_settings(config))
    data = EmbeddingDataModule(
        train=records, validation=records, shape="pair", batch_size=4, batches=config.batches
    )
    return module, data


class KilledError(Exception):
    """Ends a training from without."""


def train(
    kind: str, path: str, folder: Path, *, resume: bool = False, kill_at: int = -1, **options: Any
) -> tuple[TrainedModule, FitResult]:
    config = TrainingConfig(
        **(
            {"num_epochs": 3, "warmup_steps": 0, "learning_rate": 3e-3, "validations_per_epoch": 1}
            | options
        )
    )
    module, data = (embedding_parts if kind == "embedding" else language_model_parts)(path, config)

    def kill(*arguments: Any) -> None:
        if module.training and module._trainer and module.trainer.global_step == kill_at:
            raise KilledError

    next(
        each for each in module.modules() if isinstance(each, torch.nn.Embedding)
    ).register_forward_pre_hook(kill)
    last = folder / "checkpoints" / "last.ckpt"
    result = fit(
        module,
        data,
        config,
        TrainingPlan(
            folder=folder, on_metrics=lambda metrics, step: None, resume=last if resume else None
        ),
        seed=0,
    )
    return module, result


@pytest.fixture
def paths(tiny_embedding_model: str, tiny_language_model: str) -> dict[str, str]:
    return {"embedding": tiny_embedding_model, "lora": tiny_language_model}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("option", OPTIONS)
def test_option_lowers_the_validation_loss(
    option: str, kind: str, paths: dict[str, str], tmp_path: Path
) -> None:
    _, result = train(kind, paths[kind], tmp_path, **OPTIONS[option])
    losses = [loss for _, loss in result.history["val/loss"]]
    assert result.steps == 9
    assert losses[-1] < losses[0]


def trained_weights(module: TrainedModule) -> dict[str, Tensor]:
    return {name: each.detach() for name, each in module.named_parameters() if each.requires_grad}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("option", ["ema", "swa"])
def test_averages_are_the_same_bits_after_a_kill(
    option: str, kind: str, paths: dict[str, str], tmp_path: Path
) -> None:
    options = OPTIONS[option] | {
        "checkpoints": CheckpointsConfig(every_steps=1),
        "batches": BatchesConfig(accumulate=2),
        "num_epochs": 4,
    }
    whole, result = train(kind, paths[kind], tmp_path / "whole", **options)
    with pytest.raises(KilledError):
        train(kind, paths[kind], tmp_path / "killed", kill_at=5, **options)
    resumed, again = train(kind, paths[kind], tmp_path / "killed", resume=True, **options)
    assert again.best_validation_loss == result.best_validation_loss
    best = torch.load(tmp_path / "whole" / "checkpoints" / "best.ckpt", weights_only=True)[
        "state_dict"
    ]
    for name, weight in trained_weights(whole).items():
        assert torch.equal(weight, trained_weights(resumed)[name]), name
        assert torch.equal(weight, best[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_changes_no_bit(kind: str, paths: dict[str, str], tmp_path: Path) -> None:
    plain, _ = train(kind, paths[kind], tmp_path / "plain")
    checkpointed, _ = train(
        kind, paths[kind], tmp_path / "again", **OPTIONS["gradient_checkpointing"]
    )
    for name, weight in trained_weights(plain).items():
        assert torch.equal(weight, trained_weights(checkpointed)[name]), name
