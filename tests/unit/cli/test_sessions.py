import json
from pathlib import Path
from typing import Any

import pytest
from tests.commands import CallMain

from tunetrail.samples import SampleKind
from tunetrail.stores.database.manager import DatabaseManager

PAIRS = [{"anchor": f"question {n}", "positive": f"answer {n}"} for n in range(5)]


def write_jsonl(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_ingest_stores_the_rows_and_says_so(call_main: CallMain, workplace: Path) -> None:
    file = write_jsonl(workplace / "rows.jsonl", PAIRS)
    result = call_main("ingest", file, "--session", "s1", "--kind", "embedding")

    assert result.exit_code == 0
    assert "5 rows read: 5 added to session s1, 0 already there, 0 rejected" in result.out

    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        assert manager.session_summary("s1").samples["embedding"] == 5


def test_ingest_of_the_same_file_twice_adds_nothing(call_main: CallMain, workplace: Path) -> None:
    command = (
        "ingest",
        write_jsonl(workplace / "rows.jsonl", PAIRS),
        "--session",
        "s1",
        "--kind",
        "embedding",
    )
    call_main(*command)

    again = call_main(*command)

    assert again.exit_code == 0
    assert "0 added to session s1, 5 already there, 0 rejected" in again.out


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl.gz"])
def test_ingest_reads_every_format(call_main: CallMain, workplace: Path, suffix: str) -> None:
    import pandas as pd

    path, frame = workplace / f"rows{suffix}", pd.DataFrame(PAIRS)
    if suffix == ".csv":
        frame.to_csv(path, index=False)
    elif suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True)
    assert "5 added" in call_main("ingest", str(path), "--session", "s1", "--kind", "embedding").out


def test_ingest_rejects_rows_with_a_reason_and_goes_on(
    call_main: CallMain, workplace: Path
) -> None:
    file = write_jsonl(workplace / "rows.jsonl", [*PAIRS, {"anchor": "a", "positive": 3}])
    result = call_main("ingest", file, "--session", "s1", "--kind", "embedding")

    assert result.exit_code == 0
    assert "5 added" in result.out
    assert "1 rejected (kept with the reason)" in result.out
    assert f"1 row: positive must be a string, got int (3). (line 6 of {file})" in result.out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.jsonl", None, "absent.jsonl doesn't exist. Check the path."),
        ("rows.xlsx", b"x", "the file's suffix must be one of .jsonl, .ndjson, .csv, .parquet"),
        ("empty.jsonl", b"", "empty.jsonl is empty. Give a file with at least one row."),
        (
            "header.csv",
            b"anchor,positive\n",
            "header.csv has no rows. Give a file with at least one row.",
        ),
        (
            "broken.jsonl",
            b"{{{\n",
            "broken.jsonl has no row from which embedding samples can be made: line 1 is not JSON",
        ),
        ("broken.parquet", b"PAR1 and no more", "broken.parquet is not a complete Parquet file"),
        (
            "latin.csv",
            "anchor,positive\nun \xe9t\xe9,b\n".encode("latin-1"),
            "latin.csv must be UTF-8",
        ),
        ("columns.jsonl", b'{"query": "a", "body": "b"}\n', "columns must hold one of"),
        ("typo.jsonl", b'{"anchr": "a", "positive": "b"}\n', "Did you mean 'anchor'?"),
        ("llm.jsonl", b'{"input": "a", "output": "b"}\n', "columns must hold one of"),
    ],
)
def test_ingest_refuses_a_file_in_one_line(
    call_main: CallMain, workplace: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (workplace / name).write_bytes(content)
    result = call_main("ingest", name, "--session", "s1", "--kind", "embedding")

    assert result.exit_code == 2 and result.out == ""
    assert result.error_line.startswith("error: ")
    assert message in result.error_line
    assert not (workplace / "tunetrail.db").exists()


def test_ingest_refuses_an_unsafe_session_id(call_main: CallMain, workplace: Path) -> None:
    result = call_main(
        "ingest",
        write_jsonl(workplace / "rows.jsonl", PAIRS),
        "--session",
        "../x",
        "--kind",
        "embedding",
    )

    assert result.exit_code == 2
    assert "error: session_id must be 1 to 128 letters" in result.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("url", "code", "message"),
    [
        (
            "postgresql+psycopg://user:secret@127.0.0.1:9/tunetrail",
            1,
            "error: The database postgresql+psycopg://user:***@127.0.0.1:9",
        ),
        ("sqlite:///file/below.db", 1, "a part of the path is a file"),
        ("mysql://user:secret@host/x", 2, "error: database.url must be sqlite:///FILE"),
        ("nonsense", 2, "error: database.url must be sqlite:///FILE"),
    ],
)
@pytest.mark.parametrize("command", ["ingest", "sessions"])
def test_commands_say_in_one_line_why_the_database_failed(
    call_main: CallMain, workplace: Path, command: str, url: str, code: int, message: str
) -> None:
    (workplace / "file").touch()
    file = write_jsonl(workplace / "rows.jsonl", PAIRS)
    arguments = (
        ["ingest", file, "--session", "s1", "--kind", "embedding"]
        if command == "ingest"
        else ["sessions"]
    )
    result = call_main(*arguments, "--database", url)

    lines = [line for line in result.err.splitlines() if line.startswith("error: ")]

    assert result.exit_code == code and len(lines) == 1 and message in lines[0]
    assert "secret" not in result.err + result.out and "Traceback" not in result.err


