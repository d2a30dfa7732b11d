import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as lightning
import torch

from tunetrail.config import TrainingConfig
from tunetrail.config.training import AveragingConfig, BatchesConfig, GuardsConfig, OptimizerConfig
from tunetrail.errors import ConfigError, SampleError, TrainingError
from tunetrail.learning.embedding.data import EmbeddingDataModule
from tunetrail.learning.embedding.encoder import transformer_of
from tunetrail.learning.embedding.module import EmbeddingModule
from tunetrail.learning.embedding.preflight import EMBEDDING_CHECKS
from tunetrail.learning.fit_result import FitResult
from tunetrail.learning.fitting import fit, optimization_settings
from tunetrail.learning.preflight import machine
from tunetrail.learning.preflight.checks import sampled, share
from tunetrail.learning.preflight.findings import PreflightReport, Severity, error, ok, warning
from tunetrail.learning.preflight.machine import checkpoint_bytes, worst_rows
from tunetrail.learning.training_plan import TrainingPlan

PAIRS = [
    {"anchor": f"question {n} {'why ' * (n % 5)}", "positive": f"it is {n * 7}"} for n in range(16)
]
TRAINING = TrainingConfig(num_epochs=2, warmup_steps=0, early_stopping_patience=0)


class Watched(EmbeddingModule):
    """Notes what it is before its first step."""

    def on_train_epoch_start(self) -> None:
        if self.trainer.global_step == 0:
            self.state = (
                self.training,
                self.mini_batch_size,
                torch.get_rng_state(),
                np.random.get_state()[1].tolist(),
            )
            self.gradients = [parameter.grad for parameter in self.parameters()]


def trained(
    path: str,
    folder: Path,
    training: TrainingConfig = TRAINING,
    *,
    records: Any = PAIRS,
    validation: Any = PAIRS,
    validate: bool = True,
    prepare: Callable[[Watched], Any] = lambda module: None,
) -> tuple[Watched, FitResult]:
    module = Watched(model=path, shape="pair", optimization=optimization_settings(training))
    prepare(module)
    data = EmbeddingDataModule(
        train=records, validation=validation, shape="pair", batch_size=4, batches=training.batches
    )
    result = fit(
        module,
        data,
        training,
        TrainingPlan(folder=folder, on_metrics=lambda metrics, step: None, validate=validate),
        seed=0,
        checks=EMBEDDING_CHECKS,
    )
    return module, result


def digest(module: torch.nn.Module) -> str:
    return hashlib.sha256(
        b"".join(parameter.detach().numpy().tobytes() for parameter in module.parameters())
    ).hexdigest()


def limited(tokens: int) -> Callable[[EmbeddingModule], None]:
    """Let forward passes of more tokens fail in training."""

    def prepare(module: EmbeddingModule) -> None:
        transformer = transformer_of(module.model)
        forward = transformer.forward

        def checked(*arguments: Any, **keywords: Any) -> Any:
            if module.training and keywords["input_ids"].numel() > tokens:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
            return forward(*arguments, **keywords)

        transformer.forward = checked

    return prepare


