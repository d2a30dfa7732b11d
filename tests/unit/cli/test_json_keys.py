"""Every command has --json and --quiet, and prints the keys that docs/python.md lists for it."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
from tests.commands import CallMain

from tunetrail.cli import _COMMANDS
from tunetrail.cli.spellings import help_of
from tunetrail.config import TrackingConfig, TrainRequest
from tunetrail.evaluation.model_comparison import ModelComparison
from tunetrail.pipeline.exporting import ExportedVersion
from tunetrail.pipeline.reproduction import Reproduction
from tunetrail.pipeline.training_result import FamilyResult
from tunetrail.stores.tracking.tracker import Tracker
from tunetrail.sweeps.summary import SweepSummary
from tunetrail.sweeps.winner import SweepDecision

PAGE = Path(__file__).parents[3] / "docs" / "python.md"


def documented_keys() -> dict[str, set[str]]:
    """Return the keys of the page's table by command, without those of inner objects."""
    table = PAGE.read_text().partition("| command | keys of the object |")[2].partition("\n\n")[0]
    keys = {}
    for line in table.splitlines()[2:]:
        commands, text = line.strip("| ").split(" | ", 1)
        outer = re.sub(r"\([^()]*\)", "", text)
        for command in re.findall(r"`([^`]+)`", commands):
            keys[command] = set(re.findall(r"`(\w+)`", outer))
    return keys


KEYS = documented_keys()


@pytest.fixture
def stores(call_main: CallMain, workplace: Path) -> None:
    """A session, and a training in MLflow."""
    Path("rows.jsonl").write_text(json.dumps({"anchor": "a question", "positive": "an answer"}))
    assert (
        call_main("ingest", "rows.jsonl", "--session", "s1", "--kind", "embedding").exit_code == 0
    )
    uri, artifacts = f"sqlite:///{workplace}/mlflow.db", str(workplace / "mlartifacts")
    run = Tracker(TrackingConfig(uri=uri, artifacts=artifacts)).start_run(
        "first", tags={"tunetrail.training_run": "t"}
    )
    run.finish("succeeded")


@pytest.mark.parametrize("command", _COMMANDS)
def test_every_command_has_both_options_and_documents_its_keys(command: str) -> None:
    printed = help_of(command)
    assert "--json" in printed and "--quiet" in printed
    assert any(name.split()[0] == command for name in KEYS)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("ingest", ["ingest", "rows.jsonl", "--session", "s1", "--kind", "embedding"]),
        ("sessions", ["sessions"]),
        ("runs", ["runs"]),
        ("show", ["show", "first"]),
        ("root", ["root"]),
        ("sync", ["sync"]),
        ("resume", ["resume"]),
        ("doctor", ["doctor"]),
        ("clean", ["clean", "--dry-run"]),
        ("config", ["config", "seed=7"]),
        ("completion", ["completion", "bash"]),
    ],
)
def test_a_command_prints_the_documented_keys(
    name: str, arguments: list[str], call_main: CallMain, stores: None
) -> None:
    result = call_main(*arguments, "--json")

    assert set(json.loads(result.out)) == KEYS[name], result.err


def test_the_configuration_is_printed_as_one_object(call_main: CallMain, workplace: Path) -> None:
    printed = json.loads(call_main("train", "seed=7", "--cfg", "job", "--json").out)

    assert set(printed) == {field.name for field in fields(TrainRequest)}
    assert printed["seed"] == 7 and printed["session_id"] == "???"


def test_hydras_own_configuration_is_no_json(call_main: CallMain, workplace: Path) -> None:
    line = call_main("train", "--cfg", "hydra", "--json").error_line
    assert line == "error: --cfg must be job with --json, got 'hydra'. Leave --json out."


@pytest.mark.parametrize(
    ("name", "result"),
    [("train -m", SweepDecision), ("sweep show", SweepSummary), ("compare", ModelComparison)],
)
def test_the_page_lists_the_fields_of_a_result(name: str, result: type) -> None:
    assert {field.name for field in fields(result)} == KEYS[name] - {"caveat"}


def test_the_page_lists_the_keys_of_other_results() -> None:
    exported = ExportedVersion(version="", kind="", folder=Path(), agreement="")
    assert set(exported.to_dict()) == KEYS["export"]
    repeated = Reproduction(run_id="", reproduction_id=None, differences=None)
    assert set(repeated.to_dict()) == KEYS["repro"]
    assert {"families", "run_id", "report", "page"} < KEYS["train"]
    shown = re.findall(r"`(\w+)`", PAGE.read_text().partition("`families` (by model type")[2])
    assert {field.name for field in fields(FamilyResult)} - {"model_type", "steps"} <= set(shown)


@pytest.mark.parametrize("command", ["runs", "root", "completion bash", "config seed=7"])
def test_quiet_commands_print_nothing_on_stdout(
    command: str, call_main: CallMain, stores: None
) -> None:
    result = call_main(*command.split(), "--quiet")
    assert (result.exit_code, result.out) == (0, "")
