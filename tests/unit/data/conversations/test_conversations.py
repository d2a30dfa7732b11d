import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunetrail.data.conversations.conversations import Derived, derive
from tunetrail.errors import SampleError
from tunetrail.samples import Sample, SampleKind

QUESTION = "How do I reset my password?"
LATER = "How do I change my e-mail address?"


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def conversation(*messages: dict[str, Any], **columns: Any) -> dict[str, Any]:
    return {"id": "c1", "messages": list(messages), **columns}


def chat_of(derived: Derived) -> list[str] | None:
    """The chat as `role: content` lines."""
    chats = [sample for sample in derived.samples if sample.kind == SampleKind.LLM]
    assert len(chats) <= 1
    return (
        [f"{message['role']}: {message['content']}" for message in chats[0].content["messages"]]
        if chats
        else None
    )


def pairs_of(derived: Derived) -> list[tuple[str, str]]:
    pairs = [sample.content for sample in derived.samples if sample.kind == SampleKind.EMBEDDING]
    return [(pair["anchor"], pair["positive"]) for pair in pairs]


def reasons_of(derived: Derived) -> list[str]:
    return [rejection.reason for rejection in (*derived.rejected, *derived.unusable)]


def test_derive_gives_one_chat_and_a_pair_for_each_question() -> None:
    row = conversation(
        {"role": "developer", "content": "Be kind."},
        user(QUESTION),
        assistant("Click here."),
        user(LATER),
        assistant("Click there."),
        created_at=1_764_000_000,
        weight=2,
        language="en",
        nothing=None,
    )

    derived = derive(row)

    assert chat_of(derived) == [
        "system: Be kind.",
        f"user: {QUESTION}",
        "assistant: Click here.",
        f"user: {LATER}",
        "assistant: Click there.",
    ]
    assert pairs_of(derived) == [(QUESTION, "Click here."), (LATER, "Click there.")]
    assert {(sample.group, sample.timestamp) for sample in derived.samples} == {
        ("c1", "2025-11-24T16:00:00+00:00")
    }
    assert {sample.weight for sample in derived.samples} == {2.0}
    assert [sample.metadata for sample in derived.samples] == [{"language": "en"}, {}, {}]
    assert derived.kept == derived.samples


def test_derive_leaves_out_questions_that_can_not_stand_alone() -> None:
    short = ["and then?", "thanks", "yes please", "", "谢谢", "ขอบคุณ"]
    messages = [message for text in short for message in (user(text), assistant("ok"))]

    derived = derive(conversation(user("Reset?"), assistant("Click."), *messages))

    assert pairs_of(derived) == [("Reset?", "Click.")]
    assert [question.row["anchor"] for question in derived.short_questions] == short
    assert (
        derived.short_questions[0].reason
        == "a later question must have 5 words to stand alone, got 2"
    )
    assert chat_of(derived) is not None and not derived.rejected and not derived.unusable


@pytest.mark.parametrize(
    "text", ["one two three four five", "如何重置我的密码呢请告诉", "ฉันจะรีเซ็ตรหัสผ่านได้อย่างไร"]
)
def test_derive_keeps_later_questions_of_five_words(text: str) -> None:
    derived = derive(conversation(user("Hi"), assistant("Hi!"), user(text), assistant("ok")))
    assert pairs_of(derived) == [("Hi", "Hi!"), (text, "ok")]


def test_derive_leaves_a_blank_first_question_out() -> None:
    derived = derive(conversation(user(" "), assistant("Hi!")))
    assert pairs_of(derived) == [] and len(derived.short_questions) == 1


def test_derive_ends_the_chat_before_a_rejected_answer_and_keeps_the_rest() -> None:
    bad = assistant("Buy a new one.", feedback="thumbs_down")
    later_messages = [user(LATER), assistant("Click there.")]

    derived = derive(
        conversation(user("Hi"), assistant("Hello"), user(QUESTION), bad, *later_messages)
    )

    assert chat_of(derived) == ["user: Hi", "assistant: Hello"]
    assert pairs_of(derived) == [("Hi", "Hello"), (LATER, "Click there.")]

    reason = "assistant answer 2 was rejected by feedback: thumbs_down"
    assert reasons_of(derived) == [
        reason,
        f"{reason}, and the rest of the conversation builds on it",
    ]
    assert derived.rejected[0].row == {"group": "c1", "messages": [user(QUESTION), bad]}
    assert derived.unusable[0].row == {"group": "c1", "messages": later_messages}
    assert len(derived.kept) == 6