def turns(*texts: Any, **more: Any) -> list[dict[str, Any]]:
    """User and assistant in turn; `more` goes to the last message."""
    messages = [
        {"role": ("user", "assistant")[index % 2], "content": text}
        for index, text in enumerate(texts)
    ]
    messages[-1] |= more
    return messages


LATER = "How do I change my address?"
CALLS = [{"id": "1", "type": "function", "function": {"name": "age", "arguments": '{"of": "me"}'}}]
CHAT_LOGS: list[Any] = [
    {
        "id": 1,
        "messages": turns("Reset?", "Click here.", "thanks", "You're welcome."),
        "created_at": 1_764_000_000,
    },
    {"id": 2, "messages": turns("Hi", "Hello", LATER, "Don't.", feedback="thumbs_down")},
    {
        "id": 3,
        "messages": [*turns("Why?", "Because.", rating=1), *turns("x", "So.")[1:]],
        "timestamp": "2026-11-24",
    },
    {
        "conversation_id": "4",
        "conversation": turns("Bad?", "Very."),
        "feedback": {"rating": "thumbsDown"},
    },
    {
        "conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Me."}],
        "feedback": True,
    },
    {
        "id": 6,
        "messages": [
            {"role": "developer", "content": "Be kind."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "My"}, {"type": "text", "text": "age?"}],
                "name": "Ann",
            },
            {"role": "assistant", "content": None, "tool_calls": CALLS},
            {"role": "tool", "tool_call_id": "1", "content": "42"},
            {"role": "assistant", "content": "42."},
        ],
        "model": "m1",
    },
    {
        "id": 7,
        "messages": turns(
            "Hi", "Hello", [{"type": "image_url", "image_url": {"url": "data:"}}], "A cat."
        ),
    },
    {"id": 8, "messages": turns("Hi", "Hello"), "feedback": "meh"},
    {"id": 9, "messages": turns("Hi")},
    {"id": 10, "question": "Hi"},
]


