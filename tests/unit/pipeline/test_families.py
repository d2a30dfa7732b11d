import pytest

from tunetrail.config import EmbeddingConfig, LanguageModelConfig, Settings
from tunetrail.errors import ConfigError
from tunetrail.pipeline.families import EMBEDDING, LLM, family_named, requested_families


@pytest.mark.parametrize(
    ("model_type", "names"),
    [("embedding", ["embedding"]), ("llm", ["llm"]), ("all", ["embedding", "llm"])],
)
def test_requested_families_come_in_the_order_of_their_registration(
    model_type: str, names: list[str]
) -> None:
    assert [family.name for family in requested_families(model_type)] == names


@pytest.mark.parametrize("model_type", ["embeding", "", "ALL"])
def test_requested_families_refuses_an_unknown_model_type(model_type: str) -> None:
    message = f"model_type must be one of embedding, llm, all, got '{model_type}'"
    with pytest.raises(ConfigError, match=message):
        requested_families(model_type)


def test_family_named_names_the_nearest_known_family() -> None:
    assert family_named("llm") is LLM
    with pytest.raises(ConfigError, match=r"got 'embedings'\. Did you mean 'embedding'\?"):
        family_named("embedings")


def test_chosen_shapes_are_those_of_the_chosen_objective() -> None:
    scores = Settings(embedding=EmbeddingConfig(shape="score"))
    texts = Settings(llm=LanguageModelConfig(objective="supervised"))

    assert EMBEDDING.chosen_shapes(scores) == ("score",)
    assert LLM.chosen_shapes(texts) == ("completion", "chat", "document")
    assert EMBEDDING.chosen_shapes(Settings()) == LLM.chosen_shapes(Settings()) == ()
