"""What the terminal gets of values that others wrote: no password, no escape sequence, no markup."""

import io
import logging
import sqlite3
import sys
from pathlib import Path

import pytest
from tests.commands import CallMain

from tunetrail.cli.terminal import plain_output, say

URL = "postgresql+psycopg://ada:SECRET@127.0.0.1:9/d"


@pytest.mark.parametrize(
    "arguments",
    [
        ("resume", "ID", f"datbase.url={URL}"),
        ("resume", URL, "x"),
        ("resume", URL),
        ("train", f"database={URL}"),
        ("train", f"session_id={URL}"),
        ("train", "session_id=s1", f"datbase.url={URL}"),
        ("config", f"tracking.urii={URL}"),
        ("sessions", "--databse", URL),
        ("sessions", URL),
        ("root", "show", URL),
        ("report", "postgresql:/ada:SECRET@h/d"),
        ("compare", URL, "base"),
        ("export", "embedding", "--to", URL),
        (URL,),
    ],
    ids=lambda arguments: " ".join(arguments[:2])[:30],
)
def test_an_error_shows_no_password(call_main: CallMain, arguments: tuple[str, ...]) -> None:
    result = call_main(*arguments)

    assert result.exit_code == 2
    assert "SECRET" not in result.out + result.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("tra\x1b[31min",),
        ("ingest", "no\x1b[2J.jsonl", "--session", "s1", "--kind", "llm"),
        ("train", "session_id=s1", "gate.\x1b]0;title\x07=1"),
        ("root", "show", "embedding/\x9b31m1"),
    ],
)
def test_an_error_holds_nothing_that_a_terminal_obeys(
    call_main: CallMain, arguments: tuple[str, ...]
) -> None:
    result = call_main(*arguments)

    assert result.exit_code == 2
    assert all(character.isprintable() for character in result.error_line)


def test_rows_and_names_of_files_are_shown_as_they_are(call_main: CallMain) -> None:
    name = "a[b]\x1b[31m.jsonl"
    row = '{"\\u001b[31mX": 1, "anchor": "a"}\n{"anchor": "a", "positive": "b"}\n'
    Path(name).write_text(row, encoding="utf-8")

    result = call_main(
        "ingest", name.replace("[", "[[]", 1), "--session", "s1", "--kind", "embedding"
    )

    assert result.exit_code == 0 and "1 rejected" in result.out
    assert "\x1b[31m" not in result.out + result.err and "␛[31mX" in result.out


def test_sessions_and_states_of_a_foreign_hand_are_shown_as_text(call_main: CallMain) -> None:
    Path("rows.jsonl").write_text('{"anchor": "a", "positive": "b"}\n')
    assert (
        call_main("ingest", "rows.jsonl", "--session", "s1", "--kind", "embedding").exit_code == 0
    )
    with sqlite3.connect("tunetrail.db") as connection:
        moment = "2026-01-01 00:00:00"
        connection.execute(
            "INSERT INTO sessions (session_id, created_at) VALUES (?, ?)", ("x[/b]\x1b[31m", moment)
        )

    result = call_main("sessions")

    assert result.exit_code == 0 and "x[/b]␛[31m" in result.out and "\x1b" not in result.out


def test_a_line_of_the_log_shows_neither_passwords_nor_escapes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = logging.getLogRecordFactory()
    with plain_output():
        logging.getLogger("tunetrail").warning("%s \x1b[2J", URL)

    assert caplog.messages == ["postgresql+psycopg://ada:***@127.0.0.1:9/d ␛[2J"]
    assert logging.getLogRecordFactory() is before


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_of_few_characters_gets_escapes(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)

    with plain_output():
        print("• 0.5")
        say("• 0.5")

    assert stream.errors == "strict"
    assert stream.buffer.getvalue() == b"\\u2022 0.5\n" * 2  # type: ignore[attr-defined]


def test_a_deleted_working_folder_is_said_in_words(
    call_main: CallMain, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = workplace / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()

    for arguments in (("sessions",), ("train", "session_id=s1"), ("root",)):
        result = call_main(*arguments)
        assert (result.exit_code, "but it was deleted" in result.error_line) == (2, True)


def test_a_working_folder_that_hydra_would_misread_is_refused(
    call_main: CallMain, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = workplace / "a${b}"
    folder.mkdir()
    monkeypatch.chdir(folder)

    result = call_main("config", "session_id=s1")

    assert result.exit_code == 2 and "must have no ${ in its path" in result.error_line
    assert call_main("sessions").exit_code == 0
