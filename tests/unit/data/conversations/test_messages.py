import json
from typing import Any

import numpy
import pytest

from tunetrail.data.conversations.feedback import Verdict
from tunetrail.data.conversations.messages import messages_of, read_turns
from tunetrail.errors import SampleError

CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Łódź"}'},
}


def said(*pairs: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in pairs]


def test_messages_of_takes_every_name_json_text_and_arrays() -> None:
    messages = said(("user", "q"), ("assistant", "a"))
    assert messages_of({"messages": messages}) == messages
    assert messages_of({"conversation": numpy.array(messages, dtype=object)}) == messages
    assert messages_of({"conversations": json.dumps(messages), "messages": None}) == messages


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"question": "q"},
            r"columns must hold one of \[messages; conversation; conversations\] .* got \[question\]",
        ),
        ({"mesages": []}, "Did you mean 'messages'"),
        ({"messages": []}, "messages must be a non-empty list"),
        (
            {"conversation": "no JSON"},
            "conversation must be a non-empty list of {role, content}, got 'no JSON'",
        ),
        ({"messages": "[" * 100_000}, "messages must be a non-empty list"),
        ({"messages": {"role": "user"}}, "messages must be a non-empty list"),
    ],
)
def test_messages_of_names_what_is_wrong(row: dict[str, Any], message: str) -> None:
    with pytest.raises(SampleError, match=message):
        messages_of(row)


def test_read_turns_knows_both_notations_and_all_roles() -> None:
    openai = said(
        ("developer", "s"), ("user", "q"), ("assistant", "a"), ("function", "f"), ("Tool", "t")
    )
    sharegpt = [
        {"from": "system", "value": "s"},
        {"from": "human", "value": "q"},
        {"from": "gpt", "value": "a"},
    ]

    assert [(turn.role, turn.text) for turn in read_turns(openai)] == [
        ("system", "s"),
        ("user", "q"),
        ("assistant", "a"),
        ("tool", "f"),
        ("tool", "t"),
    ]
    assert [(turn.role, turn.text) for turn in read_turns(sharegpt)] == [
        ("system", "s"),
        ("user", "q"),
        ("assistant", "a"),
    ]


def test_read_turns_joins_parts_and_the_messages_of_one_user() -> None:
    content = [{"type": "text", "text": "one", "image_url": None}, "two", {"text": "three"}]
    messages = said(
        ("user", content), ("user", "four"), ("assistant", [{"type": "refusal", "refusal": "No."}])
    )

    user, assistant = read_turns(messages)

    assert (user.text, user.messages, user.problem) == (
        "one\ntwo\nthree\n\nfour",
        tuple(messages[:2]),
        "",
    )
    assert assistant.text == "No."


def test_read_turns_keeps_the_assistants_messages_apart() -> None:
    assert [turn.text for turn in read_turns(said(("assistant", "a"), ("assistant", "b")))] == [
        "a",
        "b",
    ]


def test_read_turns_writes_tool_calls_as_json() -> None:
    line = '{"name": "weather", "arguments": {"city": "Łódź"}}'
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [CALL, CALL], "name": "bot"},
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": numpy.array([CALL], dtype=object),
        },
        {"role": "assistant", "function_call": {"name": "f", "arguments": "not JSON"}},
        {
            "role": "assistant",
            "tool_calls": [{"type": "custom", "id": "x", "custom": {"name": "sql", "input": "s"}}],
        },
        {"from": "function_call", "value": "{}"},
    ]

    turns = read_turns(messages)

    assert [turn.text for turn in turns] == [
        f"{line}\n{line}",
        f"I look.\n{line}",
        '{"name": "f", "arguments": "not JSON"}',
        '{"custom": {"name": "sql", "input": "s"}}',
        "{}",
    ]
    assert all(turn.calls and not turn.problem for turn in turns)


def test_read_turns_says_what_can_not_be_learnt_from() -> None:
    image = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:"}},
    ]
    messages = [
        *said(("user", image), ("assistant", " \n"), ("assistant", None)),
        {"role": "assistant", "content": "a", "thumbs": "down"},
        {"role": "assistant", "content": "b", "feedback": "up"},
        {"role": "assistant", "content": "c"},
    ]

    assert [(turn.problem, turn.rejected) for turn in read_turns(messages)] == [
        ("messages[0] (user) holds more than text (image_url)", False),
        ("assistant answer 1 is empty", False),
        ("assistant answer 2 is empty", False),
        ("assistant answer 3 was rejected by feedback: down", True),
        ("", False),
        ("", False),
    ]

    turns = read_turns(messages, Verdict(accepted=False, wording="2 of 5 stars"))
    assert [turn.rejected for turn in turns] == [False, True, True, True, False, True]
    assert (
        turns[-1].problem
        == "assistant answer 5 was rejected by the conversation's feedback: 2 of 5 stars"
    )


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("hello", r"messages\[0\] must have role and content, got str"),
        (
            {"content": "a secret"},
            r"messages\[0\] must have role and content, got one with \['content'\]",
        ),
        (
            {"role": "bot", "content": "a"},
            r"messages\[0\]\.role must be one of system, developer, user, .* got 'bot'",
        ),
        (
            {"role": ["user"], "content": "a"},
            r"messages\[0\]\.role must be one of .* got \['user'\]",
        ),
        (
            {"role": "user", "content": None},
            r"messages\[0\]\.content must be text or a list of parts, got NoneType",
        ),
        (
            {"role": "user", "content": 3},
            r"messages\[0\]\.content must be text or a list of parts, got int",
        ),
        (
            {"role": "user", "content": [3]},
            r"messages\[0\]\.content\[0\] must be a text or a part with.*got int",
        ),
        (
            {"role": "user", "content": [{"type": "text"}]},
            r"messages\[0\]\.content\[0\] must be a text or a part",
        ),
        (
            {"role": "user", "content": [{"type": 1}]},
            r"messages\[0\]\.content\[0\] must be a text or a part",
        ),
        (
            {"role": "assistant", "tool_calls": "x"},
            r"messages\[0\]\.tool_calls must be a list of calls, got str",
        ),
        (
            {"role": "user", "content": "a", "feedback": "up"},
            r"messages\[0\] must have no feedback, as it",
        ),
        ({"role": "assistant", "content": "a", "rating": 9}, "rating must say whether"),
    ],
)
def test_read_turns_names_what_is_wrong_and_repeats_no_text(message: Any, reason: str) -> None:
    with pytest.raises(SampleError, match=reason) as caught:
        read_turns([message])
    assert "secret" not in str(caught.value)


def test_read_turns_refuses_calls_that_are_too_deep() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]

    with pytest.raises(SampleError, match=r"messages\[0\]\.tool_calls must be plain JSON"):
        read_turns(
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": deep}}]}]
        )
