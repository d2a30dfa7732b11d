import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from tunetrail.config import (
    Settings,
    TrackingConfig,
)
from tunetrail.errors import ConfigError

PIPELINE_CONFIG = {
    "output_dir": "training_output",
    "n_splits": 5,
    "random_state": 42,
    "models_root_dir": "/path/to/models",
}
EMBEDDING_TRAINING = {
    "batch_size": 32,
    "learning_rate": 2e-5,
    "num_epochs": 3,
    "warmup_steps": 100,
    "weight_decay": 0.01,
    "use_mixed_precision": True,
    "max_grad_norm": 1.0,
    "early_stopping_patience": 3,
    "logging_steps": 100,
}
TRAINING_CONFIG = {
    "embedding": EMBEDDING_TRAINING,
    "llm": {**EMBEDDING_TRAINING, "batch_size": 8, "learning_rate": 1e-5},
}


def test_with_short_configs_applies_the_documented_dicts() -> None:
    settings = Settings().with_short_configs(PIPELINE_CONFIG, TRAINING_CONFIG)

    assert (settings.output_dir, settings.model_dir, settings.seed) == (
        "training_output",
        "/path/to/models",
        42,
    )
    assert settings.cross_validation.n_splits == 5

    for model_type, section in (("embedding", settings.embedding), ("llm", settings.llm)):
        training = TRAINING_CONFIG[model_type]
        assert {name: getattr(section.training, name) for name in training} == training


def test_with_short_configs_leaves_the_original_and_what_is_not_given() -> None:
    before = Settings(seed=7)
    after = before.with_short_configs({"n_splits": 3}, {"llm": {"batch_size": 2}})

    assert before == Settings(seed=7)
    assert after.cross_validation.n_splits == 3 and after.llm.training.batch_size == 2
    assert (
        dataclasses.replace(after, cross_validation=before.cross_validation, llm=before.llm)
        == before
    )


def test_with_short_configs_accepts_paths_and_whole_numbers_as_floats() -> None:
    settings = Settings().with_short_configs(
        {"output_dir": Path("out")}, {"embedding": {"max_grad_norm": 1}}
    )
    assert settings.output_dir == "out"
    assert isinstance(settings.embedding.training.max_grad_norm, float)


@pytest.mark.parametrize(
    ("pipeline", "training", "message"),
    [
        ({"n_split": 5}, None, "pipeline_config has no key 'n_split'. Did you mean 'n_splits'"),
        (
            {"zzz": 5},
            None,
            "pipeline_config has no key 'zzz'. Known keys: output_dir, n_splits, random_state, models_root_dir",
        ),
        (
            None,
            {"embeddings": {}},
            "training_config has no key 'embeddings'. Did you mean 'embedding'",
        ),
        (
            None,
            {"llm": {"learning_rte": 1e-5}},
            r"training_config\['llm'\] has no key .* Did you mean 'learning_rate'",
        ),
        (None, {"llm": {"schedule": "cosine"}}, r"training_config\['llm'\] has no key 'schedule'"),
        (
            None,
            {"llm": {"num_epochs": "auto"}},
            r"training_config\['llm'\]\['num_epochs'\] must be",
        ),
        (
            None,
            {"llm": {"batch_size": 0}},
            r"^llm\.training\.batch_size must be auto or at least 1, got 0",
        ),
        (None, {"llm": 3}, r"training_config\['llm'\] must be a dict, got 3"),
        (
            {"n_splits": "5"},
            None,
            r"pipeline_config\['n_splits'\] must be a value of type int, got '5'",
        ),
        (
            {"n_splits": True},
            None,
            r"pipeline_config\['n_splits'\] must be a value of type int, got True",
        ),
        (
            {"n_splits": 2.5},
            None,
            r"pipeline_config\['n_splits'\] must be a value of type int, got 2.5",
        ),
        (
            {"output_dir": 3},
            None,
            r"pipeline_config\['output_dir'\] must be a value of type str, got 3",
        ),
        (
            {"random_state": None},
            None,
            r"pipeline_config\['random_state'\] must be a value of type int, got None",
        ),
        (
            None,
            {"llm": {"learning_rate": "1e-5"}},
            r"\['learning_rate'\] must be a value of type float, got '1e-5'",
        ),
        (
            None,
            {"llm": {"use_mixed_precision": 1}},
            r"\['use_mixed_precision'\] must be a value of type bool, got 1",
        ),
        ({"n_splits": 1}, None, "cross_validation.n_splits must be 0"),
        (None, {"llm": {"batch_size": 0}}, "training.batch_size must be auto or at least 1, got 0"),
    ],
)
def test_with_short_configs_refuses(pipeline: Any, training: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings().with_short_configs(pipeline, training)


@pytest.mark.parametrize(
    ("short_configs", "message"),
    [
        (([1], None), "pipeline_config must be a dict, got [1]"),
        ((None, [1]), "training_config must be a dict, got [1]"),
        ((None, "x"), "training_config must be a dict, got 'x'"),
        ((None, {1: {}}), "training_config has no key 1"),
        ((None, {"embedding": 3}), "training_config['embedding'] must be a dict, got 3"),
    ],
)
def test_short_configs_that_are_no_dicts_are_refused(
    short_configs: tuple[Any, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        Settings().with_short_configs(*short_configs)


@pytest.mark.parametrize("key", ["output_dir", "model_dir"])
@pytest.mark.parametrize("path", ["x" * 256, "a/" + "ä" * 128, "a\0b", "", 5])
def test_paths_that_no_file_system_keeps_are_refused(key: str, path: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{key} must be a path whose names have at most 255"):
        Settings(**{key: path})
    assert Settings(**{key: "/a/" + "x" * 255 + "/b"})


@pytest.mark.parametrize("name", ["", "  ", "x" * 501])
def test_an_experiment_that_mlflow_would_not_keep_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^tracking\.experiment must be a name of 1 to 500"):
        TrackingConfig(experiment=name)
