"""Requests that a training can't meet are refused before anything is loaded."""

from typing import Any

import pytest

from tunetrail.config import LanguageModelConfig, Settings, TrainingConfig
from tunetrail.config.trainer import TrainerConfig
from tunetrail.config.training import MemoryConfig, OptimizerConfig
from tunetrail.errors import ConfigError
from tunetrail.pipeline.families import EMBEDDING, LLM
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.pipeline.trainer_checks import check_devices


@pytest.mark.parametrize(
    ("family", "overrides", "message"),
    [
        (EMBEDDING, {}, r"trainer\.strategy must be auto or ddp for models of the type embedding"),
        (
            LLM,
            {"optimizer": OptimizerConfig(name="adafactor")},
            r"llm\.training\.optimizer\.name must be adamw, adam or sgd .* got 'adafactor'",
        ),
        (
            LLM,
            {"memory": MemoryConfig(compile=True)},
            r"llm\.training\.memory\.compile must be false .* got True",
        ),
        (
            LLM,
            {"precision": "16-mixed"},
            r"llm\.training\.precision must be .* got '16-mixed'",
        ),
    ],
)
def test_settings_that_cannot_be_sharded_are_refused(
    family: ModelFamily, overrides: dict[str, Any], message: str
) -> None:
    training = TrainingConfig(**overrides)
    settings = Settings(
        trainer=TrainerConfig(strategy="fsdp"), llm=LanguageModelConfig(training=training)
    )

    with pytest.raises(ConfigError, match=message):
        check_devices(settings, [family])


def test_settings_that_can_be_sharded_pass() -> None:
    check_devices(Settings(trainer=TrainerConfig(strategy="fsdp")), [LLM])
