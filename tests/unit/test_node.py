from typing import Any

import pytest

from tunetrail import NodeConfig
from tunetrail.config import EmbeddingConfig, Settings
from tunetrail.errors import ConfigError


def test_node_config_applies_what_is_given_to_the_settings() -> None:
    config = NodeConfig(
        model_dir="models",
        embedding_model="sentence-transformers/all-MiniLM-L6-v2",
        llm_model="deepseek-1.5b",
        pipeline_config={"n_splits": 3},
        training_config={"llm": {"batch_size": 4}},
    )
    settings = config.settings

    assert (settings.model_dir, settings.embedding.model) == (
        "models",
        "sentence-transformers/all-MiniLM-L6-v2",
    )
    assert (
        settings.llm.model,
        settings.llm.training.batch_size,
        settings.cross_validation.n_splits,
    ) == (
        "deepseek-1.5b",
        4,
        3,
    )


def test_node_config_keeps_the_settings_where_nothing_is_given() -> None:
    settings = Settings(model_dir="elsewhere", embedding=EmbeddingConfig(model="mpnet"))
    assert NodeConfig(settings=settings).settings == settings


def test_node_config_leaves_the_given_settings_alone() -> None:
    settings = Settings()
    NodeConfig(model_dir="elsewhere", embedding_model="mpnet", settings=settings)
    assert settings == Settings()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"pipeline_config": {"n_split": 3}},
            "pipeline_config has no key 'n_split'. Did you mean 'n_splits'",
        ),
        ({"training_config": {"lm": {}}}, "training_config has no key 'lm'. Did you mean 'llm'"),
        ({"pipeline_config": {"n_splits": 1}}, "cross_validation.n_splits must be 0"),
    ],
)
def test_node_config_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NodeConfig(**arguments)
