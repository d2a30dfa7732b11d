import dataclasses
import re
import runpy
from functools import cache
from itertools import zip_longest
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from tunetrail.cli.composition import checked_request, register_schema
from tunetrail.config import TrainRequest
from tunetrail.learning.named_classes.callbacks import CALLBACKS
from tunetrail.learning.named_classes.loggers import LOGGERS
from tunetrail.paths import conf_dir, experiments_dir

GROUP_FILES = sorted(file.relative_to(conf_dir()) for file in conf_dir().glob("*/*.yaml"))
# Each option of these groups has a test of its own.
TRAINING_GROUPS = ("optimizer", "schedule", "trainer", "callbacks", "logger")
EXPERIMENTS = sorted(file.stem for file in experiments_dir().glob("*.yaml"))


def compose(overrides: list[str]) -> Any:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    register_schema()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra_compose("train", overrides)


@cache
def default_request() -> TrainRequest:
    """Return the request without overrides, composed once: Hydra takes a second."""
    return checked_request(compose(["session_id=s1"]))


def leaves(values: Any, prefix: str = "") -> dict[str, Any]:
    values_by_key = {}
    for name, value in values.items():
        if isinstance(value, dict):
            values_by_key.update(leaves(value, f"{prefix}{name}."))
        else:
            values_by_key[f"{prefix}{name}"] = value
    return values_by_key


def test_conf_has_exactly_the_keys_of_the_schema() -> None:
    from omegaconf import OmegaConf

    composed = OmegaConf.to_container(compose(["session_id=s1"]), resolve=True)

    schema = dataclasses.asdict(TrainRequest())
    assert leaves(composed).keys() == leaves(schema).keys()


def test_conf_composes_to_the_defaults_of_the_schema() -> None:
    """The two doors, conf/ and the Python API, don't drift apart unseen."""
    default = TrainRequest(session_id="s1")
    assert leaves(dataclasses.asdict(default_request())) == leaves(dataclasses.asdict(default))


def options_of_the_other_groups() -> list[list[str]]:
    """Return every option of these groups once, the first of each group together, and so on."""
    options: dict[str, list[str]] = {}
    for file in GROUP_FILES:
        group = str(file.parent)
        if group not in TRAINING_GROUPS:
            # A sweep has no default that could be replaced.
            name = f"+{group}" if group == "sweep" else group
            options.setdefault(group, []).append(f"{name}={file.stem}")
    return [list(filter(None, choices)) for choices in zip_longest(*options.values())]


