"""Callbacks and loggers that a configuration names: which are allowed, and what they do in a training."""

import csv
import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch

from tunetrail.config import TrainingConfig
from tunetrail.config.trainer import TrainerConfig
from tunetrail.config.training import BatchesConfig
from tunetrail.errors import ConfigError, TrainingError
from tunetrail.learning.embedding.data import EmbeddingDataModule
from tunetrail.learning.embedding.module import EmbeddingModule
from tunetrail.learning.fit_result import FitResult
from tunetrail.learning.fitting import fit, optimization_settings
from tunetrail.learning.named_classes.callbacks import (
    CALLBACKS,
    build_callbacks,
    check_early_stopping,
)
from tunetrail.learning.named_classes.loggers import LOGGERS, check_loggers, logging_to
from tunetrail.learning.training_plan import TrainingPlan

PAIRS = [{"anchor": f"question {n}", "positive": f"the answer is {n * 7}"} for n in range(24)]
TRAINING = TrainingConfig(
    batch_size=4,
    num_epochs=2,
    warmup_steps=0,
    learning_rate=1e-3,
    logging_steps=1,
    validations_per_epoch=1,
)
Reports = list[tuple[int, dict[str, float]]]

PACKAGE = """
from pytorch_lightning import Callback
from pytorch_lightning.loggers import CSVLogger

class StopAt(Callback):
    '''Asks for the end after a micro-batch.'''

    def __init__(self, batch: int, note: str = '') -> None:
        self.batch = batch

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
        trainer.should_stop = trainer.should_stop or batch_index >= self.batch

class Broken(Callback):
    def __init__(self, server: str, api_key: str = '') -> None:
        raise ConnectionError(f'no answer\\nfrom {server}')

class Postponed(Callback):
    def __init__(self, rate: 'float | None' = None, *steps: int, **further: str) -> None:
        self.rate = rate

class Lines(CSVLogger):
    pass

class Offline(CSVLogger):
    def log_hyperparams(self, params):
        raise PermissionError('no login\\n(run login)')

WRONG = 3
"""
ENTRY_POINTS = """
[tunetrail.callbacks]
StopAt = stopping:StopAt
Broken = stopping:Broken
Postponed = stopping:Postponed
Wrong = stopping:WRONG
Gone = stopping:NOTHING
[tunetrail.loggers]
Lines = stopping:Lines
Offline = stopping:Offline
"""


@pytest.fixture
def package(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """An installed package `stopping` with callbacks and a logger of its own."""
    folder = tmp_path_factory.mktemp("package")
    metadata = folder / "stopping-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: stopping\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    (folder / "stopping.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(folder))

    yield

    sys.modules.pop("stopping", None)


def fitted(
    path: str,
    folder: Path,
    callbacks: Mapping[str, Any],
    training: TrainingConfig = TRAINING,
    *,
    validation: Any = PAIRS,
) -> tuple[EmbeddingModule, FitResult, Reports]:
    module = EmbeddingModule(
        model=path, shape="pair", optimization=optimization_settings(training), seed=0
    )
    data = EmbeddingDataModule(
        train=PAIRS,
        validation=validation,
        shape="pair",
        batch_size=training.rows_per_batch,
        batches=training.batches,
    )
    reports: Reports = []
    plan = TrainingPlan(
        folder=folder,
        on_metrics=lambda metrics, step: reports.append((step, dict(metrics))),
        validate=bool(validation),
        trainer=TrainerConfig(callbacks=dict(callbacks)),
    )
    return module, fit(module, data, training, plan, seed=0), reports


def steps_of(reports: Reports, name: str) -> list[int]:
    return [step for step, metrics in reports if name in metrics]


@pytest.mark.parametrize("allowed", [CALLBACKS, LOGGERS], ids=lambda allowed: allowed.section)
def test_every_allowed_class_has_the_arguments_that_can_be_set(allowed: Any) -> None:
    """A new version of Lightning may rename one."""
    module = getattr(lightning, allowed.module)
    for name, allowed_class in allowed.classes.items():
        parameters = inspect.signature(getattr(module, name)).parameters
        for argument, rule in allowed_class.arguments.items():
            assert argument in parameters or (rule is not None and "kwargs" in parameters)
        assert issubclass(getattr(module, name), allowed.base)