def test_derive_of_a_wholly_rejected_conversation_learns_nothing() -> None:
    derived = derive(
        conversation(user(QUESTION), assistant("a"), user(LATER), assistant("b"), rating=1)
    )

    assert derived.samples == ()
    assert [rejected.reason for rejected in derived.rejected] == [
        f"assistant answer {position} was rejected by the conversation's feedback: 1 of 5 stars"
        for position in (1, 2)
    ]


def test_derive_lets_an_answers_own_feedback_count_more() -> None:
    messages = (user(QUESTION), assistant("a", thumbs="up"), user(LATER), assistant("b"))
    derived = derive(conversation(*messages, feedback={"rating": "thumbsDown"}))
    assert chat_of(derived) == [f"user: {QUESTION}", "assistant: a"]
    assert pairs_of(derived) == [(QUESTION, "a")] and len(derived.rejected) == 1


def test_derive_goes_on_with_the_regenerated_answer() -> None:
    first, second = assistant("bad", rating=1), assistant("worse", feedback=False)
    derived = derive(
        conversation(user(QUESTION), first, second, assistant("good"), user(LATER), assistant("b"))
    )

    assert chat_of(derived) == [
        f"user: {QUESTION}",
        "assistant: good",
        f"user: {LATER}",
        "assistant: b",
    ]
    assert pairs_of(derived) == [(QUESTION, "good"), (LATER, "b")]
    assert [rejected.row["messages"] for rejected in derived.rejected] == [
        [user(QUESTION), first],
        [second],
    ]
    assert derived.unusable == ()


def test_derive_goes_on_with_the_same_question_asked_again() -> None:
    call = assistant(None, tool_calls=[{"function": {"name": "f", "arguments": "{}"}}])
    bad, tool = assistant("bad", feedback="down"), {"role": "tool", "content": "42"}
    messages = (
        user("Hi"),
        assistant("Hello"),
        user(QUESTION),
        call,
        tool,
        bad,
        user(f"{QUESTION} "),
        assistant("good"),
    )

    derived = derive(conversation(*messages))

    assert chat_of(derived) == [
        "user: Hi",
        "assistant: Hello",
        f"user: {QUESTION} ",
        "assistant: good",
    ]
    assert pairs_of(derived) == [("Hi", "Hello"), (f"{QUESTION} ", "good")]
    assert [rejected.row["messages"] for rejected in derived.rejected] == [
        [user(QUESTION), call, tool, bad]
    ]


def test_derive_never_learns_from_tool_calls_that_led_to_a_rejected_answer() -> None:
    call = assistant("I look.", tool_calls=[{"function": {"name": "f", "arguments": "{}"}}])
    tool = {"role": "tool", "content": "42"}
    bad = assistant("bad", feedback="down")

    derived = derive(conversation(user(QUESTION), call, tool, bad))

    assert derived.samples == () and derived.unusable == ()
    assert [rejected.row["messages"] for rejected in derived.rejected] == [
        [user(QUESTION), call, tool, bad]
    ]


def test_derive_keeps_tool_calls_and_results_in_the_chat_and_pairs_the_answer() -> None:
    call = assistant("I look.", tool_calls=[{"function": {"name": "f", "arguments": '{"x": 1}'}}])
    tools = [
        {"role": "tool", "content": "42", "name": "f"},
        {"role": "function", "content": None, "name": "f"},
    ]

    derived = derive(conversation(user(QUESTION), call, *tools, assistant("It's 42.")))

    assert chat_of(derived) == [
        f"user: {QUESTION}",
        "assistant: I look.",
        "tool: 42",
        "tool: ",
        "assistant: It's 42.",
    ]
    assert pairs_of(derived) == [(QUESTION, "It's 42.")]
    (chat, _) = derived.samples
    function = {"name": "f", "arguments": {"x": 1}}
    stored = chat.content["messages"][1]["tool_calls"]
    assert json.loads(stored) == [{"type": "function", "function": function}]


