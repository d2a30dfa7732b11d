import hashlib
import logging
import math
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.utilities.exceptions import SIGTERMException

from tunetrail.config import EvaluationConfig, TrainingConfig
from tunetrail.config.language_model import AdapterConfig
from tunetrail.config.training import (
    AveragingConfig,
    BatchesConfig,
    CheckpointsConfig,
    GuardsConfig,
)
from tunetrail.errors import TrainingError
from tunetrail.learning.embedding.data import EmbeddingDataModule
from tunetrail.learning.embedding.module import EmbeddingModule
from tunetrail.learning.fit_result import FitResult
from tunetrail.learning.fitting import fit, optimization_settings
from tunetrail.learning.language_model.data import LanguageModelDataModule
from tunetrail.learning.language_model.module import LanguageModelModule, load_tokenizer
from tunetrail.learning.recovery.failures import NonFiniteError
from tunetrail.learning.recovery.guards import NonFiniteGuard, set_rate
from tunetrail.learning.tokens.chat import TokenizedExample, tokenize_record
from tunetrail.learning.training.monitored import Monitor
from tunetrail.learning.training_plan import TrainingPlan
from tunetrail.pipeline.monitoring import embedding_monitors

# Whole trainings.
pytestmark = pytest.mark.processes

VECTORS = [
    {"text": f"text {n} {'and ' * (n % 3)}", "embedding": [math.sin(n + i) for i in range(32)]}
    for n in range(16)
]
COSINE = embedding_monitors("vector", VECTORS, [], EvaluationConfig())[0]
TRAINING = TrainingConfig(
    batch_size=4,
    num_epochs=2,
    warmup_steps=0,
    learning_rate=1e-3,
    logging_steps=1,
    validations_per_epoch=1,
    early_stopping_patience=0,
)


def broken(*rows: int) -> list[dict[str, Any]]:
    """Return VECTORS with some rows whose target isn't a number."""
    return [
        {**record, "embedding": [math.nan] * 32} if row in rows else record
        for row, record in enumerate(VECTORS)
    ]


class Watched(EmbeddingModule):
    """Notes weights and learning rate before each micro-batch, and breaks the gradients it is told.

    The micro-batches count from 0 and go on after a rewind, which computes some of them again.
    """

    def __init__(self, **hparams: Any) -> None:
        super().__init__(**hparams)
        self.broken_batches: set[int] = set()
        # Each of these optimizer steps breaks at the learning rate without a rewind only.
        self.broken_steps: set[int] = set()
        self.always_broken = False
        self.stop_at = -1
        self.batches = 0
        self.before: list[str] = []
        self.rates: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        if self.batches == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        self.before.append(digest(self))
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        outputs = super().training_step(batch, batch_idx)
        self.batches += 1
        return outputs

    def loss_of(self, batch: Any) -> torch.Tensor:
        loss = super().loss_of(batch)
        step, rate = (
            self.trainer.global_step,
            self.optimizers().optimizer.param_groups[0]["initial_lr"],
        )
        is_first_time = self.trainer.lr_scheduler_configs[0].scheduler.base_lrs[0] == rate
        is_broken = self.batches in self.broken_batches or (
            step in self.broken_steps and is_first_time
        )
        if self.always_broken or is_broken:
            loss.register_hook(lambda gradient: gradient * math.nan)
        return loss


def digest(module: torch.nn.Module) -> str:
    values = [each.detach().numpy().tobytes() for each in module.parameters()]
    return hashlib.sha256(b"".join(values)).hexdigest()


def ignore(metrics: Mapping[str, float], step: int) -> None:
    """Take metrics and forget them."""


