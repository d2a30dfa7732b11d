"""Help, schema, completion, configuration and doctor know what installed packages add."""

import json
import sys
import tempfile
from pathlib import Path

import pytest
from tests.commands import CallMain
from tests.packages import Install

from tunetrail.cli.complete import candidates
from tunetrail.cli.conf_groups import groups, option_comment, shipped_groups
from tunetrail.cli.conf_schema import conf_schema
from tunetrail.cli.key_help import key_help
from tunetrail.config.keys import all_settings

MODULE = """
from dataclasses import dataclass
from pytorch_lightning import Callback
from tunetrail.config.checks import POSITIVE, setting
from tunetrail.config.losses import Loss, Negatives

@dataclass(kw_only=True)
class Options:
    gamma: float = setting(2.0, POSITIVE)
    \"\"\"Weight of what is hard.\"\"\"

    layers: list[int] | None = None

FOCAL = Loss(name="focal", shapes=("pair",), build=lambda options: None, options_class=Options)

class StopBelow(Callback):
    def __init__(self, loss: float = 0.1) -> None:
        self.loss = loss
"""


@pytest.fixture
def package(install: Install) -> None:
    install(
        MODULE,
        losses={"focal": "FOCAL", "broken": "MISSING"},
        callbacks={"stop_below": "StopBelow"},
        families={"ticket": "TICKET"},
        formats={"faq": "FAQ"},
    )


def words(typed: str) -> list[str]:
    return [candidate.word for candidate in candidates(["train", typed])]


def test_completion_offers_names_without_importing_their_package(package: None) -> None:
    assert "embedding.loss=focal" in words("embedding.loss=")
    assert words("embedding.extensions.f") == ["embedding.extensions.focal."]
    assert "callbacks=stop_below" in words("callbacks=")
    assert "model_type=ticket" in words("model_type=")
    assert "acme_models" not in sys.modules


def test_help_names_installed_extensions_and_explains_their_options(package: None) -> None:
    assert "of installed packages: broken (acme-models 1.0), focal (acme-models 1.0)" in " ".join(
        key_help("embedding.loss").split()
    )
    options = key_help("embedding.extensions.focal")
    assert "embedding.extensions.focal.gamma  (number, above 0; default: 2.0)" in options
    assert "    Weight of what is hard." in options
    assert key_help("embedding.extensions.focal.gamma") == "\n".join(options.splitlines()[:2])
    assert (
        "callbacks=stop_below: The callback stop_below of the package acme-models 1.0."
        in key_help("callbacks")
    )


def test_help_of_ingest_names_installed_formats(package: None, call_main: CallMain) -> None:
    result = call_main("ingest", "--help")

    assert "\nof installed packages: .faq (acme-models 1.0)\n\nkinds:" in result.out
    assert "acme_models" not in sys.modules


def test_schema_holds_names_and_options(package: None) -> None:
    embedding = conf_schema()["properties"]["embedding"]["properties"]

    choices = embedding["loss"]["anyOf"][0]["enum"]
    options = embedding["extensions"]["properties"]
    assert {"focal", "cosent"} <= set(choices)
    assert options["focal"]["properties"]["gamma"]["description"] == "Weight of what is hard."
    assert options["focal"]["additionalProperties"] is False
    assert "can't be used" in options["broken"]["description"]


def test_documents_hold_our_own_names_only(package: None) -> None:
    rule = all_settings()["embedding.loss"].rule
    assert rule is not None and "focal" not in rule.choices and "focal" not in rule.text
    assert (
        "stop_below" in groups()["callbacks"] and "stop_below" not in shipped_groups()["callbacks"]
    )
    assert option_comment("callbacks", "stop_below").startswith("The callback stop_below of")


def test_configuration_takes_an_extension_by_name(package: None, call_main: CallMain) -> None:
    result = call_main(
        *("config", "--json", "embedding.loss=focal", "embedding.extensions.focal.gamma=3"),
        *("callbacks=stop_below", "trainer.callbacks.stop_below.loss=0.05"),
    )

    assert result.exit_code == 0, result.err
    settings = json.loads(result.out)["settings"]
    assert settings["embedding.extensions"]["value"] == {"focal": {"gamma": 3}}
    assert settings["trainer.callbacks"]["value"] == {
        "stop_below": {"_target_": "stop_below", "loss": 0.05}
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("embedding.extensions.focal.gama=3", "Did you mean 'embedding.extensions.focal.gamma'?"),
        ("embedding.loss=focall", "Did you mean 'focal'?"),
        (
            "embedding.loss=broken",
            "the loss 'broken' of the package acme-models 1.0 can't be used: Attr",
        ),
        ("callbacks=stop_belo", "Did you mean 'stop_below'?"),
        ("families.tickets.max_length=3", "Did you mean 'ticket'?"),
    ],
)
def test_a_mistake_is_one_line_with_what_was_meant(
    package: None, call_main: CallMain, override: str, message: str
) -> None:
    result = call_main("config", "embedding.loss=focal", override)

    assert result.exit_code == 2
    assert message in result.error_line


def test_doctor_lists_extensions_and_names_a_broken_one(
    package: None, workplace: Path, call_main: CallMain, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What dead processes of others have left on this machine doesn't count.
    monkeypatch.setattr(tempfile, "tempdir", str(workplace))
    result = call_main("doctor", "--json")

    listed = json.loads(result.out)["extensions"]
    problems = {extension["name"]: extension["problem"] for extension in listed}
    focal = next(extension for extension in listed if extension["name"] == "focal")
    assert focal == {
        "group": "tunetrail.losses",
        "name": "focal",
        "package": "acme-models",
        "version": "1.0",
        "problem": None,
    }
    assert "can't be used: AttributeError" in problems["broken"]
    assert result.exit_code == 0
    assert "extension: tunetrail.losses focal (acme-models 1.0)" in call_main("doctor").out