def test_derive_learns_no_answer_of_weight_0_and_pairs_nothing_with_it() -> None:
    quito = assistant("Quito", weight=0)

    derived = derive(conversation(user(QUESTION), quito, user("Sure?"), assistant("No: Lima.")))

    weights = [turn.get("weight") for turn in derived.samples[0].content["messages"]]
    assert weights == [None, 0.0, None, None]
    assert pairs_of(derived) == []
    assert derive(conversation(user(QUESTION), quito)).samples == ()


def test_derive_has_the_system_column_as_first_turn_and_the_tools() -> None:
    turns = (user(QUESTION), assistant("trois"))
    tools = [{"type": "function", "function": {"name": "count"}}]

    derived = derive(conversation(*turns, system="In French.", tools=json.dumps(tools)))

    assert chat_of(derived) == ["system: In French.", f"user: {QUESTION}", "assistant: trois"]
    assert json.loads(derived.samples[0].content["tools"]) == tools
    assert derived.samples[0].metadata == {}


def test_derive_ends_at_an_image_and_pairs_nothing_with_it() -> None:
    image = user(
        [
            {"type": "text", "text": "What do you see here, please?"},
            {"type": "image_url", "image_url": {}},
        ]
    )
    messages = (
        user("Hi"),
        assistant("Hello"),
        image,
        user("Look at it closely, please!"),
        assistant("A cat."),
    )

    derived = derive(conversation(*messages))

    assert chat_of(derived) == ["user: Hi", "assistant: Hello"]
    assert pairs_of(derived) == [("Hi", "Hello")]

    (unusable,) = derived.unusable
    assert unusable.reason.startswith(
        "messages[2] (user) holds more than text (image_url), and the rest of the"
    )
    assert unusable.row["messages"] == list(messages[2:])


def test_derive_keeps_a_tool_call_that_ends_at_an_image() -> None:
    call = assistant(None, tool_calls=[{"function": {"name": "f", "arguments": "{}"}}])
    messages = (
        user(QUESTION),
        call,
        {"role": "tool", "content": [{"type": "image"}]},
        assistant("a"),
    )

    derived = derive(conversation(*messages))

    assert derived.samples == ()
    assert [unusable.row["messages"] for unusable in derived.unusable] == [list(messages)]


def test_derive_keeps_an_unreadable_answer_that_was_given_again() -> None:
    audio = assistant([{"type": "audio", "audio": {}}])
    derived = derive(conversation(user(QUESTION), audio, assistant("Hello")))
    assert chat_of(derived) == [f"user: {QUESTION}", "assistant: Hello"]
    assert [unusable.row["messages"] for unusable in derived.unusable] == [[user(QUESTION), audio]]


def test_derive_leaves_out_greetings_and_questions_without_an_answer() -> None:
    system = {"role": "system", "content": "s"}
    messages = (
        system,
        assistant("Welcome!"),
        user(QUESTION),
        assistant("a"),
        assistant("b"),
        user("Thanks"),
    )

    derived = derive(conversation(*messages))

    assert chat_of(derived) == ["system: s", f"user: {QUESTION}", "assistant: a\n\nb"]
    assert pairs_of(derived) == [(QUESTION, "a\n\nb")]


