import json

import pytest
from tests.commands import CallMain

from tunetrail.cli.output import take_value
from tunetrail.errors import UserError

pytestmark = pytest.mark.usefixtures("empty_database")

ROWS = [{"anchor": f"question {n}", "positive": f"answer {n}"} for n in range(3)]


@pytest.fixture
def rows(workplace: object) -> str:
    with open("rows.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in [*ROWS, {"anchor": "alone"}])
    return "rows.jsonl"


INGEST = ("--session", "s1", "--kind", "embedding")


def test_ingest_prints_one_object(rows: str, call_main: CallMain) -> None:
    result = call_main("ingest", rows, *INGEST, "--json")

    printed = json.loads(result.out)
    assert (printed["session_id"], printed["kind"], printed["source"]) == ("s1", "embedding", rows)
    assert (printed["rows"], printed["added"], printed["rejected"]) == (4, 3, 1)
    assert list(printed["rejections"].values()) == [1]
    # What people read is on stderr.
    assert "4 rows read: 3 added" in result.err


def test_sessions_print_one_object(rows: str, call_main: CallMain) -> None:
    assert json.loads(call_main("sessions", "--json").out)["sessions"] == []
    call_main("ingest", rows, *INGEST)

    printed = json.loads(call_main("sessions", "--json").out)

    (session,) = printed["sessions"]
    assert session["samples"] == {"embedding": 3, "llm": 0}
    assert (session["session_id"], session["last_training"]) == ("s1", None)


@pytest.mark.parametrize(
    ("arguments", "key"), [(["sync"], "deliveries"), (["root"], "roots"), (["resume"], "runs")]
)
def test_commands_print_nothing_else_as_json(
    arguments: list[str], key: str, call_main: CallMain, rows: str
) -> None:
    call_main("ingest", rows, *INGEST)
    printed = json.loads(call_main(*arguments, "--json").out)
    assert printed == {key: []}


@pytest.mark.parametrize("arguments", [["sessions"], ["ingest", "rows.jsonl", *INGEST], ["sync"]])
def test_quiet_commands_print_nothing(arguments: list[str], call_main: CallMain, rows: str) -> None:
    result = call_main(*arguments, "--quiet")
    assert (result.exit_code, result.out, result.err) == (0, "", "")
    # The next command isn't quiet.
    assert call_main("sessions").out != ""


def test_quiet_command_prints_its_object(rows: str, call_main: CallMain) -> None:
    result = call_main("--quiet", "ingest", rows, *INGEST, "--json")
    assert json.loads(result.out)["added"] == 3 and result.err == ""


@pytest.mark.parametrize("options", [["--json"], ["--quiet"], ["--json", "--quiet"]])
def test_error_is_the_only_line_on_stderr(options: list[str], call_main: CallMain) -> None:
    result = call_main("train", "session_id=absent", *options)
    assert (result.exit_code, result.out) == (2, "")
    assert result.err.splitlines()[-1].startswith("error: session_id must name a session")


def test_take_value_returns_the_other_words() -> None:
    words = ["seed=1", "--require", "promoted", "-m"]
    assert take_value("--require", ["promoted"], words) == ("promoted", ["seed=1", "-m"])
    assert take_value("--require", ["promoted"], ["--require=promoted"]) == ("promoted", [])
    assert take_value("--require", ["promoted"], ["seed=1"]) == ("", ["seed=1"])


@pytest.mark.parametrize("words", [["--require"], ["--require", "refused"], ["--require="]])
def test_take_value_refuses_another_value(words: list[str]) -> None:
    with pytest.raises(UserError, match=r"^--require must be promoted, got "):
        take_value("--require", ["promoted"], words)


def test_train_refuses_another_requirement(call_main: CallMain) -> None:
    line = call_main("train", "session_id=s1", "--require", "better").error_line
    assert line == "error: --require must be promoted, got 'better'."


def test_colours_are_left_out_if_nobody_wants_them(
    rows: str, call_main: CallMain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    result = call_main("ingest", rows, *INGEST)
    assert "\x1b[3" not in call_main("sessions").out + result.err