@pytest.mark.parametrize(
    "target",
    [
        "Timer",
        "pytorch_lightning.callbacks.Timer",
        "lightning.pytorch.callbacks.Timer",
    ],
)
def test_a_class_is_named_by_its_name_or_its_path(target: str) -> None:
    callbacks = build_callbacks({"limit": {"_target_": target, "duration": "00:01:00:00"}})

    (timer,) = callbacks.values()
    assert isinstance(timer, lightning.callbacks.Timer)
    assert timer.time_remaining() == 3600.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"_target_": "os.system"},
            r"^trainer\.callbacks\.mine\._target_ must be one of DeviceStatsMonitor, EarlyStopping, "
            r"LearningRateMonitor, .*Timer, got 'os\.system'\.$",
        ),
        ({"_target_": "pytorch_lightning.callbacks.Timr"}, r"Did you mean 'Timer'\?$"),
        ({"_target_": "pytorch_lightning.loggers.Timer"}, r"must be one of "),
        ({"_target_": "pytorch_lightning.callbacks.LambdaCallback"}, r"must be one of "),
        (
            {"_target_": "StochasticWeightAveraging", "swa_lrs": 0.1},
            r"got 'Stoch.*'\. Use training\.averaging\.kind=swa instead\.$",
        ),
        (
            {"_target_": "GradientAccumulationScheduler", "scheduling": {0: 2}},
            r"Use training\.batches\.accumulate instead\.$",
        ),
        (
            {"_target_": "DeviceStatsMonitor", "cpu_stat": True},
            r"^trainer\.callbacks\.mine\.cpu_stat must be an argument of DeviceStatsMonitor that can be "
            r"set \(cpu_stats\), got 'cpu_stat'\. Did you mean 'cpu_stats'\?$",
        ),
        ({"_target_": "Timer", "_partial_": True}, r"\._partial_ must be an argument of Timer"),
        (
            {"_target_": "Timer", "verbose": True},
            r"of Timer that can be set \(duration, interval\)",
        ),
        (
            {"_target_": "DeviceStatsMonitor", "cpu_stats": "yes"},
            r"^trainer\.callbacks\.mine\.cpu_stats must be true or false or null, got 'yes'\.$",
        ),
        (
            {"_target_": "LearningRateMonitor", "logging_interval": "steps"},
            r"\.logging_interval must be 'step' or 'epoch' or null, got 'steps'\.$",
        ),
        (
            {"_target_": "EarlyStopping", "monitor": "val/loss", "patience": 2.5},
            r"\.patience must be an integer, got 2\.5\.$",
        ),
        (
            {"_target_": "EarlyStopping", "monitor": "val/loss", "patience": True},
            r"\.patience must be an integer, got True\.$",
        ),
        (
            {"_target_": "EarlyStopping", "monitor": "val/loss", "patience": 0},
            r"\.patience must be at least 1, got 0\.$",
        ),
        (
            {"_target_": "EarlyStopping", "monitor": "loss"},
            r"\.monitor must be one of val/loss, val/preference_accuracy, train/loss, .*, got 'loss'",
        ),
        (
            {"_target_": "EarlyStopping"},
            r"^trainer\.callbacks\.mine\.monitor must be given, since EarlyStopping has no default",
        ),
        (
            {"_target_": "Timer", "duration": 12},
            r"\.duration must be a text or a mapping or null, got 12\.$",
        ),
        (
            {"_target_": "Timer", "duration": "12"},
            r"^trainer\.callbacks\.mine must have arguments that Timer accepts, got "
            r"\{'_target_': 'Timer', 'duration': '12'\}\. .*DD:HH:MM:SS\.$",
        ),
        ({"_target_": "RichModelSummary", "max_depth": -2}, r"must be at least -1, got -2\.$"),
        (
            {"_target_": "ThroughputMonitor"},
            r"Use train/tokens_per_second and .* reports, instead\.$",
        ),
    ],
)
def test_what_is_not_allowed_is_refused_in_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build_callbacks({"mine": values})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"_target_": "MLFlowLogger"},
            r"^trainer\.logger\.mine\._target_ must be one of CSVLogger, TensorBoardLogger, "
            r"WandbLogger, got 'MLFlowLogger'\. Use tracking\.uri instead\.$",
        ),
        ({"_target_": "Timer"}, r"must be one of CSVLogger"),
        (
            {"_target_": "CSVLogger", "save_dir": "/etc"},
            r"\.save_dir must be an argument of CSVLogger",
        ),
        ({"_target_": "CSVLogger", "prefix": 3}, r"\.prefix must be a text, got 3\.$"),
        (
            {"_target_": "CSVLogger", "api_key": "hunter2"},
            r"\.api_key must not be set, since runs record their configuration\. Put the secret",
        ),
    ],
)
def test_loggers_that_are_not_allowed_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check_loggers({"mine": values})
    assert "hunter2" not in str(caught.value)


