"""The errors and the manners of Python's door; tests/flow/test_api.py trains."""

import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.commands import CallMain

import tunetrail
from tunetrail.errors import ConfigError, SessionError, TunetrailError, UserError
from tunetrail.samples import SampleKind
from tunetrail.stores.database.manager import DatabaseManager


@pytest.mark.parametrize(
    ("settings", "arguments", "error_type"),
    [
        ({"sed": 3}, ["sed=3"], ConfigError),
        ({"embedding": {"lr": 3e-5}}, ["embedding.lr=3e-5"], ConfigError),
        ({"embedding": "minilmm"}, ["embedding=minilmm"], ConfigError),
        ({"experiments": "slow"}, ["+experiments=slow"], ConfigError),
        ({"seed": "seven"}, ["seed=seven"], ConfigError),
        (
            {"embedding": {"training": {"batch_size": -1}}},
            ["embedding.training.batch_size=-1"],
            ConfigError,
        ),
        ({"model_type": "vision"}, ["model_type=vision"], ConfigError),
        ({"session_id": "absent"}, ["session_id=absent"], SessionError),
        ({"session_id": "a/b"}, ["session_id=a/b"], ConfigError),
    ],
)
@pytest.mark.parametrize("command", ["train", "plan", "prepare"])
def test_error_is_the_line_of_the_command(
    command: str,
    settings: dict[str, Any],
    arguments: list[str],
    error_type: type[TunetrailError],
    call_main: CallMain,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        manager.ingest("s1", [{"anchor": "a", "positive": "b"}], SampleKind.EMBEDDING)

    line = call_main(command, "session_id=s1", *arguments).err.splitlines()[-1]
    with pytest.raises(error_type) as raised:
        getattr(tunetrail, command)(**{"session_id": "s1", **settings})

    assert f"error: {raised.value}" == line


def test_error_names_the_variable_that_is_missing(
    call_main: CallMain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    line = call_main("prepare", "session_id=s1", "tracking=server").err.splitlines()[-1]

    with pytest.raises(ConfigError, match=r"^MLFLOW_TRACKING_URI must be set") as raised:
        tunetrail.prepare("s1", tracking="server")

    assert line == f"error: {raised.value}"


def test_train_asks_for_a_session(workplace: Path) -> None:
    with pytest.raises(ConfigError, match=r"^session_id must be given"):
        tunetrail.train()


def test_train_takes_one_value_of_a_setting(workplace: Path) -> None:
    with pytest.raises(ConfigError, match="seed=1,2"):
        tunetrail.train("s1", overrides=["seed=1,2"])


@pytest.mark.parametrize("option", ["-m", "--multirun", "--cfg"])
def test_train_takes_no_option_of_the_command_line(option: str, workplace: Path) -> None:
    with pytest.raises(ConfigError, match=f"^overrides must be KEY=VALUE, got '{option}'"):
        tunetrail.train("s1", overrides=[option])


def test_train_refuses_several_nodes(workplace: Path) -> None:
    with pytest.raises(ConfigError, match=r"^trainer\.num_nodes must be 1 in Python, got 2"):
        tunetrail.train("s1", trainer={"num_nodes": 2})


def test_train_leaves_the_application_as_it_was(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydra.core.global_hydra import GlobalHydra
    from hydra.version import VersionBase

    monkeypatch.setattr(VersionBase.instance(), "version_base", "the application's")
    before = dict(os.environ), list(sys.argv), logging.root.level, list(logging.root.handlers)

    with pytest.raises(SessionError):
        tunetrail.train("absent", "embedding", verbose=0)

    after = dict(os.environ), list(sys.argv), logging.root.level, list(logging.root.handlers)
    assert after == before
    assert VersionBase.instance().getbase() == "the application's"
    assert not GlobalHydra.instance().is_initialized()


def test_train_finds_experiments_of_the_folder_it_is_called_in(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TUNETRAIL_HOME", raising=False)
    for name, seed in (("first", -1), ("second", -2)):
        folder = workplace / name / "experiments"
        folder.mkdir(parents=True)
        (folder / "mine.yaml").write_text(f"# @package _global_\nseed: {seed}\n")
        monkeypatch.chdir(workplace / name)

        with pytest.raises(ConfigError, match=f"^seed must be between .*, got {seed}"):
            tunetrail.train("s1", experiments="mine")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": -1}, "^limit must be 0 or more, got -1"),
        ({"tracking_uri": "sqlite:///absent.db"}, r"absent\.db"),
    ],
)
def test_runs_refuses(options: dict[str, Any], message: str, workplace: Path) -> None:
    with pytest.raises(UserError, match=message):
        tunetrail.runs(**options)
    assert not (workplace / "absent.db").exists()