@pytest.mark.parametrize("choices", options_of_the_other_groups(), ids=" ".join)
def test_conf_composes_with_every_option_of_the_other_groups(
    choices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNETRAIL_DATABASE_URL", "postgresql+psycopg://localhost/tunetrail")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    request = checked_request(compose(["session_id=s1", *choices]))
    assert request.session_id == "s1"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_conf_composes_with_every_experiment(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TUNETRAIL_HOME", str(tmp_path))
    monkeypatch.setenv("TUNETRAIL_SHIPPED", str(experiments_dir().parent))
    composed = compose(["session_id=s1", f"+experiments={name}"])
    assert checked_request(composed) != default_request()


@pytest.mark.parametrize("file", GROUP_FILES, ids=str)
def test_conf_repeats_no_default_of_the_schema(file: Path) -> None:
    """A default has one home: an option sets what differs, and the key that it is named after."""
    from omegaconf import OmegaConf

    path = conf_dir() / file
    is_global = "# @package _global_" in path.read_text()
    option: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    values = leaves(option if is_global else {str(file.parent): option})
    defaults = leaves(dataclasses.asdict(TrainRequest()))

    # Names below a mapping have no default.
    repeated = [
        key for key, value in values.items() if value == defaults.get(key, file.stem) != file.stem
    ]

    assert repeated == []


@pytest.mark.parametrize(
    ("option", "key", "value"),
    [
        ("optimizer=adamw", "optimizer.name", "adamw"),
        ("optimizer=adam", "optimizer.name", "adam"),
        ("optimizer=adafactor", "optimizer.name", "adafactor"),
        ("optimizer=sgd", "optimizer.name", "sgd"),
        ("schedule=linear", "schedule", "linear"),
        ("schedule=cosine", "schedule", "cosine"),
        ("schedule=constant", "schedule", "constant"),
        ("schedule=inverse_sqrt", "schedule", "inverse_sqrt"),
        ("schedule=wsd", "schedule", "wsd"),
        ("trainer=default", "precision", "auto"),
        ("trainer=float32", "precision", "32-true"),
        ("trainer=bfloat16", "precision", "bf16-mixed"),
        ("trainer=float16", "precision", "16-mixed"),
        ("trainer=accumulate", "batches.accumulate", 4),
        ("trainer=low_memory", "memory.gradient_checkpointing", True),
        ("callbacks=default", "early_stopping_patience", 3),
        ("callbacks=no_early_stopping", "early_stopping_patience", 0),
        ("callbacks=frequent_checkpoints", "checkpoints.every_steps", 100),
        ("callbacks=ema", "averaging.kind", "ema"),
        ("callbacks=swa", "averaging.kind", "swa"),
    ],
)
def test_training_group_sets_both_model_types(option: str, key: str, value: Any) -> None:
    default = default_request()
    request = checked_request(compose(["session_id=s1", option]))

    for section in (request.embedding.training, request.llm.training):
        assert attrgetter(key)(section) == value
    changed = dataclasses.replace(request, embedding=default.embedding, llm=default.llm)
    assert changed == default


@pytest.mark.parametrize(
    ("option", "key", "value"),
    [
        ("trainer=auto", "accelerator", "auto"),
        ("trainer=cpu", "accelerator", "cpu"),
        ("trainer=gpu", "accelerator", "gpu"),
        ("trainer=ddp", "strategy", "ddp"),
        ("trainer=ray", "launcher", "ray"),
        ("trainer=fsdp", "strategy", "fsdp"),
        ("trainer=ddp", "devices", "auto"),
    ],
)
def test_trainer_group_sets_the_devices(option: str, key: str, value: str) -> None:
    default = default_request()
    request = checked_request(compose(["session_id=s1", option]))

    assert getattr(request.trainer, key) == value
    assert dataclasses.replace(request, trainer=default.trainer) == default


@pytest.mark.parametrize(
    ("option", "name", "target"),
    [
        ("callbacks=device_stats", "device_stats", "DeviceStatsMonitor"),
        ("callbacks=learning_rates", "learning_rates", "LearningRateMonitor"),
        ("callbacks=model_summary", "model_summary", "RichModelSummary"),
        ("logger=csv", "csv", "CSVLogger"),
        ("logger=tensorboard", "tensorboard", "TensorBoardLogger"),
        ("logger=wandb", "wandb", "WandbLogger"),
    ],
)
def test_callbacks_and_loggers_are_added_by_name(option: str, name: str, target: str) -> None:
    default = default_request()
    request = checked_request(compose(["session_id=s1", option]))

    section = "logger" if option.startswith("logger") else "callbacks"
    assert getattr(request.trainer, section)[name]["_target_"] == target
    allowed = {"callbacks": CALLBACKS, "logger": LOGGERS}[section]
    assert target in allowed.classes
    assert dataclasses.replace(request, trainer=default.trainer) == default


def test_callbacks_on_the_command_line_are_plain_values_next_to_those_of_a_group() -> None:
    overrides = [
        "callbacks=[ema,device_stats]",
        "logger=[csv,tensorboard]",
        "+trainer.callbacks.device_stats.cpu_stats=true",
        "+trainer.callbacks.limit._target_=Timer",
        "+trainer.callbacks.limit.duration=00:12:00:00",
        "+trainer.callbacks.stop={_target_: EarlyStopping, monitor: train/loss, min_delta: 0.1}",
    ]

    trainer = checked_request(compose(["session_id=s1", *overrides])).trainer

    assert trainer.callbacks == {
        "device_stats": {"_target_": "DeviceStatsMonitor", "cpu_stats": True},
        "limit": {"_target_": "Timer", "duration": "00:12:00:00"},
        "stop": {"_target_": "EarlyStopping", "monitor": "train/loss", "min_delta": 0.1},
    }
    assert [type(values) for values in trainer.callbacks.values()] == [dict] * 3
    assert list(trainer.logger) == ["csv", "tensorboard"]


def test_training_groups_have_no_option_without_a_test() -> None:
    options = [file for file in GROUP_FILES if str(file.parent) in TRAINING_GROUPS]

    # 20 for both model types, six for the devices, six by name, and `logger=default`.
    assert len(options) == 33


def test_callbacks_go_together_and_a_key_has_the_last_word() -> None:
    overrides = ["callbacks=[ema,frequent_checkpoints]", "llm.training.averaging.kind=swa"]

    request = checked_request(compose(["session_id=s1", *overrides]))

    assert request.embedding.training.averaging.kind == "ema"
    assert request.llm.training.averaging.kind == "swa"
    assert request.llm.training.checkpoints.every_steps == 100


def test_specification_and_old_keys_stay_valid() -> None:
    specification = {
        "batch_size": 16,
        "learning_rate": 1e-5,
        "num_epochs": 2,
        "warmup_steps": 10,
        "weight_decay": 0.1,
        "use_mixed_precision": False,
        "max_grad_norm": 0.5,
        "early_stopping_patience": 1,
        "logging_steps": 100,
    }
    keys = {**specification, "optimizer.name": "sgd", "schedule": "cosine"}
    overrides = [f"embedding.training.{key}={value}" for key, value in keys.items()]

    training = checked_request(compose(["session_id=s1", *overrides])).embedding.training

    assert {key: attrgetter(key)(training) for key in keys} == keys


def test_configuration_page_is_current_and_explains_every_setting() -> None:
    script = runpy.run_path(str(conf_dir().parent / "docs" / "write_configuration.py"))

    page = script["reference"]()

    assert script["PAGE"].read_text() == page, "docs/configuration.md is old: run `make docs`"
    documented = re.findall(r"^- \*\*`([^`]+)`\*\*.*\n  \S", page, re.MULTILINE)
    settings = leaves(dataclasses.asdict(TrainRequest()))
    for key in settings:
        # The keys of a check are explained once, and so are the keys of a training.
        check, _, name = key.rpartition(".")
        name_of_check = f"validation.CHECK.{name}" if check in documented else key
        assert name_of_check.replace("llm.training.", "embedding.training.") in documented
