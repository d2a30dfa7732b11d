"""Exports of chat front ends are conversations: Open WebUI's trees of messages and Chatbot UI's history."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.commands import CallMain

from tunetrail.data.conversations.front_ends import without_front_ends
from tunetrail.samples import BrokenRow, Sample, SampleKind, SourceRow
from tunetrail.stores.database.manager import DatabaseManager

pytestmark = pytest.mark.usefixtures("empty_database")

QUESTION = "How do I reset the password of my account?"


def message(name: str, parent: str | None, role: str, content: str, **keys: Any) -> dict[str, Any]:
    return {
        "id": name,
        "parentId": parent,
        "childrenIds": [],
        "role": role,
        "content": content,
    } | keys


def open_webui(name: str, *messages: dict[str, Any], shown: str, **chat: Any) -> dict[str, Any]:
    tree = {"messages": {each["id"]: each for each in messages}, "currentId": shown}
    return {
        "id": name,
        "user_id": "u1",
        "title": "A chat",
        "chat": {"title": "A chat", "models": ["m"], "history": tree, "messages": [], **chat},
        "updated_at": 1_764_000_100,
        "created_at": 1_764_000_000,
        "archived": False,
    }


def chatbot_ui(*chats: dict[str, Any]) -> dict[str, Any]:
    return {"version": 4, "history": list(chats), "folders": [], "prompts": []}


def ingest(call_main: CallMain, export: Any, *, exit_code: int = 0) -> str:
    Path("export.json").write_text(json.dumps(export, indent=2), encoding="utf-8")
    result = call_main("ingest", "export.json", "--session", "s", "--kind", "conversation")
    assert result.exit_code == exit_code, result.err
    return result.out + result.err


def samples_of(kind: SampleKind) -> list[Sample]:
    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        return [stored.sample for chunk in manager.read_samples("s", kind) for stored in chunk]


def learnt_chats() -> list[list[tuple[str, str]]]:
    """The chats, each as the role and the text of its turns; turns of weight 0 are context only."""
    chats = [
        sample.content["messages"]
        for sample in samples_of(SampleKind.LLM)
        if sample.shape == "chat"
    ]
    return [
        [("context" if turn.get("weight") == 0 else turn["role"], turn["content"]) for turn in chat]
        for chat in chats
    ]


def test_the_shown_branch_is_learnt_and_a_better_answer_is_preferred(call_main: CallMain) -> None:
    chat = open_webui(
        "c1",
        message("1", None, "user", QUESTION),
        message("2", "1", "assistant", "No idea.", annotation={"rating": -1, "reason": "other"}),
        message("3", "1", "assistant", "Click on Reset.", annotation={"rating": 1}),
        message("4", "3", "user", "Where exactly do I find this button?"),
        message("5", "4", "assistant", "At the top."),
        shown="5",
        params={"system": "Be kind."},
    )

    printed = ingest(call_main, [chat])

    assert "read as Open WebUI: 2 rows" in printed
    (learnt,) = learnt_chats()
    assert learnt == [
        ("system", "Be kind."),
        ("user", QUESTION),
        ("assistant", "Click on Reset."),
        ("user", "Where exactly do I find this button?"),
        ("assistant", "At the top."),
    ]
    (preference,) = [
        sample for sample in samples_of(SampleKind.LLM) if sample.shape == "preference_chat"
    ]
    assert (preference.content["chosen"], preference.content["rejected"]) == (
        "Click on Reset.",
        "No idea.",
    )
    assert preference.group == "c1" and preference.timestamp == "2025-11-24T16:00:00+00:00"
    assert "kept, not learnt from: title" in printed and "updated_at" not in printed


def test_an_accepted_answer_of_another_branch_is_learnt_after_its_context(
    call_main: CallMain,
) -> None:
    chat = open_webui(
        "c1",
        message("1", None, "user", QUESTION),
        message("2", "1", "assistant", "Click on Reset."),
        message("3", "2", "user", "And how do I choose a good one?"),
        message("4", "3", "assistant", "Take four words.", annotation={"rating": 1}),
        message("5", "3", "assistant", "As you like."),
        shown="5",
    )

    ingest(call_main, [chat])

    shown, other = learnt_chats()
    assert [role for role, _ in shown] == ["user", "assistant", "user", "assistant"]
    assert other[1] == ("context", "Click on Reset.") and other[3] == (
        "assistant",
        "Take four words.",
    )
    pairs = [sample.content["positive"] for sample in samples_of(SampleKind.EMBEDDING)]
    assert sorted(pairs) == ["As you like.", "Click on Reset.", "Take four words."]


def test_a_chat_of_an_old_version_has_no_branches(call_main: CallMain) -> None:
    turns = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": "Click on Reset."},
    ]
    printed = ingest(call_main, [{"id": "c1", "title": "A chat", "chat": {"messages": turns}}])
    assert "read as Open WebUI: 1 row" in printed
    assert learnt_chats() == [[("user", QUESTION), ("assistant", "Click on Reset.")]]


@pytest.mark.parametrize(
    ("content", "learnt"),
    [
        (
            '<details type="reasoning" done="true" duration="2">\n<summary>Thought for 2 seconds</summary>\n'
            "> They ask for a page.\n> I know it.\n</details>\nOpen the page.",
            "<think>\nThey ask for a page.\nI know it.\n</think>\n\nOpen the page.",
        ),
        (
            '<details type="reasoning" done="true">\n<summary>Thought</summary>\n&gt; a &lt; b\n</details>\nYes.',
            "<think>\na < b\n</think>\n\nYes.",
        ),
        (
            "<details><summary>More</summary>text</details>",
            "<details><summary>More</summary>text</details>",
        ),
    ],
)
def test_thoughts_are_told_apart_from_the_answer(
    call_main: CallMain, content: str, learnt: str
) -> None:
    question = message("1", None, "user", QUESTION)
    ingest(
        call_main, [open_webui("c", question, message("2", "1", "assistant", content), shown="2")]
    )
    assert learnt_chats() == [[("user", QUESTION), ("assistant", learnt)]]


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ({"files": [{"type": "image", "url": "data:"}]}, "A cat.", "image"),
        ({"files": [{"type": "collection"}]}, "As the document says.", "collection"),
        (
            {},
            '<details type="tool_calls" done="true" name="search">\n<summary>Done</summary>\n</details>\nHere.',
            "tool_calls",
        ),
    ],
)
def test_what_was_more_than_text_is_not_learnt(
    call_main: CallMain, question: dict[str, Any], answer: str, reason: str
) -> None:
    asked = message("1", None, "user", "What do you see in it?", **question)
    seen = open_webui("c1", asked, message("2", "1", "assistant", answer), shown="2")
    plain = [
        message("1", None, "user", QUESTION),
        message("2", "1", "assistant", "Click on Reset."),
    ]

    printed = ingest(call_main, [seen, open_webui("c2", *plain, shown="2")])

    assert learnt_chats() == [[("user", QUESTION), ("assistant", "Click on Reset.")]]
    assert f"holds more than text ({reason})" in printed


@pytest.mark.parametrize(
    ("parent", "shown"), [("2", "2"), (None, "7"), ("9", "2"), (None, None), (None, 5)]
)
def test_a_broken_tree_is_rejected_and_the_other_chats_are_read(
    call_main: CallMain, parent: str | None, shown: Any
) -> None:
    turns = [
        message("1", parent, "user", QUESTION),
        message("2", "1", "assistant", "Click on Reset."),
    ]
    whole = [message("1", None, "user", QUESTION), message("2", "1", "assistant", "Click there.")]

    printed = ingest(
        call_main,
        [open_webui("broken", *turns, shown=shown), open_webui("whole", *whole, shown="2")],
    )

    assert learnt_chats() == [[("user", QUESTION), ("assistant", "Click there.")]]
    assert "1 malformed row" in printed and "chat.history." in printed


def test_chatbot_ui_has_many_conversations_in_one_object(call_main: CallMain) -> None:
    turns = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": "Click on Reset."},
    ]
    export = chatbot_ui(
        {"id": "a", "name": "A", "messages": turns, "prompt": "Be kind.", "folderId": None},
        {"id": "b", "name": "B", "messages": turns[:1], "prompt": "", "folderId": None},
        {"id": "c", "name": "C", "messages": turns, "prompt": "", "folderId": None},
    )

    printed = ingest(call_main, export)

    assert "read as Chatbot UI: 3 rows" in printed and "2 conversations read" in printed
    question, answer = ("user", QUESTION), ("assistant", "Click on Reset.")
    assert learnt_chats() == [[("system", "Be kind."), question, answer], [question, answer]]
    assert (
        "messages must have an assistant's answer to a user" in printed
        and "kept, not learnt from: name" in printed
    )


@pytest.mark.parametrize("kind", ["llm", "embedding"])
def test_another_kind_is_refused_with_the_right_one(call_main: CallMain, kind: str) -> None:
    turns = [
        message("1", None, "user", QUESTION),
        message("2", "1", "assistant", "Click on Reset."),
    ]
    Path("export.json").write_text(json.dumps([open_webui("c", *turns, shown="2")]))
    result = call_main("ingest", "export.json", "--session", "s", "--kind", kind)
    assert result.exit_code == 2 and "--kind conversation" in result.err


def test_other_rows_pass_as_they_are() -> None:
    rows: list[Any] = [
        {"messages": [], "history": [{"messages": []}]},
        {"history": [["q", "a"]]},
        {"chat": "text"},
        BrokenRow(text="{", reason="broken"),
    ]
    assert list(without_front_ends(rows)) == rows


def test_a_conversation_knows_the_line_of_its_export() -> None:
    row = SourceRow(chatbot_ui({"messages": [1]}), "export.jsonl", 7)
    (conversation,) = without_front_ends([row])
    assert isinstance(conversation, SourceRow)
    assert (conversation.source, conversation.position) == ("export.jsonl", 7)