def test_ingest_of_chat_logs_stores_both_kinds_and_keeps_what_was_rejected(
    call_main: CallMain, workplace: Path
) -> None:
    file = write_jsonl(workplace / "chats.jsonl", CHAT_LOGS)
    with open(file, "a") as stream:
        stream.write("{broken\n")
    command = ("ingest", file, "--session", "s1", "--kind", "conversation")

    result, again = call_main(*command), call_main(*command)

    assert result.exit_code == again.exit_code == 0
    assert result.out.splitlines()[:6] == [
        "numbers under rating are read as 1 to 5 stars",
        "7 conversations read: 6 pairs and 6 chats",
        "  from feedback: 0 preferences (llm.objective=preference), 4 verdicts (llm.objective=kto); "
        "llm.objective=supervised learns the chats",
        "  16 samples added to session s1, 0 already there",
        "  left out, kept with the reason: 3 answers rejected by feedback, 1 part that can't be learnt from, "
        "4 malformed rows",
        "  no pair, as the question can't stand alone: 1",
    ]
    assert "0 samples added to session s1, 16 already there" in again.out
    assert "line 11 of" in result.out and "line 11 is not JSON" in result.out

    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        (pairs,) = manager.read_samples("s1", SampleKind.EMBEDDING)
        (llm_samples,) = manager.read_samples("s1", SampleKind.LLM)
        rejected = manager.rejected_samples("s1")
    chats = [stored for stored in llm_samples if stored.sample.shape == "chat"]
    verdicts = [stored.sample.content["accepted"] for stored in llm_samples if stored not in chats]
    assert verdicts == [False, False, False, True]
    assert [tuple(stored.sample.content.values()) for stored in pairs] == [
        ("Reset?", "Click here."),
        ("Hi", "Hello"),
        ("Why?", "So."),
        ("Who?", "Me."),
        ("My\nage?", "42."),
        ("Hi", "Hello"),
    ]
    assert [len(stored.sample.content["messages"]) for stored in chats] == [4, 2, 2, 2, 5, 2]
    (call,) = json.loads(chats[4].sample.content["messages"][2]["tool_calls"])
    assert call["function"] == {"name": "age", "arguments": {"of": "me"}}
    assert chats[4].sample.metadata == {"model": "m1"}

    groups = [stored.sample.group or "" for stored in (*pairs, *chats)]
    assert groups[:6] == groups[6:] and len(set(groups)) == 6
    assert (groups[0], groups[5], groups[3][:13]) == ("1", "7", "conversation-")
    assert [stored.sample.timestamp for stored in chats[:3]] == [
        "2025-11-24T16:00:00+00:00",
        None,
        "2026-11-24T00:00:00+00:00",
    ]
    assert [(row.row_number, row.reason.partition(".")[0]) for row in rejected] == [
        (2, "assistant answer 2 was rejected by feedback: thumbs_down"),
        (3, "assistant answer 1 was rejected by feedback: 1 of 5 stars"),
        (4, "assistant answer 1 was rejected by the conversation's feedback: thumbsDown"),
        (
            7,
            "messages[2] (user) holds more than text (image_url), and the rest of the conversation builds on it",
        ),
        (8, "feedback must say whether an answer was accepted or rejected, got 'meh'"),
        (9, "messages must have an assistant's answer to a user, got none"),
        (
            10,
            "columns must hold one of [messages; conversation; conversations] for a conversation, got [id, question]",
        ),
        (
            11,
            "line 11 is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        ),
    ]
    assert json.loads(rejected[0].row) == {"group": "2", "messages": CHAT_LOGS[1]["messages"][2:]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.jsonl", None, "absent.jsonl doesn't exist. Check the path."),
        (
            "pairs.jsonl",
            b'{"anchor": "a", "positive": "b"}\n',
            "pairs.jsonl has no row from which conversations can be made",
        ),
        ("typo.jsonl", b'{"mesages": []}\n', "Did you mean 'messages'?"),
    ],
)
def test_ingest_of_chat_logs_refuses_a_file_in_one_line(
    call_main: CallMain, workplace: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (workplace / name).write_bytes(content)
    result = call_main("ingest", name, "--session", "s1", "--kind", "conversation")

    assert result.exit_code == 2 and result.out == ""
    assert result.error_line.startswith("error: ")
    assert message in result.error_line
    assert not (workplace / "tunetrail.db").exists()


def test_ingest_of_chat_logs_reads_csv_and_parquet(call_main: CallMain, workplace: Path) -> None:
    import pandas as pd

    messages = turns("Hi", "Hello")
    pd.DataFrame([{"messages": json.dumps(messages), "id": "1", "feedback": ""}]).to_csv(
        "a.csv", index=False
    )
    pd.DataFrame([{"conversation": messages, "id": "2", "thumbs": None}]).to_parquet("a.parquet")
    for name in ("a.csv", "a.parquet"):
        result = call_main("ingest", name, "--session", "s1", "--kind", "conversation")
        assert "1 conversation read: 1 pair and 1 chat\n" in result.out
        assert "2 samples added" in result.out


def test_ingest_help_names_the_kinds_and_the_optional_columns(call_main: CallMain) -> None:
    result = call_main("ingest", "--help")

    assert result.exit_code == 0
    assert all(
        word in result.out
        for word in ("conversation   chat logs", "timestamp      ISO 8601", "--session ID")
    )


def test_sessions_of_an_empty_database_tells_how_to_make_one(call_main: CallMain) -> None:
    result = call_main("sessions")
    assert result.exit_code == 0
    assert result.out.startswith("no sessions yet. Make one: tunetrail ingest FILE")


def test_sessions_shows_counts_state_and_last_training(
    call_main: CallMain, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    call_main(
        "ingest",
        write_jsonl(workplace / "rows.jsonl", PAIRS),
        "--session",
        "s1",
        "--kind",
        "embedding",
    )
    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        run = manager.create_training_run("s1", "embedding")
        manager.update_training_run(run, state="failed", reason="a reason")
    result = call_main("sessions")

    header, row = (
        line.split() for line in result.out.splitlines() if "s1" in line or "rejected" in line
    )

    assert header[:5] == ["session", "embedding", "llm", "rejected", "state"]
    assert row[:4] == ["s1", "5", "0", "0"] and "never" not in row
    assert (header[-1], row[-2:]) == ("reason", ["a", "reason"])


def test_sessions_reads_the_database_of_the_environment(
    call_main: CallMain, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNETRAIL_DATABASE_URL", "sqlite:///elsewhere.db")
    file = write_jsonl(workplace / "rows.jsonl", PAIRS)
    call_main("ingest", file, "--session", "s1", "--kind", "embedding")
    assert "s1" in call_main("sessions").out
    assert (workplace / "elsewhere.db").exists() and not (workplace / "tunetrail.db").exists()
