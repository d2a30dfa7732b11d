"""How often a training step reads a number from the device, for which the CPU has to wait."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._python_dispatch import TorchDispatchMode

from tunetrail.config import AdapterConfig, BatchesConfig, EmbeddingConfig, LanguageModelConfig
from tunetrail.config.training import AveragingConfig, TrainingConfig
from tunetrail.learning.embedding.learner import EmbeddingLearner
from tunetrail.learning.language_model.learner import LanguageModelLearner
from tunetrail.learning.training_plan import TrainingPlan

# Whole trainings.
pytestmark = pytest.mark.processes

PAIRS = [
    {"anchor": f"question {row} {'why ' * (row % 5)}", "positive": f"the answer is {row * 7}"}
    for row in range(24)
]
COMPLETIONS = [{"input": f"say {row} twice", "output": f"{row} {row}"} for row in range(24)]
SCORES = [
    {"sentence1": f"one {row}", "sentence2": f"two {row * 3}", "score": row / 24}
    for row in range(24)
]


class _Reads(TorchDispatchMode):
    """Counts the numbers that Python reads from tensors: `item`, `float(tensor)`, `if tensor`."""

    count = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += operation is torch.ops.aten._local_scalar_dense.default
        return operation(*args, **(kwargs or {}))


@contextmanager
def reads_per_step() -> Iterator[list[int]]:
    """Give a list of the reads between the ends of two optimizer steps each."""
    counts: list[int] = []
    with _Reads() as reads:

        def stepped(*_: Any) -> None:
            counts.append(reads.count)
            reads.count = 0

        handle = register_optimizer_step_post_hook(stepped)
        try:
            yield counts
        finally:
            handle.remove()


def training(**changed: Any) -> TrainingConfig:
    values = {
        "batch_size": 4,
        "num_epochs": 3,
        "warmup_steps": 0,
        "logging_steps": 1000,
        "validations_per_epoch": 1,
    }
    return TrainingConfig(**{**values, **changed})


def train_pairs(path: str, folder: Path, training: TrainingConfig, **changed: Any) -> None:
    shape, rows = changed.pop("shape", "pair"), changed.pop("rows", PAIRS)
    learner = EmbeddingLearner(
        config=EmbeddingConfig(training=training, **changed), shape=shape, seed=1
    )
    learner.train(path, rows, rows[:8], training, TrainingPlan(folder=folder, on_metrics=_drop))


def _drop(metrics: Any, step: int) -> None:
    """Take metrics and keep none."""


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"mini_batch_size": 2},
        {"shape": "score", "rows": SCORES},
        {"training": {"batches": BatchesConfig(accumulate=2)}},
        {"training": {"averaging": AveragingConfig(kind="ema")}},
        {"training": {"max_grad_norm": 0.0}},
    ],
    ids=["pairs", "gradcache", "scores", "accumulated", "averaged", "unclipped"],
)
def test_a_step_of_an_embedding_model_reads_one_number(
    tiny_embedding_model: str, tmp_path: Path, changed: dict[str, Any]
) -> None:
    settings = dict(changed)
    config = training(**settings.pop("training", {}))

    with reads_per_step() as counts:
        train_pairs(tiny_embedding_model, tmp_path, config, **settings)

    assert_one_read(counts, config)


@pytest.mark.parametrize("kind", ["none", "lora"])
def test_a_step_of_a_language_model_reads_one_number(
    tiny_language_model: str, tmp_path: Path, kind: str
) -> None:
    config = training()
    settings = LanguageModelConfig(
        max_length=64, adapter=AdapterConfig(kind=kind, rank=2), training=config
    )
    learner = LanguageModelLearner(config=settings, seed=1)
    plan = TrainingPlan(folder=tmp_path, on_metrics=_drop)

    with reads_per_step() as counts:
        learner.train(tiny_language_model, COMPLETIONS, COMPLETIONS[:8], config, plan)

    assert_one_read(counts, config)


def assert_one_read(counts: list[int], config: TrainingConfig) -> None:
    """The guard looks at the norm before each step, and nothing else looks at anything."""
    per_epoch = len(PAIRS) // (config.rows_per_batch * config.batches.accumulate)
    assert len(counts) == 3 * per_epoch

    # The first step is reported, and a validation lies before the first step of an epoch.
    ordinary = [count for step, count in enumerate(counts) if step > 1 and step % per_epoch]
    assert set(ordinary) == {1}
