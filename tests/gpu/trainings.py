"""Tiny trainings of both families, and what the tests of a GPU watch in them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from tunetrail.config import AdapterConfig, EmbeddingConfig, LanguageModelConfig
from tunetrail.config.trainer import TrainerConfig
from tunetrail.config.training import TrainingConfig
from tunetrail.learning.embedding.learner import EmbeddingLearner
from tunetrail.learning.fit_result import FitResult
from tunetrail.learning.language_model.learner import LanguageModelLearner
from tunetrail.learning.training_plan import TrainingPlan

PAIRS = [
    {"anchor": f"question {row} {'why ' * (row % 5)}", "positive": f"the answer is {row * 7}"}
    for row in range(48)
]
COMPLETIONS = [
    {"input": f"say {row} twice {'please ' * (row % 4)}", "output": f"{row} {row}"}
    for row in range(48)
]


@dataclass
class Watched:
    """What was seen at each optimizer step."""

    devices: set[str] = field(default_factory=set)
    fused: set[bool] = field(default_factory=set)
    steps: int = 0


@contextmanager
def watched_steps() -> Iterator[Watched]:
    """Look at the optimizer of each step in the block."""
    watched = Watched()

    def stepped(optimizer: Any, *_: Any) -> None:
        watched.steps += 1
        watched.fused.add(bool(optimizer.defaults.get("fused")))
        for group in optimizer.param_groups:
            watched.devices |= {weight.device.type for weight in group["params"]}

    handle = register_optimizer_step_post_hook(stepped)
    try:
        yield watched
    finally:
        handle.remove()


def training(**changed: Any) -> TrainingConfig:
    defaults = {
        "batch_size": 8,
        "num_epochs": 3,
        "warmup_steps": 0,
        "logging_steps": 1,
        "learning_rate": 1e-3,
    }
    return TrainingConfig(**{**defaults, **changed})


def train_embedding(
    path: str, folder: Path, config: TrainingConfig, *, accelerator: str = "gpu", **changed: Any
) -> FitResult:
    learner = EmbeddingLearner(
        config=EmbeddingConfig(training=config, **changed), shape="pair", seed=1
    )
    plan = _plan(folder, accelerator)
    return learner.train(path, PAIRS, PAIRS[:8], config, plan)[1]


def train_language(
    path: str,
    folder: Path,
    config: TrainingConfig,
    *,
    accelerator: str = "gpu",
    adapter: AdapterConfig | None = None,
) -> FitResult:
    settings = LanguageModelConfig(
        max_length=96, adapter=adapter or AdapterConfig(kind="none"), training=config
    )
    learner = LanguageModelLearner(config=settings, seed=1)
    plan = _plan(folder, accelerator)
    return learner.train(path, COMPLETIONS, COMPLETIONS[:8], config, plan)[1]


def losses_of(result: FitResult) -> torch.Tensor:
    """Return the training loss of each step."""
    return torch.tensor([value for _, value in result.history["train/loss"]])


def _plan(folder: Path, accelerator: str) -> TrainingPlan:
    def drop(metrics: Any, step: int) -> None:
        """Take metrics and keep none: the result has them."""

    return TrainingPlan(
        folder=folder, on_metrics=drop, trainer=TrainerConfig(accelerator=accelerator)
    )
