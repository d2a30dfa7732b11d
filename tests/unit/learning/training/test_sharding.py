"""A language model that two processes shard (FSDP2 through gloo) is trained as by one process."""

import math
import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.families import language_folder
from tests.ranks import run_ranks

from tunetrail.config import TrainingConfig
from tunetrail.config.trainer import TrainerConfig
from tunetrail.config.training import (
    AveragingConfig,
    BatchesConfig,
    CheckpointsConfig,
    MemoryConfig,
    OptimizerConfig,
)
from tunetrail.learning.fit_result import FitResult
from tunetrail.learning.fitting import fit, optimization_settings
from tunetrail.learning.language_model.data import LanguageModelDataModule, PreferencePair
from tunetrail.learning.language_model.module import LanguageModelModule
from tunetrail.learning.language_model.preflight import LANGUAGE_MODEL_CHECKS
from tunetrail.learning.recovery.failures import Recovery
from tunetrail.learning.tokens.chat import IGNORED, TokenizedExample
from tunetrail.learning.training.ranks import leave_the_ranks
from tunetrail.learning.training_plan import TrainingPlan

pytestmark = [
    pytest.mark.processes,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    # Resumed in a folder of its own, so that one checkpoint serves several cases.
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]

SGD = OptimizerConfig(name="sgd", momentum=0.5)
TRAINING = TrainingConfig(
    batch_size=4,
    num_epochs=2,
    learning_rate=0.05,
    warmup_steps=0,
    max_grad_norm=0.5,
    logging_steps=1,
    optimizer=SGD,
    batches=BatchesConfig(accumulate=2),
    validations_per_epoch=2,
)
ADAMW = replace(TRAINING, learning_rate=1e-3, optimizer=OptimizerConfig(name="adamw", epsilon=1e-4))


def example(number: int, weight: float = 1.0) -> TokenizedExample:
    tokens = [3 + (number * 37 + place * 11) % 250 for place in range(3 + number * 7 % 19)]
    return TokenizedExample(
        input_ids=tokens,
        labels=[IGNORED, *tokens[1:]],
        supervised_bytes=len(tokens),
        truncated=False,
        weight=weight,
    )


EXAMPLES = [example(number, 0.5 + number % 3) for number in range(21)]
PAIRS = [
    PreferencePair(chosen=example(number), rejected=example(number + 5), reference=(-9.0, -7.0))
    for number in range(21)
]


@dataclass(frozen=True)
class Case:
    """A training, and how exactly its ranks compute what one process computes."""

    decoder: str = "llama"
    training: TrainingConfig = field(default_factory=lambda: TRAINING)
    module: dict[str, Any] = field(default_factory=dict)
    train: list[Any] = field(default_factory=lambda: EXAMPLES)
    parts: int = 1
    mini_batch_size: int = 0
    rel: float = 1e-5
    weights: float = 1e-6


LORA = {"rank": 4, "alpha": 8, "dropout": 0.0}
CASES = {
    "tied": Case(),
    "untied": Case(decoder="qwen2"),
    "gpt2": Case(decoder="gpt2"),
    "padded": Case(module={"padding_free": False}),
    "adamw": Case(training=ADAMW),
    "lora": Case(training=ADAMW, module={"adapter": {"kind": "lora", **LORA}}),
    "dora": Case(training=ADAMW, module={"adapter": {"kind": "dora", **LORA}}),
    # Four parts of four rows, or of one at an epoch's end: a rank has no row of most of them.
    "parts": Case(parts=4, mini_batch_size=1),
    "preferences": Case(train=PAIRS),
    "checkpointing": Case(
        training=replace(TRAINING, memory=MemoryConfig(gradient_checkpointing=True))
    ),
    "layer decay": Case(
        training=replace(ADAMW, optimizer=replace(ADAMW.optimizer, layer_decay=0.5))
    ),
    "exponential averages": Case(
        training=replace(ADAMW, averaging=AveragingConfig(kind="ema", decay=0.9))
    ),
    "averages": Case(training=replace(ADAMW, averaging=AveragingConfig(kind="swa", start=0.3))),
    # bfloat16 has 8 bits.
    "bf16-mixed": Case(training=replace(TRAINING, precision="bf16-mixed"), rel=2e-2, weights=2e-3),
    "bf16-true": Case(training=replace(TRAINING, precision="bf16-true"), rel=2e-2, weights=2e-2),
    "broken steps": Case(),
    "broken steps of adapters": Case(training=ADAMW, module={"adapter": {"kind": "lora", **LORA}}),
    "a broken row": Case(train=[*EXAMPLES[:-1], example(20, math.nan)]),
}
CUT = {"tied": 4, "lora": 4, "exponential averages": 4}
"""Trainings that are cut after a step and resumed, by one process and by two."""


BROKEN = ("broken steps", "broken steps of adapters")
"""Trainings that go back to their start, and later to a checkpoint."""


class Breaking(LanguageModelModule):
    """Breaks the gradients of two steps, each until the learning rate has been lowered."""

    def loss_of(self, batch: Any) -> torch.Tensor:
        loss = super().loss_of(batch)
        scheduler: Any = self.trainer.lr_scheduler_configs[0].scheduler
        group = self.trainer.optimizers[0].param_groups[0]
        lowered = round(math.log2(group["initial_lr"] / scheduler.base_lrs[0]))
        if self.trainer.global_step == (0, 4, -1)[lowered]:
            loss.register_hook(lambda gradient: gradient * math.nan)
        return loss


