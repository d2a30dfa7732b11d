from collections.abc import Callable

import pytest
from tests.packages import Install

from tunetrail.config import EmbeddingConfig, LanguageModelConfig, Settings
from tunetrail.errors import ConfigError
from tunetrail.pipeline import families
from tunetrail.pipeline.families import (
    EMBEDDING,
    LLM,
    family_named,
    requested_families,
)

InstallFamily = Callable[[str, dict[str, str]], object]


@pytest.fixture
def install_family(install: Install, monkeypatch: pytest.MonkeyPatch) -> InstallFamily:
    """Install a package with the text of its module and its model families, for one test."""
    monkeypatch.setattr(families, "_FAMILIES", dict(families._FAMILIES))
    return lambda module, entry_points: install(module, families=entry_points)


TICKET_MODULE = """
import dataclasses
from tunetrail.pipeline.families import (EMBEDDING)
TICKET = dataclasses.replace(EMBEDDING, name="ticket")
"""


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


def test_a_family_of_an_installed_package_is_loaded_when_its_name_is_unknown(
    install_family: InstallFamily,
) -> None:
    install_family(TICKET_MODULE, {"ticket": "TICKET"})

    family = family_named("ticket")

    assert family.name == "ticket"
    assert requested_families("all") == (EMBEDDING, LLM, family)


def test_all_families_include_those_of_installed_packages(install_family: InstallFamily) -> None:
    install_family(TICKET_MODULE, {"ticket": "TICKET"})

    names = [family.name for family in requested_families("all")]

    assert names == ["embedding", "llm", "ticket"]


BROKEN = "import no_such_module"
CLASH = TICKET_MODULE.replace('"ticket"', '"llm"')


def test_a_family_that_is_asked_for_and_broken_is_an_error(install_family: InstallFamily) -> None:
    install_family(BROKEN, {"ticket": "TICKET"})

    message = (
        r"^the model family 'ticket' of the package acme-models 1\.0 can't be used: ModuleNotFound"
    )
    with pytest.raises(ConfigError, match=message):
        family_named("ticket")
    assert family_named("llm") is LLM


@pytest.mark.parametrize(
    ("module", "name", "reason"),
    [
        (BROKEN, "ticket", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("TICKET = 3", "ticket", "it must be an instance of ModelFamily, got 3"),
        (TICKET_MODULE, "tickets", "its record must have the entry point's name, got 'ticket'"),
        (CLASH, "llm", "must come from one package, got tunetrail and acme-models"),
    ],
)
def test_a_broken_family_is_left_out_of_all_with_one_warning(
    install_family: InstallFamily,
    caplog: pytest.LogCaptureFixture,
    module: str,
    name: str,
    reason: str,
) -> None:
    install_family(module, {name: "TICKET"})

    for _ in range(2):
        assert [family.name for family in requested_families("all")] == ["embedding", "llm"]

    (message,) = caplog.messages
    assert reason in message and "\n" not in message


def test_a_family_with_the_name_of_ours_is_refused(install_family: InstallFamily) -> None:
    install_family(CLASH, {"llm": "TICKET"})

    message = r"^the model family 'llm' must come from one package, got tunetrail and acme-models\."
    with pytest.raises(ConfigError, match=message):
        family_named("llm")