def test_a_logger_whose_package_is_missing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "tunetrail.learning.named_classes.allowed_classes.find_spec", lambda name: None
    )
    message = (
        r"^trainer\.logger\.board\._target_ must name a class whose package is installed, got "
        r"'TensorBoardLogger'\. Install it: pip install tensorboard$"
    )
    with pytest.raises(ConfigError, match=message):
        check_loggers({"board": {"_target_": "TensorBoardLogger"}})


def test_two_callbacks_that_would_share_their_state_are_refused() -> None:
    stop = {"_target_": "EarlyStopping", "monitor": "train/loss"}
    further = {"_target_": "EarlyStopping", "monitor": "train/gradient_norm"}
    assert set(build_callbacks({"a": stop, "b": further})) == {"a", "b"}

    message = (
        r"^trainer\.callbacks\.c must differ from trainer\.callbacks\.a, got EarlyStopping twice"
    )
    with pytest.raises(ConfigError, match=message):
        build_callbacks({"a": stop, "b": further, "c": {**stop, "patience": 9}})


def test_early_stopping_that_watches_what_is_watched_is_refused() -> None:
    callbacks = build_callbacks({"stop": {"_target_": "EarlyStopping", "monitor": "val/loss"}})

    message = (
        r"^trainer\.callbacks\.stop\.monitor must be a metric other than val/loss, which "
        r"llm\.training\.early_stopping_patience=3 watches, got 'val/loss'\. Add callbacks=no_early"
    )
    with pytest.raises(ConfigError, match=message):
        check_early_stopping(callbacks, TrainingConfig(monitor="val/loss"), "llm", None)
    training = TrainingConfig(monitor="val/loss", early_stopping_patience=0)
    check_early_stopping(callbacks, training, "llm", None)
    # The built-in early stopping watches another metric.
    check_early_stopping(callbacks, TrainingConfig(), "llm", None)


def test_early_stopping_on_a_metric_that_is_not_logged_is_refused() -> None:
    stop = {"_target_": "EarlyStopping", "monitor": "val/preference_accuracy", "mode": "max"}
    callbacks = build_callbacks({"stop": stop})

    with pytest.raises(ConfigError, match=r"must be a metric that embedding logs, got 'val/pref"):
        check_early_stopping(callbacks, TrainingConfig(), "embedding", None)
    training = TrainingConfig(monitor="val/loss")
    check_early_stopping(callbacks, training, "llm", "preference")
    message = r"must be a metric other than val/preference_accuracy, which llm\.training\.early"
    with pytest.raises(ConfigError, match=message):
        check_early_stopping(callbacks, TrainingConfig(), "llm", "preference")