class CutError(Exception):
    """Ends a training as a crash would."""


def fitted(
    name: str, models: Path, folder: Path, *, cut: int = 0, resume: Path | None = None
) -> tuple[FitResult, dict[str, torch.Tensor]]:
    case = CASES[name]
    training = replace(case.training, checkpoints=CheckpointsConfig(every_steps=1))
    module = (Breaking if name in BROKEN else LanguageModelModule)(
        model=str(models / case.decoder),
        pad_token_id=1,
        optimization=optimization_settings(training),
        **case.module,
    )
    data = LanguageModelDataModule(
        train=case.train,
        validation=case.train[:9],
        batch_size=training.rows_per_batch,
        batches=training.batches,
    )

    def stop(metrics: Any, step: int) -> None:
        if cut and step > cut:
            raise CutError

    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    plan = TrainingPlan(
        folder=folder,
        on_metrics=stop,
        resume=resume,
        trainer=TrainerConfig(accelerator="cpu", devices=ranks, strategy="fsdp"),
        recovery=Recovery(parts=case.parts, mini_batch_size=case.mini_batch_size),
    )
    result = fit(module, data, training, plan, seed=0, checks=LANGUAGE_MODEL_CHECKS)
    return result, module.merged().state_dict()


def cut_off(name: str, models: Path, folder: Path) -> Path:
    """Train up to a step, and return the last checkpoint."""
    with pytest.raises(CutError):
        fitted(name, models, folder, cut=CUT[name])
    return folder / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the models, and what each rank found."""
    folder = tmp_path_factory.mktemp("ranks")
    for decoder in ("llama", "qwen2", "gpt2"):
        language_folder(folder / decoder, decoder)
    for name in CUT:
        cut_off(name, folder, folder / f"{name} of one")
    run_ranks(__file__, folder)
    return folder


def assert_like_one(
    ranks: Path, name: str, file: str, expected: tuple[FitResult, dict[str, torch.Tensor]]
) -> None:
    case, (one, weights) = CASES[name], expected
    for rank in range(2):
        result, sharded = torch.load(ranks / f"{file}.{rank}", weights_only=True)
        for metric in ("train/loss", "train/gradient_norm", "val/loss"):
            curve, expected_curve = result["history"][metric], one.history[metric]
            # A resumed training reports the steps after the checkpoint.
            assert curve == [
                pytest.approx(list(point), rel=case.rel) for point in expected_curve[-len(curve) :]
            ]
        assert result["steps"] == one.steps
        assert result["best_validation_loss"] == pytest.approx(
            one.best_validation_loss, rel=case.rel
        )
        assert result["rewinds"] == one.rewinds
        assert result["skipped_rows"] == list(one.skipped_rows)
        assert sharded.keys() == weights.keys()
        for weight_name, weight in weights.items():
            difference = (sharded[weight_name].float() - weight.float()).abs().max()
            assert float(difference) <= case.weights, weight_name


@pytest.mark.parametrize("name", CASES)
def test_two_sharded_ranks_train_like_one(ranks: Path, name: str, tmp_path: Path) -> None:
    expected = fitted(name, ranks, tmp_path)
    assert_like_one(ranks, name, name, expected)
    assert list(expected[0].skipped_rows) == ([20] if name == "a broken row" else [])
    assert expected[0].rewinds == (2 if name in BROKEN else 0)


@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize("writer", ["one", "two"])
def test_two_sharded_ranks_resume_from_checkpoints_of_one_and_of_two(
    ranks: Path, name: str, writer: str, tmp_path: Path
) -> None:
    assert_like_one(ranks, name, f"{name} after {writer}", fitted(name, ranks, tmp_path))


@pytest.mark.parametrize("name", CUT)
def test_one_process_resumes_from_a_checkpoint_of_two_sharded_ranks(
    ranks: Path, name: str, tmp_path: Path
) -> None:
    checkpoint = ranks / f"{name} of two" / "checkpoints" / "last.ckpt"
    _, resumed = fitted(name, ranks, tmp_path / "resumed", resume=checkpoint)
    _, weights = fitted(name, ranks, tmp_path / "whole")
    for weight_name, weight in weights.items():
        assert float((resumed[weight_name] - weight).abs().max()) <= 1e-6, weight_name


def _train_as_a_rank(folder: Path) -> None:
    rank = os.environ["LOCAL_RANK"]
    for name in CASES:
        result, weights = fitted(name, folder, folder / f"{name} of ranks")
        torch.save((result.to_dict(), weights), folder / f"{name}.{rank}")
    for name in CUT:
        cut_off(name, folder, folder / f"{name} of two")
        for writer in ("one", "two"):
            checkpoint = folder / f"{name} of {writer}" / "checkpoints" / "last.ckpt"
            target = folder / f"{name} after {writer}"
            result, weights = fitted(name, folder, target, resume=checkpoint)
            torch.save((result.to_dict(), weights), folder / f"{name} after {writer}.{rank}")


if __name__ == "__main__":
    _train_as_a_rank(Path(sys.argv[1]))
    leave_the_ranks()
