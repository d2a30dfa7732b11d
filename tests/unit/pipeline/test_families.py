import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tunetrail.config import EmbeddingConfig, LanguageModelConfig, Settings
from tunetrail.errors import ConfigError
from tunetrail.pipeline import families
from tunetrail.pipeline.families import (
    EMBEDDING,
    LLM,
    family_named,
    load_installed_families,
    requested_families,
)

Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install the package `ticket-models`: the text of its module, and its one entry point."""
    monkeypatch.setattr(families, "_FAMILIES", dict(families._FAMILIES))
    load_installed_families.cache_clear()

    def install(module: str, entry_point: str) -> None:
        metadata = tmp_path / "ticket_models-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: ticket-models\nVersion: 1.0\n"
        )
        (metadata / "entry_points.txt").write_text(f"[tunetrail.families]\n{entry_point}\n")
        (tmp_path / "ticket_models.py").write_text(module)
        monkeypatch.syspath_prepend(str(tmp_path))

    yield install

    sys.modules.pop("ticket_models", None)
    load_installed_families.cache_clear()


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
    install: Install,
) -> None:
    install(TICKET_MODULE, "ticket = ticket_models:TICKET")

    family = family_named("ticket")

    assert family.name == "ticket"
    assert requested_families("all") == (EMBEDDING, LLM, family)


def test_all_families_include_those_of_installed_packages(install: Install) -> None:
    install(TICKET_MODULE, "ticket = ticket_models:TICKET")

    names = [family.name for family in requested_families("all")]

    assert names == ["embedding", "llm", "ticket"]


@pytest.mark.parametrize(
    ("module", "entry_point", "reason"),
    [
        ("import no_such_module", "ticket = ticket_models:TICKET", "ModuleNotFoundError: No mod"),
        (
            "raise ValueError('two\\nlines')",
            "ticket = ticket_models:TICKET",
            "ValueError: two lines",
        ),
        (TICKET_MODULE, "ticket = ticket_models:WRONG", "AttributeError: module 'ticket_models'"),
        ("TICKET = 3", "ticket = ticket_models:TICKET", "must be a ModelFamily, got 3"),
        (TICKET_MODULE, "tickets = ticket_models:TICKET", "name of its family, 'ticket'"),
    ],
)
def test_a_broken_entry_point_is_named_once_in_one_line_with_its_package(
    install: Install,
    caplog: pytest.LogCaptureFixture,
    module: str,
    entry_point: str,
    reason: str,
) -> None:
    install(module, entry_point)

    for name in ("ticket", "tickets"):
        with pytest.raises(ConfigError, match=rf"one of embedding, llm, all, got '{name}'"):
            family_named(name)

    (message,) = caplog.messages
    name = entry_point.partition(" ")[0]
    assert message.startswith(f"the model family {name} of the package ticket-models is left out")
    assert reason in message and "\n" not in message
    assert family_named("llm") is LLM