def test_preflight_changes_nothing_that_the_training_draws_or_learns(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    off = replace(TRAINING, guards=GuardsConfig(preflight=False))
    with_checks, checked = trained(tiny_embedding_model, tmp_path / "on")

    without, plain = trained(tiny_embedding_model, tmp_path / "off", off)

    assert digest(with_checks) == digest(without)
    assert checked.history["train/loss"] == plain.history["train/loss"]
    assert plain.preflight is None and plain.to_dict()["preflight"] is None
    assert checked.preflight is not None and checked.preflight.seconds >= 0
    for one, second in zip(with_checks.state, without.state, strict=True):
        assert torch.equal(one, second) if isinstance(one, torch.Tensor) else one == second
    assert with_checks.gradients == without.gradients == [None] * len(with_checks.gradients)


def test_broken_weights_keep_the_training_from_beginning(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    def break_weights(module: Watched) -> None:
        next(module.parameters()).data.fill_(float("nan"))

    with pytest.raises(
        TrainingError,
        match=r"train/loss must be finite, got nan before the first step: the model's",
    ):
        trained(tiny_embedding_model, tmp_path, prepare=break_weights)


def test_report_becomes_plain_values_and_text(tiny_embedding_model: str, tmp_path: Path) -> None:
    _, result = trained(tiny_embedding_model, tmp_path)

    plain = json.loads(json.dumps(result.to_dict()))["preflight"]
    names = [
        "rows per batch",
        "pairs",
        "lengths",
        "settings",
        "validation",
        "early stopping",
        "worst batch",
        "disk",
        "packing",
    ]
    assert [finding["name"] for finding in plain["findings"]] == names
    assert {finding["severity"] for finding in plain["findings"]} == {"ok"}
    assert "preview" not in plain

    text = str(result.preflight)
    assert "ok       worst batch: 4 rows with" in text and "Row 0:" in text


def test_report_raises_its_error_by_its_kind() -> None:
    findings = [
        ok("one", "fine"),
        warning("two", "so so"),
        error("three", "Raise it.", ConfigError),
    ]
    report = PreflightReport(findings=findings, preview="", seconds=0.1)

    with pytest.raises(ConfigError, match=r"Raise it\."):
        report.raise_error()

    PreflightReport(findings=findings[:2], preview="", seconds=0.1).raise_error()


def test_preflight_of_a_fold_checks_the_rows_only_and_tells_no_warnings(
    tiny_embedding_model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    equal = [record | {"positive": record["anchor"]} for record in PAIRS]
    records = [*equal[:2], *PAIRS[2:]]

    _, result = trained(
        tiny_embedding_model, tmp_path, records=records, validation=[], validate=False
    )

    assert result.preflight is not None
    assert [
        finding.severity for finding in result.preflight.findings if finding.name == "pairs"
    ] == [Severity.WARNING]
    assert "worst batch" not in [finding.name for finding in result.preflight.findings]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    with pytest.raises(SampleError, match="of the anchors equal their positive"):
        trained(tiny_embedding_model, tmp_path, records=equal, validation=[], validate=False)


@pytest.mark.filterwarnings("ignore:Total length of `MicroBatchLoader` across ranks is zero")
def test_preflight_refuses_a_training_without_validation_rows(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    with pytest.raises(
        SampleError,
        match=r"The validation must have rows, got none.*Raise split\.validation_share\.",
    ):
        trained(tiny_embedding_model, tmp_path, validation=[])
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_worst_batch_that_does_not_fit_goes_through_in_pieces(
    tiny_embedding_model: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    accumulate: int,
) -> None:
    monkeypatch.setattr(machine, "CATCHABLE", ("cpu",))  # where torch says so
    training = replace(TRAINING, num_epochs=1, batches=BatchesConfig(accumulate=accumulate))

    module, result = trained(tiny_embedding_model, tmp_path, training, prepare=limited(90))

    assert module.state[1] == 2  # before the first step
    assert result.preflight is not None

    (finding,) = result.preflight.of(Severity.WARNING)
    assert finding.name == "worst batch"
    assert "4 rows with" in finding.message and "mini-batches of 2 rows" in finding.message
    assert "worst batch: 4 rows" in caplog.text


def test_row_that_does_not_fit_keeps_the_training_from_beginning(
    tiny_embedding_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        TrainingError, match=r"the longest row must fit into the .* GiB that are free"
    ):
        trained(tiny_embedding_model, tmp_path, prepare=limited(5))

    monkeypatch.setattr(machine, "CATCHABLE", ("cpu",))

    with pytest.raises(
        TrainingError, match=r"one row alone doesn't fit into memory\. Lower max_length"
    ):
        trained(tiny_embedding_model, tmp_path, prepare=limited(5))


@pytest.mark.parametrize(("rows", "pieces"), [(4.0, 0), (2.6, 0), (2.4, 3), (1.0, 1)])
def test_memory_of_the_worst_batch_is_estimated_where_nothing_says_that_it_is_full(
    tiny_embedding_model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows: float,
    pieces: int,
) -> None:
    monkeypatch.setattr(
        machine.ModuleProbe, "memory", lambda probe, rows, mini_batch_size: 500 + 500 * len(rows)
    )
    monkeypatch.setattr(machine, "state_bytes", lambda module, training: (100, 200))
    monkeypatch.setattr(machine, "free_memory", lambda device: int(300 + rows * 1000))
    same = [record | {"anchor": "a question"} for record in PAIRS]

    module, result = trained(tiny_embedding_model, tmp_path, records=same)

    assert module.state[1] == pieces
    assert result.preflight is not None
    assert [finding.name for finding in result.preflight.of(Severity.WARNING)] == (
        ["worst batch"] if pieces else []
    )


def test_memory_that_is_not_there_keeps_the_training_from_beginning(
    tiny_embedding_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda device: 1000)
    with pytest.raises(
        TrainingError, match=r"the longest row must fit into the 9\.3e-07 GiB that are"
    ):
        trained(tiny_embedding_model, tmp_path)


def test_optimizer_state_that_does_not_fit_keeps_the_training_from_beginning(
    tiny_embedding_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "CATCHABLE", ("cpu",))
    monkeypatch.setattr(machine, "state_bytes", lambda module, training: (0, 2**60))

    with pytest.raises(
        TrainingError, match=r"the optimizer's state doesn't fit into memory next to the model\."
    ):
        trained(tiny_embedding_model, tmp_path)


def test_settings_without_effect_are_told_and_nothing_else_changes(
    tiny_embedding_model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    useless = replace(
        TRAINING, optimizer=OptimizerConfig(momentum=0.5), averaging=AveragingConfig(decay=0.9)
    )

    module, result = trained(tiny_embedding_model, tmp_path / "useless", useless)

    assert result.preflight is not None

    (finding,) = result.preflight.of(Severity.WARNING)
    assert finding.name == "settings"
    assert finding.message == (
        "training.optimizer.momentum=0.5 has no effect with training.optimizer.name=adamw, only with sgd. "
        "training.averaging.decay=0.9 has no effect with training.averaging.kind=none, only with ema."
    )
    assert finding.message in caplog.text
    assert digest(module) == digest(trained(tiny_embedding_model, tmp_path / "plain")[0])


def test_disk_that_is_too_full_keeps_the_training_from_beginning(
    tiny_embedding_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))

    with pytest.raises(
        TrainingError,
        match=r"The disk is too full: checkpoints need .* GiB, and .* GiB are free in /",
    ):
        trained(tiny_embedding_model, tmp_path / "not" / "there")


@pytest.mark.parametrize("kind", ["none", "ema"])
def test_checkpoint_bytes_are_those_of_the_file(
    tiny_embedding_model: str, tmp_path: Path, kind: str
) -> None:
    training = replace(TRAINING, averaging=AveragingConfig(kind=kind))
    module, _ = trained(tiny_embedding_model, tmp_path, training=training)

    size = (tmp_path / "checkpoints" / "last.ckpt").stat().st_size
    assert checkpoint_bytes(module, averages=kind != "none") == pytest.approx(
        size, rel=0.25
    )  # tiny weights beside a header each


def test_worst_rows_are_the_longest_of_a_batch() -> None:
    lengths = np.array([3, 9, 1, 7, 5])

    assert worst_rows(lengths, 2) == [1, 3]
    assert worst_rows(lengths, 10) == [1, 3, 4, 0, 2]
    assert worst_rows(lengths, 2, total_length=8) == [1]
    assert worst_rows(lengths, 2, total_length=20) == [1, 3, 4]
    assert worst_rows(lengths, 2, total_length=100) == [1, 3, 4, 0, 2]


def test_sampled_spreads_evenly() -> None:
    assert sampled(range(10), 100) == list(range(10))
    assert sampled(range(10), 4) == [0, 3, 6, 9]
    assert sampled([], 4) == []
    assert share(1, 8) == "12.5 %"


def test_preflight_lets_other_modules_be() -> None:
    from tunetrail.learning.preflight.running import preflight

    report = preflight(
        lightning.Trainer(logger=False, accelerator="cpu", barebones=True),
        lightning.LightningModule(),
    )
    assert (list(report.findings), report.preview) == ([], "")


@pytest.mark.parametrize(
    ("values", "validations", "way_out"),
    [
        # The specification's own numbers, with one validation per epoch.
        ({"num_epochs": 3, "early_stopping_patience": 3}, 3, "training.validations_per_epoch=2"),
        ({"num_epochs": 1, "early_stopping_patience": 5}, 1, "Train for more epochs"),
        ({"num_epochs": 5, "early_stopping_patience": 40}, 5, "early_stopping_patience=3"),
    ],
)
def test_patience_that_can_never_end_is_told_with_a_way_out(
    tiny_embedding_model: str,
    tmp_path: Path,
    values: dict[str, int],
    validations: int,
    way_out: str,
) -> None:
    training = replace(TRAINING, validations_per_epoch=1, **values)

    _, result = trained(tiny_embedding_model, tmp_path, training)

    assert len(result.history["val/loss"]) == validations
    assert result.preflight is not None
    (finding,) = result.preflight.of(Severity.WARNING)
    assert finding.name == "early stopping"
    assert f"with {validations} validations before its end" in finding.message
    assert way_out in finding.message


def test_the_way_out_lets_the_training_stop(tiny_embedding_model: str, tmp_path: Path) -> None:
    training = replace(TRAINING, num_epochs=3, early_stopping_patience=3, validations_per_epoch=2)

    _, result = trained(tiny_embedding_model, tmp_path, training)

    assert len(result.history["val/loss"]) == 6
    assert result.preflight is not None and result.preflight.of(Severity.WARNING) == []
