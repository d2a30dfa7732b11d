import dataclasses
import json
from typing import Any

import pytest

from tunetrail.config import (
    AdapterConfig,
    CrossValidationConfig,
    EmbeddingConfig,
    LanguageModelConfig,
    Settings,
    TrackingConfig,
    TrainingConfig,
    TrainRequest,
)
from tunetrail.errors import ConfigError, UserError
from tunetrail.pipeline.run_settings import leaves, plain_settings, settings_of

SECRET = TrackingConfig(uri="https://me:hunter2@host/", experiment="mine", artifacts="there")
CHANGED = Settings(
    seed=7,
    output_dir="elsewhere",
    embedding=EmbeddingConfig(
        shape="pair", training=TrainingConfig(batch_size="auto", learning_rate=1e-05)
    ),
    llm=LanguageModelConfig(
        adapter=AdapterConfig(rank=3), training=TrainingConfig(learning_rate="auto")
    ),
    cross_validation=CrossValidationConfig(n_splits=0),
    tracking=SECRET,
)
CHANGED.augmentation.methods = ["typo", "word_swap"]


def plain(settings: Settings) -> dict[str, Any]:
    return dict(json.loads(json.dumps(plain_settings(settings, "postgresql://me:***@host/db"))))


@pytest.mark.parametrize("settings", [Settings(), CHANGED])
def test_settings_come_back_from_json_but_for_the_connections(settings: Settings) -> None:
    present = TrackingConfig(uri="sqlite:///now.db", experiment="other")
    read = settings_of(plain(settings), present)

    expected = dataclasses.replace(
        settings, tracking=dataclasses.replace(settings.tracking, uri="sqlite:///now.db")
    )
    expected.database.url = "postgresql://me:***@host/db"
    assert read == expected


def test_settings_of_the_command_line_s_request_are_read_without_the_request() -> None:
    request = TrainRequest(session_id="s1", model_type="llm", seed=5)
    assert settings_of(plain(request), Settings().tracking).seed == 5


def test_plain_settings_hold_no_secret() -> None:
    assert "hunter2" not in json.dumps(plain(CHANGED))


def test_settings_with_an_unknown_key_are_refused_by_its_name() -> None:
    content = plain(Settings())
    content["embedding"]["training"]["batch_sise"] = 3
    message = r"the key embedding.training.batch_sise, .* Did you mean 'batch_size'\? Resume with the version"
    with pytest.raises(UserError, match=message):
        settings_of(content, SECRET)


def test_settings_that_are_no_longer_allowed_are_refused() -> None:
    content = plain(Settings())
    content["embedding"]["training"]["batch_size"] = 0
    with pytest.raises(ConfigError, match=r"training\.batch_size must be"):
        settings_of(content, SECRET)


@pytest.mark.parametrize(
    ("section", "name", "value", "rule"),
    [
        ([], "seed", "x", "seed must be an integer, got 'x'"),
        ([], "seed", None, "seed must be an integer, got None"),
        ([], "gate", [1], "gate must be a section, got \\[1\\]"),
        (
            ["embedding", "training"],
            "learning_rate",
            {"a": 1},
            "embedding.training.learning_rate must be .* a text, got {'a': 1}",
        ),
        (["trainer"], "callbacks", "ema", "trainer.callbacks must be a mapping, got 'ema'"),
    ],
)
def test_damaged_settings_are_named(
    section: list[str], name: str, value: object, rule: str
) -> None:
    content = plain(Settings())
    owner = content
    for key in section:
        owner = owner[key]
    owner[name] = value

    with pytest.raises(UserError, match=f"the run's configuration is damaged: {rule}") as caught:
        settings_of(content, SECRET)
    assert "\n" not in str(caught.value)


def test_settings_of_an_older_version_get_the_defaults_of_what_is_new() -> None:
    content = plain(Settings(seed=3))
    del content["gate"], content["embedding"]["training"]["guards"]
    assert settings_of(content, Settings().tracking).gate == Settings().gate


def test_leaves_are_named_by_their_path() -> None:
    assert dict(leaves({"a": 1, "b": {"c": [2], "d": {"e": None}}})) == {
        "a": 1,
        "b.c": [2],
        "b.d.e": None,
    }
