from pathlib import Path

import pytest
from tests.commands import CallMain

from tunetrail.cli.spellings import as_options, as_overrides, check_hydra_options, options_of
from tunetrail.errors import UserError


def test_options_of_composed_commands_are_overrides() -> None:
    words = ["--session", "s1", "--model-dir=m", "seed=1", "--database", "sqlite:///a.db", "-m"]
    overrides = ["session_id=s1", "model_dir=m", "seed=1", "database.url=sqlite:///a.db", "-m"]
    assert as_overrides(words) == overrides


@pytest.mark.parametrize(
    ("command", "words", "options"),
    [
        ("ingest", ["f", "session_id=s1"], ["f", "--session", "s1"]),
        ("sessions", ["database.url=sqlite:///a.db"], ["--database", "sqlite:///a.db"]),
        ("runs", ["tracking.uri=x"], ["--uri", "x"]),
        # Not an option of the command, and the value of another option.
        ("runs", ["session_id=s1"], ["session_id=s1"]),
        ("doctor", ["--json", "model_dir=m"], ["--json", "model_dir=m"]),
    ],
)
def test_overrides_of_parsed_commands_are_their_options(
    command: str, words: list[str], options: list[str]
) -> None:
    assert as_options(command, words) == options


def test_options_are_read_from_the_help() -> None:
    assert {"--database", "--session", "--kind", "--columns"} <= set(options_of("ingest"))
    assert {"--reason", "--force"} <= set(options_of("root", "promote"))


def test_a_session_is_named_in_either_way(call_main: CallMain, workplace: Path) -> None:
    Path("rows.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')

    result = call_main("ingest", "rows.jsonl", "session_id=s1", "--kind", "embedding")
    assert result.exit_code == 0
    printed = call_main("train", "--session", "s1", "--cfg", "job")
    assert printed.exit_code == 0 and "session_id: s1\n" in printed.out


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--learning-rate", "Did you mean 'embedding.training.learning_rate' or 'llm.training.l"),
        ("--lora-r=8", "there is no option --lora-r: settings are written KEY=VALUE. Did you mean"),
        ("-x", "there is no option -x: settings are written KEY=VALUE. `tunetrail train --help"),
    ],
)
def test_options_that_hydra_does_not_have_lead_to_keys(option: str, message: str) -> None:
    with pytest.raises(UserError, match="there is no option") as caught:
        check_hydra_options(["-m", "--cfg=job", "--resolve", option])
    assert message in str(caught.value)