def test_derive_reads_sharegpt() -> None:
    turns = [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": "a"}]
    derived = derive({"conversations": turns, "conversation_id": 7, "id": "row 1"})
    assert chat_of(derived) == [f"user: {QUESTION}", "assistant: a"]
    assert {sample.group for sample in derived.samples} == {"7"}


def test_derive_groups_conversations_without_an_id_by_their_first_question_and_answer() -> None:
    start = [user(QUESTION), assistant("a", feedback="down"), assistant("b")]
    row = {"messages": start, "id": "", "conversation_id": math.nan}
    grown = {"messages": [*start, user(LATER), assistant("c")]}
    with_another_answer = {"messages": [user(QUESTION), assistant("c")]}

    groups = [
        {sample.group for sample in derive(each_row).samples}
        for each_row in (row, grown, with_another_answer)
    ]

    assert groups[0] == groups[1] != groups[2]
    assert len(groups[0]) == 1 and next(iter(groups[0])).startswith("conversation-")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"timestamp": "2026-11-24T13:00:00+01:00"}, "2026-11-24T12:00:00+00:00"),
        (
            {"timestamp": "", "created_at": datetime(2026, 11, 24, 12, tzinfo=UTC)},
            "2026-11-24T12:00:00+00:00",
        ),
        ({"create_time": 1_764_000_000.5}, "2025-11-24T16:00:00.500000+00:00"),
        ({}, None),
    ],
)
def test_derive_takes_the_time_of_the_row(columns: dict[str, Any], expected: str | None) -> None:
    derived = derive(conversation(user(QUESTION), assistant("a"), **columns))
    assert [sample.timestamp for sample in derived.samples] == [expected, expected]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a"}, "columns must hold one of"),
        (conversation(user("a")), "must have an assistant's answer to a user, got none"),
        (conversation(assistant("a")), "must have an assistant's answer to a user, got none"),
        (
            conversation(assistant("a"), user("b")),
            "must have an assistant's answer to a user, got none",
        ),
        (conversation(user("a"), assistant("b"), feedback="meh"), "feedback must say whether"),
        (
            conversation(user("a"), assistant("b"), created_at="noon"),
            "created_at must be ISO 8601.* got 'noon'",
        ),
        (
            conversation(user("a"), assistant("b"), id=[1]),
            "id must be a string or an integer, got list",
        ),
        (conversation(user("a\ud800"), assistant("b")), "must be valid Unicode"),
    ],
)
def test_derive_refuses_malformed_conversations(row: dict[str, Any], message: str) -> None:
    with pytest.raises(SampleError, match=message):
        derive(row)


def test_derive_takes_time_and_space_in_proportion_to_the_conversation() -> None:
    question = user("word " * 200_000)
    answers = [assistant(f"answer {index}", feedback="down") for index in range(20_000)]

    derived = derive(
        conversation(question, *answers, *([user("more")] * 20_000), assistant("x" * 1_000_000))
    )

    assert (
        sum(len(json.dumps(rejection.row)) for rejection in (*derived.rejected, *derived.unusable))
        < 8_000_000
    )


TEXTS = st.sampled_from(["a", "b", "one two three four five", "", [{"type": "image"}]])
CALLS = st.just([{"function": {"name": "f", "arguments": "{}"}}])
OTHERS = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "user", "user", "system", "tool"]), "content": TEXTS}
)
ANSWERS = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": st.none() | TEXTS},
    optional={"feedback": st.sampled_from(["up", "down", None]), "tool_calls": CALLS},
)
CONVERSATIONS = st.fixed_dictionaries(
    {
        "messages": st.lists(OTHERS | ANSWERS, min_size=1, max_size=12),
        "feedback": st.sampled_from([None, None, "up", "down"]),
    }
)


@settings(max_examples=500)
@given(CONVERSATIONS)
def test_derive_never_learns_from_a_rejected_answer_and_loses_none(row: dict[str, Any]) -> None:
    for position, message in enumerate(row["messages"]):
        if isinstance(message.get("content"), str) and message["role"] == "assistant":
            message["content"] = f"n{position}! {message['content']}"

    try:
        derived = derive(row)
    except SampleError:
        return

    questions = [
        position for position, message in enumerate(row["messages"]) if message["role"] == "user"
    ]
    answers = [
        message for message in row["messages"][questions[0] :] if message["role"] == "assistant"
    ]
    rejected = [message for message in answers if not _is_accepted(message, row)]
    learnt = json.dumps([dict(sample.content) for sample in derived.samples])
    messages_kept = [
        message
        for kept_row in derived.kept
        if not isinstance(kept_row, Sample)
        for message in kept_row.row["messages"]
    ]
    assert len(derived.rejected) == len(rejected)
    assert all(message in messages_kept for message in rejected)

    for message in answers:
        if isinstance(message["content"], str):
            marker = message["content"].split()[0]
            assert (f"{marker} " in learnt) <= _is_accepted(message, row)
            assert f"{marker} " in learnt or message in messages_kept
    assert len({sample.group for sample in derived.samples}) <= 1


def _is_accepted(message: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    return (message.get("feedback") or row["feedback"]) != "down"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["role", "content", "type", "from"]), inner)
        ),
    )
)
def test_derive_of_anything_is_derived_or_a_sample_error(value: Any) -> None:
    for row in (
        {"messages": value},
        {"messages": [value]},
        conversation(user("a"), assistant("b"), group=value),
    ):
        try:
            derive(row)
        except SampleError:
            continue