def fitted(
    path: str,
    folder: Path,
    training: TrainingConfig = TRAINING,
    *,
    train: Any = VECTORS,
    validation: Any = VECTORS,
    validate: bool = True,
    resume: Path | None = None,
    prepare: Callable[[Watched], None] = lambda module: None,
    on_metrics: Any = ignore,
    batch_size: int = 4,
) -> tuple[Watched, FitResult]:
    module = Watched(
        model=path, shape="vector", optimization=optimization_settings(training), seed=0
    )
    prepare(module)
    data = EmbeddingDataModule(
        train=train, validation=validation, shape="vector", batch_size=batch_size
    )
    result = fit(
        module,
        data,
        training,
        TrainingPlan(folder=folder, on_metrics=on_metrics, validate=validate, resume=resume),
        seed=0,
    )
    return module, result


def breaking(*batches: int) -> Callable[[Watched], None]:
    return lambda module: module.broken_batches.update(batches)


def test_guard_is_silent_where_all_is_finite(
    tiny_embedding_model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, result = fitted(tiny_embedding_model, tmp_path)
    assert (result.rewinds, list(result.skipped_rows), result.steps) == (0, [], 8)
    assert "train/rewinds" not in result.history
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_training_leaves_out_the_rows_that_are_at_fault_and_names_them(
    tiny_embedding_model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training = replace(TRAINING, batches=BatchesConfig(accumulate=2))
    module, result = fitted(tiny_embedding_model, tmp_path, training, train=broken(5))
    assert (result.rewinds, result.skipped_rows, result.steps) == (0, (5,), 4)
    assert max(module.rates) == 1e-3
    assert all(bool(weight.isfinite().all()) for weight in module.parameters())
    (message,) = (record.message for record in caplog.records if "is nan" in record.message)
    assert message.startswith("train/loss is nan at step ")
    assert "row 5 (" in message and message.endswith("tokens); left out from now on")


def test_rows_left_out_change_nothing_else(
    encoder_folder: Callable[..., str], tmp_path: Path
) -> None:
    """A step with a broken row has the loss of its other rows."""
    training = replace(TRAINING, batch_size=16, num_epochs=1)
    without = [record for row, record in enumerate(VECTORS) if row != 5]
    losses = []
    for name, train in (("broken", broken(5)), ("without", without)):
        # Without dropout, whose draws depend on the order of the rows.
        path = encoder_folder("bert")
        _, result = fitted(path, tmp_path / name, training, train=train, batch_size=16)
        losses.append([loss for _, loss in result.history["train/loss"]])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_rows_at_fault_count_as_incidents(tiny_embedding_model: str, tmp_path: Path) -> None:
    training = replace(TRAINING, num_epochs=4, guards=GuardsConfig(max_rewinds=1))
    _, result = fitted(tiny_embedding_model, tmp_path / "one", training, train=broken(5))
    assert result.skipped_rows == (5,)
    with pytest.raises(
        TrainingError, match=r"Look at rows? \d+ \(\d+ tokens\).*, or leave them out"
    ):
        fitted(tiny_embedding_model, tmp_path / "more", training, train=broken(0, 4, 8, 9, 12, 15))


def test_a_whole_batch_of_broken_rows_is_left_out(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    training = replace(TRAINING, batch_size=1)
    module, result = fitted(tiny_embedding_model, tmp_path, training, train=broken(5), batch_size=1)
    assert (result.rewinds, result.skipped_rows, result.steps) == (0, (5,), 32)
    assert all(bool(weight.isfinite().all()) for weight in module.parameters())


def test_training_goes_back_to_the_start_before_there_is_a_checkpoint(
    tiny_embedding_model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module, result = fitted(tiny_embedding_model, tmp_path, prepare=breaking(2))
    assert module.before[3] == module.before[0] != module.before[2]
    assert module.rates[3] == pytest.approx(0.5 * module.rates[0])
    assert (result.rewinds, result.skipped_rows, result.steps) == (1, (), 8)
    assert result.history["train/rewinds"] == [(0, 1)]
    assert (
        "no row has a broken loss by itself; back to the last good checkpoint, with 0.5 of the learning rate"
        in caplog.text
    )


def test_training_goes_back_to_the_last_checkpoint_with_optimizer_and_schedule(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    training = replace(TRAINING, guards=GuardsConfig(rate_factor=0.25))
    module, result = fitted(tiny_embedding_model, tmp_path, training, prepare=breaking(6))
    # The checkpoint of the validation after step 4.
    assert module.before[7] == module.before[4] != module.before[6]
    assert module.rates[7] == pytest.approx(0.25 * module.rates[4])
    assert (result.rewinds, result.steps) == (1, 8)
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    adam_steps = {int(state["step"]) for state in last["optimizer_states"][0]["state"].values()}
    assert adam_steps == {8}
    assert last["callbacks"]["LastCheckpoint"]["recovery"]["rewinds"] == 1
    assert last["lr_schedulers"][0]["base_lrs"] == pytest.approx([0.25e-3] * 2)


def test_a_checkpoint_whose_next_step_fails_is_not_trusted_again(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    """The step before a checkpoint may have ruined the weights, which only the next one shows."""
    # After 4 steps and a checkpoint, the first step from it fails twice.
    module, result = fitted(tiny_embedding_model, tmp_path, prepare=breaking(4, 5))
    assert module.before[5] == module.before[4]
    assert module.before[6] == module.before[0]
    assert (result.rewinds, result.steps) == (2, 8)


def test_training_gives_up_with_a_diagnosis(tiny_embedding_model: str, tmp_path: Path) -> None:
    training = replace(TRAINING, guards=GuardsConfig(max_rewinds=2))
    message = (
        r"train/loss must be finite, got nan at step 0\. Lower training\.learning_rate, or lengthen "
        r"training\.warmup_steps: no row that was scored has a finite loss \(rows .*\), so .* It was incident 3, after "
        r"2 rewinds, at a learning rate of 0\.00025; training\.guards\.max_rewinds=2 allows no more\."
    )
    with pytest.raises(TrainingError, match=message):
        fitted(tiny_embedding_model, tmp_path, training, train=broken(*range(16)))
    with pytest.raises(
        TrainingError, match=r"train/gradient_norm must be finite.*after 0 rewinds.*max_rewinds=0"
    ):
        stop = replace(TRAINING, guards=GuardsConfig(max_rewinds=0))
        fitted(tiny_embedding_model, tmp_path, stop, prepare=breaking(1))


def test_training_recovers_without_checkpoints(tiny_embedding_model: str, tmp_path: Path) -> None:
    training = replace(TRAINING, max_steps=4)
    module, result = fitted(
        tiny_embedding_model, tmp_path, training, prepare=breaking(2), validate=False
    )
    assert module.before[3] == module.before[0]
    assert (result.rewinds, result.steps) == (1, 4)
    assert list(tmp_path.rglob("*")) == []


def test_training_ends_with_max_steps_where_there_are_batches_left(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    training = replace(TRAINING, max_steps=6)
    _, result = fitted(tiny_embedding_model, tmp_path, training, prepare=breaking(1))
    assert (result.steps, result.history["val/loss"][-1][0]) == (6, 6)


FAULTS = broken(5)


def incidents(module: Watched) -> None:
    module.broken_steps = {7}


def with_checkpoints(every_steps: int) -> TrainingConfig:
    checkpoints = CheckpointsConfig(every_steps=every_steps)
    return replace(TRAINING, num_epochs=3, checkpoints=checkpoints)


@pytest.fixture(scope="module")
def uninterrupted(
    tiny_embedding_model: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], tuple[Watched, FitResult]]:
    """Take the steps between checkpoints, and return a whole training with its incidents."""

    @cache
    def train(every_steps: int) -> tuple[Watched, FitResult]:
        return fitted(
            tiny_embedding_model,
            tmp_path_factory.mktemp("whole"),
            with_checkpoints(every_steps),
            train=FAULTS,
            prepare=incidents,
        )

    return train


@pytest.mark.parametrize("stop_at", [2, 5, 6, 8, 10])
@pytest.mark.parametrize("every_steps", [0, 2])
def test_training_with_a_recovery_resumes_exactly(
    tiny_embedding_model: str,
    tmp_path: Path,
    uninterrupted: Callable[[int], tuple[Watched, FitResult]],
    stop_at: int,
    every_steps: int,
) -> None:
    """Rows at fault are left out, and a rewind follows; the process ends before, between or after."""
    training = with_checkpoints(every_steps)
    whole, expected = uninterrupted(every_steps)

    def stopping(module: Watched) -> None:
        incidents(module)
        module.stop_at = stop_at

    with pytest.raises(SIGTERMException):
        fitted(tiny_embedding_model, tmp_path, training, train=FAULTS, prepare=stopping)
    last = tmp_path / "checkpoints" / "last.ckpt"
    resumed, result = fitted(
        tiny_embedding_model,
        tmp_path,
        training,
        train=FAULTS,
        prepare=incidents,
        resume=last if last.exists() else None,
    )

    assert digest(resumed) == digest(whole)
    assert (result.rewinds, result.skipped_rows, result.steps) == (
        1,
        expected.skipped_rows,
        expected.steps,
    )


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_rewind_brings_the_averaged_weights_back_too(
    tiny_embedding_model: str, tmp_path: Path, kind: str
) -> None:
    training = replace(TRAINING, averaging=AveragingConfig(kind=kind, start=0.0))
    module, result = fitted(tiny_embedding_model, tmp_path, training, prepare=breaking(6))
    assert module.before[7] == module.before[4] != module.before[6]
    assert result.rewinds == 1
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    # One per step: those that the rewind undid count no more.
    assert last["averaging"]["updates"] == 8


def test_rewind_before_an_average_has_begun_leaves_nothing_averaged(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    training = replace(TRAINING, averaging=AveragingConfig(kind="swa", start=0.5))
    _, result = fitted(tiny_embedding_model, tmp_path, training, prepare=breaking(2))
    assert result.rewinds == 1
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["averaging"]["updates"] == 4  # steps 5 to 8


@pytest.mark.parametrize("monitor", [Monitor(), COSINE])
def test_validation_loss_that_is_not_finite_brings_the_last_checkpoint_back(
    tiny_embedding_model: str, tmp_path: Path, monitor: Monitor
) -> None:
    class Lost(Watched):
        """Loses its weights once, after the step that ends the second epoch."""

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            super().on_train_batch_end(outputs, batch, batch_idx)
            if self.batches == 8:
                for parameter in self.parameters():
                    parameter.data.fill_(math.nan)

    training = replace(TRAINING, num_epochs=3, early_stopping_patience=1)
    module = Lost(
        model=tiny_embedding_model, shape="vector", optimization=optimization_settings(training)
    )
    data = EmbeddingDataModule(train=VECTORS, validation=VECTORS, shape="vector", batch_size=4)
    plan = TrainingPlan(folder=tmp_path, on_metrics=ignore, monitor=monitor)
    result = fit(module, data, training, plan, seed=0)
    assert (result.rewinds, result.stopped_early, result.skipped_rows) == (1, False, ())
    assert math.isfinite(result.history[monitor.key][-1][1])
    assert module.before[8] == module.before[4]
    assert math.isfinite(result.history["val/loss"][-1][1])


def test_validation_rows_without_a_finite_loss_are_named(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    with pytest.raises(
        TrainingError,
        match=r"val/loss must be finite, got nan at step 4 because of row 3 \(\d+ tokens\) of the",
    ):
        fitted(tiny_embedding_model, tmp_path, validation=broken(3))


class WatchedLanguageModel(LanguageModelModule):
    """Notes the weights before each step, and breaks the gradients of the second and the eighth."""

    def __init__(self, **hparams: Any) -> None:
        super().__init__(**hparams)
        self.before: list[str] = []

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        self.before.append(digest(self))
        return super().training_step(batch, batch_idx)

    def loss_of(self, batch: Any) -> torch.Tensor:
        loss = super().loss_of(batch)
        if len(self.before) - 1 in (1, 7):
            loss.register_hook(lambda gradient: gradient * math.nan)
        return loss


def language_examples(path: str) -> list[TokenizedExample]:
    tokenizer = load_tokenizer(path)
    return [
        tokenize_record(tokenizer, {"input": f"say {n}", "output": "a" * n}, 64)
        for n in range(1, 9)
    ]


@pytest.mark.parametrize("adapter", [None, asdict(AdapterConfig(rank=4))])
@pytest.mark.parametrize("validate", [False, True])
def test_language_model_goes_back_to_its_start_and_to_its_checkpoint(
    tiny_language_model: str, tmp_path: Path, adapter: dict[str, Any] | None, validate: bool
) -> None:
    examples = language_examples(tiny_language_model)
    module = WatchedLanguageModel(
        model=tiny_language_model, adapter=adapter, optimization=optimization_settings(TRAINING)
    )
    data = LanguageModelDataModule(train=examples, validation=examples[:3], batch_size=2)
    result = fit(
        module,
        data,
        TRAINING,
        TrainingPlan(folder=tmp_path, on_metrics=ignore, validate=validate),
        seed=0,
    )
    assert module.before[2] == module.before[0] != module.before[1]
    # The second attempt has taken five steps, one of them after the validation of the first epoch.
    assert module.before[8] == module.before[6 if validate else 0] != module.before[7]
    assert (result.rewinds, result.skipped_rows, result.steps) == (2, (), 8)


def test_language_model_names_the_example_that_is_at_fault(
    tiny_language_model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    examples = language_examples(tiny_language_model)
    examples[3] = replace(examples[3], weight=math.nan)
    module = LanguageModelModule(
        model=tiny_language_model, optimization=optimization_settings(TRAINING)
    )
    data = LanguageModelDataModule(train=examples, validation=examples[:3], batch_size=2)
    result = fit(module, data, TRAINING, TrainingPlan(folder=tmp_path, on_metrics=ignore), seed=0)
    assert (result.rewinds, result.skipped_rows) == (0, (3,))
    assert f"row 3 ({len(examples[3].input_ids)} tokens); left out from now on" in caplog.text


def test_set_rate_changes_all_learning_rates_of_a_schedule() -> None:
    parameters = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    optimizer = torch.optim.SGD(
        [{"params": [parameters[0]], "lr": 1.0}, {"params": [parameters[1]], "lr": 0.1}]
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 / (step + 1))
    optimizer.step()
    scheduler.step()
    set_rate(optimizer, scheduler, 0.5)
    assert (
        [group["lr"] for group in optimizer.param_groups]
        == [0.25, 0.025]
        == scheduler.get_last_lr()
    )
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.5 / 3, 0.05 / 3])
    set_rate(optimizer, scheduler, 1.0)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1.0 / 3, 0.1 / 3])


def test_gradients_of_fp16_count_once_their_scale_can_fall_no_further(
    tiny_embedding_model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module = Watched(
        model=tiny_embedding_model,
        shape="vector",
        optimization={"learning_rate": 1e-3},
    )
    module.train().always_broken = True
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        plugins=[
            MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=4.0))
        ],
        callbacks=[NonFiniteGuard()],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        default_root_dir=tmp_path,
    )
    data = EmbeddingDataModule(train=VECTORS, validation=[], shape="vector", batch_size=4)

    with pytest.raises(NonFiniteError, match=r"train/gradient_norm is nan at step 3"):
        trainer.fit(module, datamodule=data)

    # At the scales 4, 2 and 1 the scaler skips the steps, and the schedule stays.
    assert module.batches == 4
    assert set(module.rates) == {module.rates[0]}
