import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.commands import CallMain

from tunetrail import DatabaseManager, Session
from tunetrail.collecting import collect, with_feedback
from tunetrail.samples import SampleKind, sample_kinds

TIME = "2026-11-29T12:00:00Z"


def chat(question: str, answer: str, **columns: Any) -> dict[str, Any]:
    turns = [("user", question), ("assistant", answer)]
    messages = [{"role": role, "content": content} for role, content in turns]
    return {"messages": messages, "timestamp": TIME, **columns}


def logged(rows: list[dict[str, Any]], kind: str, database: str) -> list[str]:
    with Session("s1", kind, database) as session:
        return [session.log(row) for row in rows]


def stored(manager: DatabaseManager, session_id: str = "s1") -> list[tuple[Any, ...]]:
    """Everything that was stored for a session, except for row ids and times of storing."""
    samples = [
        (sample.sample, sample.sample.digest)
        for kind in sample_kinds()
        for chunk in manager.read_samples(session_id, kind)
        for sample in chunk
    ]
    rejected = [
        (row.kind, row.row_number, row.reason, row.row)
        for row in manager.rejected_samples(session_id)
    ]
    return [*samples, *rejected]


ROWS = {
    "embedding": [
        {"anchor": "how do I pay", "positive": "by card", "timestamp": TIME},
        {"anchor": "how do I pay", "positive": "by card", "timestamp": TIME},
        {"query": "where", "pos": ["here", "there"], "group": "g1", "timestamp": TIME},
        {"anchor": "no answer", "timestamp": TIME},
    ],
    "llm": [
        {"instruction": "say a", "output": "a", "timestamp": TIME},
        {"input": "say b", "output": "b", "feedback": "down", "timestamp": TIME},
        {"input": "say c", "output": "c", "rating": 9, "timestamp": TIME},
        {"input": "say d", "output": "d", "rating": 4, "timestamp": TIME},
    ],
    "conversation": [
        chat("what is the price of a ticket", "10", feedback="down", own="column"),
        chat("what is the price of a ticket", "12", feedback="up"),
        chat("what is the price of a dog", "none"),
        {"messages": [], "timestamp": TIME},
    ],
}


@pytest.mark.parametrize("kind", ROWS)
def test_logged_rows_become_what_ingest_makes_of_a_file(
    kind: str, tmp_path: Path, call_main: CallMain
) -> None:
    rows = ROWS[kind]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    by_file, by_log = (f"sqlite:///{tmp_path}/{name}.db" for name in ("file", "log"))
    options = ["--session", "s1", "--kind", kind, "--database", by_file]

    assert call_main("ingest", "rows.jsonl", *options).exit_code == 0
    logged(rows, kind, by_log)

    with DatabaseManager(by_file) as expected, DatabaseManager(by_log) as actual:
        collection = collect(actual, "s1")
        assert collection is not None and collection.added > 0
        assert collect(actual, "s1") is None
        assert stored(actual) == stored(expected)


def test_feedback_takes_a_sample_back_and_brings_it_again(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/tunetrail.db"
    rows = [chat(f"what does number {n} mean", f"the answer {n}") for n in range(4)]
    ids = logged(rows, "conversation", database)

    with DatabaseManager(database) as manager, Session("s1", "conversation", database) as session:
        first = collect(manager, "s1")
        session.feedback(ids[1], "down")
        assert session.close()
        second = collect(manager, "s1")
        after_rejection = manager.session_summary("s1")
        session.feedback(ids[1], "up")
        session.feedback("0000000000000000-1", "up")
        assert session.close()
        third = collect(manager, "s1")
        at_the_end = manager.session_summary("s1")

    assert first is not None and (first.added, first.taken_back) == (8, 0)
    # The chat and the pair go; the verdict stays to be learnt from.
    assert second is not None and (second.added, second.taken_back) == (1, 2)
    assert after_rejection.shapes == {"embedding": {"pair": 3}, "llm": {"chat": 3, "verdict": 1}}
    assert third is not None and (third.added, third.taken_back) == (3, 1)
    assert third.unknown_feedback == 1
    assert at_the_end.shapes == {"embedding": {"pair": 4}, "llm": {"chat": 4, "verdict": 1}}
    assert at_the_end.rejected == 0


def test_feedback_never_takes_back_what_a_file_brought(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/tunetrail.db"
    row = {"input": "say a", "output": "a", "timestamp": TIME}
    with DatabaseManager(database) as manager, Session("s1", "llm", database) as session:
        manager.ingest("s1", [row], SampleKind.LLM)
        sample_id = session.log(row)
        session.log(input="say b", output="b")
        assert session.close()
        collect(manager, "s1")
        session.feedback(sample_id, "down")
        assert session.close()
        collection = collect(manager, "s1")

        assert collection is not None and collection.taken_back == 0
        assert manager.session_summary("s1").samples["llm"] == 2


def test_a_correction_of_an_answer_is_a_preference(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/tunetrail.db"
    with DatabaseManager(database) as manager, Session("s1", "conversation", database) as session:
        sample_id = session.log(chat("what is two plus two", "five"))
        session.feedback(sample_id, correction="four")
        assert session.close()
        collect(manager, "s1")

        shapes = manager.session_summary("s1").shapes["llm"]
        assert shapes == {"chat": 1, "preference": 1, "verdict": 2}


def test_feedback_is_about_the_last_answer_of_a_conversation() -> None:
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "feedback": "down"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d", "rating": 1},
    ]

    row = with_feedback({"messages": messages, "vote": -1, "group": "g"}, {"feedback": "up"})

    expected = [*messages[:3], {"role": "assistant", "content": "d", "feedback": "up"}]
    assert row == {"messages": expected, "group": "g"}
    assert with_feedback({"input": "a", "rating": 1}, {"feedback": 1}) == {
        "input": "a",
        "feedback": 1,
    }


def test_sessions_command_shows_what_was_logged(tmp_path: Path, call_main: CallMain) -> None:
    logged([{"input": "say a", "output": "a"}, {"input": "no output"}], "llm", "sqlite:///t.db")

    result = call_main("sessions", "--database", "sqlite:///t.db")

    assert result.exit_code == 0
    line = "logged by applications for session s1: 1 sample added, 1 row rejected"
    assert result.out.startswith(line)
    assert re.search(r"^ *s1 +0 +1 +1 +new +never", result.out, flags=re.MULTILINE)


def test_collecting_an_unknown_session_does_nothing(tmp_path: Path) -> None:
    with DatabaseManager(f"sqlite:///{tmp_path}/tunetrail.db") as manager:
        assert collect(manager, "nobody") is None
        assert manager.is_missing()


def test_ratings_are_on_one_scale_for_all_logged_rows(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/tunetrail.db"
    with DatabaseManager(database) as manager, Session("s1", "llm", database) as session:
        for number, rating in enumerate((4, 10)):
            session.feedback(session.log(input=f"say {number}", output="a"), rating=rating)
        assert session.close()
        collect(manager, "s1")

        (rejected,) = manager.rejected_samples("s1")
        assert "4 of 10 points" in rejected.reason
