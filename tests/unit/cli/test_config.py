import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from tests.commands import CallMain

from tunetrail.cli.conf_schema import conf_schema
from tunetrail.config.keys import all_settings
from tunetrail.errors import UserError
from tunetrail.paths import conf_dir, experiments_dir

WHOLE_FILES = ("sweep", "optimizer", "schedule", "trainer", "callbacks", "logger")


def shown_as_json(call_main: CallMain, *arguments: str) -> dict[str, Any]:
    result = call_main("config", "--json", *arguments)
    assert (result.exit_code, result.err) == (0, "")
    return dict(json.loads(result.out))


@pytest.fixture
def experiment(workplace: Path) -> str:
    (workplace / "experiments").mkdir()
    text = "# @package _global_\nseed: 7\nllm: {adapter: {rank: 4}}\n"
    (workplace / "experiments" / "mine.yaml").write_text(text)
    return "+experiments=mine"


def test_config_names_the_origin_of_each_value(
    call_main: CallMain, workplace: Path, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNETRAIL_DATABASE_URL", "postgresql+psycopg://u:hidden@h/x")
    overrides = [
        "session_id=s1",
        "embedding=e5-small",
        "optimizer=sgd",
        experiment,
        "embedding.training={schedule: wsd}",
        "+trainer.callbacks.t._target_=Timer",
    ]

    settings = shown_as_json(call_main, *overrides)["settings"]

    assert settings.keys() == {
        key for key, s in all_settings().items() if not s.is_section and not key.startswith("hydra")
    }
    origins = {key: (values["origin"], values["source"]) for key, values in settings.items()}
    assert origins["output_dir"] == ("default", "schema default")
    assert origins["embedding.query_prompt"] == ("group", "embedding=e5-small")
    assert origins["llm.training.optimizer.name"] == ("group", "optimizer=sgd")
    assert origins["seed"] == origins["llm.adapter.rank"] == ("experiment", experiment)
    assert origins["database.url"] == ("group", "database=default from $TUNETRAIL_DATABASE_URL")
    assert origins["embedding.training.schedule"] == (
        "override",
        "embedding.training={schedule: wsd}",
    )
    assert origins["trainer.callbacks"] == ("override", "+trainer.callbacks.t._target_=Timer")
    assert settings["database.url"]["value"] == "postgresql+psycopg://u:***@h/x"
    assert settings["split.method"]["automatic"] and not settings["seed"]["automatic"]
    assert all(values["meaning"] for values in settings.values())


def test_config_diff_shows_what_differs_with_its_meaning(
    call_main: CallMain, experiment: str
) -> None:
    result = call_main("config", "--diff", experiment, "embedding=e5-small", "seed=42")

    assert result.exit_code == 0
    lines = result.out.splitlines()
    settings = [line for line in lines if not line.startswith(" ")]
    assert [line.split(" = ")[0] for line in settings] == [
        "embedding.model",
        "embedding.max_length",
        "embedding.query_prompt",
        "embedding.document_prompt",
        "llm.adapter.rank",
    ]
    # Quoted, since nobody would see the blank.
    assert settings[2].split("  #")[0].rstrip() == 'embedding.query_prompt = "query: "'
    assert lines[-2:] == [f"{settings[4]}", "    Rank of the adapters' matrices."]
    assert call_main("config", "--diff").out == ""


def test_config_prints_a_section_without_a_session(call_main: CallMain, workplace: Path) -> None:
    result = call_main("config", "split", "session_id", "--short", "model_type=llm")

    assert result.exit_code == 0
    assert "split.salt = tunetrail" in result.out and "session_id = ???" in result.out
    assert len(result.out.splitlines()) == 7


def test_config_warns_of_what_is_most_likely_a_mistake(
    call_main: CallMain, workplace: Path
) -> None:
    overrides = ["model_type=embedding", "llm.adapter.rank=4", "embedding.training.learning_rate=1"]

    warnings = shown_as_json(call_main, *overrides)["warnings"]
    assert warnings[0] == "llm.adapter.rank=4 has no effect with model_type=embedding"
    assert warnings[1].startswith("embedding.training.learning_rate=1 is far above what adamw")
    assert len(warnings) == 2
    assert "warning: llm.adapter.rank=4 has no" in call_main("config", *overrides).err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lr=1"], "there is no key lr. Did you mean 'embedding.training.learning_rate' or 'llm"),
        (["embedding.training.schedule=cosin"], "got 'cosin'. Did you mean 'cosine'?"),
        (["split.test_share=2"], "split.test_share must be between 0 and 1, both excluded, got 2"),
        (["embeding.training"], "there is no key embeding.training. Did you mean 'embedding.train"),
        (
            ["--jsn"],
            "config has the options --diff, --short, --json, --quiet, --schema, got --jsn.",
        ),
        (["--schema", "seed=1"], "--schema takes sections only, got seed=1"),
        (["--schema", "seed"], "--schema must be followed by one of database, preparation"),
        (["seed=1,2"], "add --multirun"),
        (["database=postgres"], "TUNETRAIL_DATABASE_URL must be set in the environment"),
    ],
)
def test_config_refuses_what_a_training_refuses(
    call_main: CallMain, workplace: Path, arguments: list[str], message: str
) -> None:
    result = call_main("config", *arguments)
    assert result.exit_code == 2 and message in result.error_line


def test_config_schema_is_printed_without_composing(call_main: CallMain) -> None:
    schema = json.loads(call_main("config", "--schema", "split").out)
    assert schema["properties"]["test_share"]["default"] == 0.15


@cache
def validator_of(section: str = "") -> jsonschema.Draft202012Validator:
    """Return the validator of a section's files; its schema is checked, which takes a second."""
    schema = conf_schema([section] if section else [])
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize(
    "file",
    [*sorted(conf_dir().glob("**/*.yaml")), *sorted(experiments_dir().glob("*.yaml"))],
    ids=lambda file: f"{file.parent.name}/{file.stem}",
)
def test_every_file_of_conf_satisfies_the_schema(file: Path) -> None:
    group = file.parent.name
    is_whole = group in ("conf", "experiments", *WHOLE_FILES)
    assert is_whole == ("# @package _global_" in file.read_text() or file.name == "train.yaml")
    validator_of("" if is_whole else group).validate(yaml.safe_load(file.read_text()))


@pytest.mark.parametrize(
    ("section", "text"),
    [
        ("", "sed: 1"),
        ("", "seed: many"),
        ("", "llm: {training: {batch_size: [1]}}"),
        ("", "split: {test_share: true}"),
        ("embedding", "lr: 1e-5"),
        ("embedding", "training: {schedule: cosin}"),
        ("embedding", "training: {num_epochs: 0}"),
        ("embedding", "loss_options: {scale: -1.0}"),
        ("trainer", "callbacks: [Timer]"),
        ("validation", "rows: {empty: {severity: fatal}}"),
    ],
)
def test_the_schema_refuses_what_a_training_refuses(section: str, text: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validator_of(section).validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    "text",
    [
        "seed: ${oc.env:SEED}",
        "llm: {training: {learning_rate: 1e-4, batch_size: auto}}",
        "session_id: 2026_11_24",
        "embedding: {loss_options: {scale: null}}",
        "defaults: [override /optimizer: sgd, _self_]",
        "sweep: {objective: [ndcg_at_10, seconds]}",
    ],
)
def test_the_schema_takes_what_a_training_takes(text: str) -> None:
    validator_of().validate(yaml.safe_load(text))


def test_the_schema_takes_one_section() -> None:
    with pytest.raises(UserError, match="one section at most, got embedding, llm"):
        conf_schema(["embedding", "llm"])