def test_callbacks_of_an_installed_package_are_allowed(package: None) -> None:
    by_name = build_callbacks({"stop": {"_target_": "StopAt", "batch": 3}})
    by_path = build_callbacks({"stop": {"_target_": "stopping.StopAt", "batch": 3, "note": "x"}})

    assert [type(each["stop"]).__name__ for each in (by_name, by_path)] == ["StopAt", "StopAt"]
    assert build_callbacks({"mine": {"_target_": "Postponed", "rate": 1}})
    check_loggers({"lines": {"_target_": "Lines", "prefix": "x"}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"_target_": "StopAt"}, r"\.batch must be given, since StopAt has no default for it\.$"),
        ({"_target_": "StopAt", "batch": "x"}, r"\.batch must be an integer, got 'x'\.$"),
        (
            {"_target_": "stopping.os"},
            r"must be one of .*, Timer, Broken, Gone, Postponed, StopAt, Wrong",
        ),
        ({"_target_": "Postponed", "rate": "x"}, r"\.rate must be a number or null, got 'x'\.$"),
        (
            {"_target_": "Postponed", "steps": 3},
            r"an argument of Postponed that can be set \(rate\)",
        ),
        ({"_target_": "Lines"}, r"_target_ must be one of "),
        (
            {"_target_": "Wrong"},
            r"'Wrong' of the package stopping 1\.0 can't be used: it must be a class that derives from Callback, got 3",
        ),
        (
            {"_target_": "Gone"},
            r"'Gone' of .* can't be used: AttributeError: .*\. Update or uninstall the package\.$",
        ),
        ({"_target_": "Broken", "server": "s"}, r"Broken accepts, got .*\. no answer from s$"),
        ({"_target_": "Broken", "server": "s", "api_key": "hunter2"}, r"\.api_key must not be set"),
    ],
)
def test_wrong_entries_of_a_package_are_named_in_one_line(
    package: None, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build_callbacks({"mine": values})
    assert "\n" not in str(caught.value) and "hunter2" not in str(caught.value)


def test_callbacks_log_next_to_the_training_and_change_nothing(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    callbacks = {
        "stats": {"_target_": "DeviceStatsMonitor"},
        "rates": {"_target_": "LearningRateMonitor", "log_momentum": True},
        "limit": {"_target_": "Timer", "duration": {"days": 9}},
    }

    plain, expected, expected_reports = fitted(tiny_embedding_model, tmp_path / "plain", {})
    module, result, reports = fitted(tiny_embedding_model, tmp_path / "named", callbacks)

    for name, weight in plain.state_dict().items():
        assert torch.equal(module.state_dict()[name], weight)
    assert result.history["train/loss"] == expected.history["train/loss"]
    assert result.history.keys() == expected.history.keys()
    # The metrics of the training come once, from its reporter.
    for name in ("train/loss", "train/gradient_norm", "val/loss"):
        assert steps_of(reports, name) == steps_of(expected_reports, name)
    assert steps_of(reports, "epoch") == []
    # Before the step that a number belongs to, so from 0.
    assert steps_of(reports, "lr-AdamW/pg1-momentum") == list(range(12))
    assert steps_of(reports, "DeviceStatsMonitor.on_train_batch_start/cpu_percent") == list(
        range(12)
    )


def test_callbacks_log_every_few_steps(tiny_embedding_model: str, tmp_path: Path) -> None:
    training = TrainingConfig(
        **{**vars(TRAINING), "logging_steps": 4, "batches": BatchesConfig(accumulate=2)}
    )
    callbacks = {"rates": {"_target_": "LearningRateMonitor"}}

    _, result, reports = fitted(tiny_embedding_model, tmp_path, callbacks, training)

    assert result.steps == 6
    assert sorted(set(steps_of(reports, "lr-AdamW/pg1"))) == [3]


@pytest.mark.parametrize(("batch", "steps"), [(0, 1), (1, 1), (2, 2), (5, 3)])
def test_a_callback_that_asks_for_the_end_gets_it_after_a_whole_step(
    tiny_embedding_model: str,
    tmp_path: Path,
    package: None,
    caplog: pytest.LogCaptureFixture,
    batch: int,
    steps: int,
) -> None:
    training = TrainingConfig(
        **{**vars(TRAINING), "num_epochs": 3, "batches": BatchesConfig(accumulate=2)}
    )
    callbacks = {"stop": {"_target_": "StopAt", "batch": batch}}
    caplog.set_level(logging.INFO, "tunetrail")

    _, result, reports = fitted(tiny_embedding_model, tmp_path, callbacks, training)

    assert (result.steps, result.stopped_early) == (steps, False)
    assert steps_of(reports, "val/loss") == [steps]
    assert f"training ends after step {steps}: a callback asks for it" in caplog.messages
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == steps
    assert last["callbacks"]["LastCheckpoint"]["stopping"]


def test_early_stopping_on_a_further_metric(tiny_embedding_model: str, tmp_path: Path) -> None:
    stop = {"_target_": "EarlyStopping", "monitor": "train/loss", "stopping_threshold": 1e9}

    _, result, _ = fitted(tiny_embedding_model, tmp_path, {"stop": stop})

    assert (result.steps, result.stopped_early) == (6, True)


def test_early_stopping_does_nothing_if_a_validation_judges_nothing(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    stop = {"_target_": "EarlyStopping", "monitor": "train/loss", "stopping_threshold": 1e9}

    for validation in ([], PAIRS[:1]):
        _, result, _ = fitted(tiny_embedding_model, tmp_path, {"stop": stop}, validation=validation)
        assert (result.steps, result.stopped_early) == (12, False)


def test_loggers_get_the_metrics_before_the_sink(tmp_path: Path) -> None:
    loggers = {"a": {"_target_": "CSVLogger"}, "b": {"_target_": "CSVLogger", "prefix": "x"}}
    received: Reports = []

    def sink(metrics: Mapping[str, float], step: int) -> None:
        received.append((step, dict(metrics)))
        if step == 2:
            raise RuntimeError("seen enough")

    with (
        pytest.raises(RuntimeError, match="seen enough"),
        logging_to(loggers, tmp_path, sink, {"seed": 7}) as report,
    ):
        report({"train/loss": 2.0}, 1)
        report({"val/loss": 1.5}, 2)

    assert received == [(1, {"train/loss": 2.0}), (2, {"val/loss": 1.5})]
    text = (tmp_path / "a" / "version_0" / "metrics.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert rows == [
        {"step": "1", "train/loss": "2.0", "val/loss": ""},
        {"step": "2", "train/loss": "", "val/loss": "1.5"},
    ]
    assert (tmp_path / "a" / "version_0" / "hparams.yaml").read_text() == "seed: 7\n"
    assert "x-train/loss" in (tmp_path / "b" / "version_0" / "metrics.csv").read_text()


def test_a_logger_that_cannot_be_opened_is_named(package: None, tmp_path: Path) -> None:
    message = r"^trainer\.logger\.team can't be opened: PermissionError: no login \(run login\)\. Log in or"
    with (
        pytest.raises(TrainingError, match=message),
        logging_to({"team": {"_target_": "Offline"}}, tmp_path, lambda metrics, step: None, {}),
    ):
        pytest.fail("it was opened")


def test_a_resumed_training_leaves_the_file_of_a_logger_alone(tmp_path: Path) -> None:
    loggers = {"a": {"_target_": "CSVLogger"}}

    def ignore(metrics: Mapping[str, float], step: int) -> None:
        """Take metrics and forget them."""

    for step in (1, 2):
        with logging_to(loggers, tmp_path, ignore, {}) as report:
            report({"train/loss": 1.0}, step)

    files = sorted(tmp_path.rglob("metrics.csv"))
    assert [file.parent.name for file in files] == ["version_0", "version_1"]
    assert [file.read_text().splitlines()[1][:1] for file in files] == ["1", "2"]


Check = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize("check", [build_callbacks, check_loggers])
def test_nothing_named_is_nothing_built(check: Check) -> None:
    assert not check({})
