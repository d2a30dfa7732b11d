import json
from typing import Any

import numpy as np
import pytest

from tunetrail.errors import SampleError
from tunetrail.samples import SampleKind, parse_sample
from tunetrail.samples.messages import (
    checked_messages,
    has_answer,
    is_conversation,
    map_json_texts,
    map_texts,
    without_absent,
)
from tunetrail.samples.tool_calls import is_tool_list

QUESTION = {"role": "user", "content": "Weather in Oslo?"}
CALL = {
    "id": "1",
    "type": "function",
    "function": {"name": "weather", "arguments": {"town": "Oslo"}},
}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
ANSWER = {"role": "assistant", "content": "4 degrees."}


def test_is_conversation_wants_known_roles_and_texts() -> None:
    turn = {"role": "user", "content": "Hi", "name": "Ann"}

    assert is_conversation([turn]) and is_conversation(np.array([turn]))
    for value in ([], [{"role": "bot", "content": "Hi"}], [{"role": "user"}], ["Hi"], "Hi", None):
        assert not is_conversation(value)
    assert not is_conversation([{**turn, "tool_calls": 5}])


def test_an_answer_is_an_assistant_turn_with_text_or_a_call_that_is_learnt() -> None:
    blank = {"role": "assistant", "content": " "}

    assert has_answer([QUESTION, ANSWER])
    assert has_answer([QUESTION, {**blank, "tool_calls": "[...]"}])
    assert not has_answer([QUESTION, blank])
    assert not has_answer([QUESTION, {**ANSWER, "weight": 0.0}])


def test_sharegpt_messages_are_the_same_conversation() -> None:
    call = json.dumps({"name": "weather", "arguments": {"town": "Oslo"}})
    sharegpt = [
        {"from": "human", "value": "Weather in Oslo?"},
        {"from": "function_call", "value": call},
        {"from": "observation", "value": "4"},
        {"from": "gpt", "value": "4 degrees."},
    ]

    messages = checked_messages(sharegpt, "messages")

    (stored,) = json.loads(messages[1].pop("tool_calls"))
    assert stored == {key: CALL[key] for key in ("type", "function")}
    calling, tool = {"role": "assistant", "content": ""}, {"role": "tool", "content": "4"}
    assert messages == [QUESTION, calling, tool, ANSWER]


def test_weight_0_is_stored_and_weight_1_is_not() -> None:
    messages = [QUESTION, {**ANSWER, "weight": 0}, QUESTION, {**ANSWER, "weight": 1}]

    weights = [message.get("weight") for message in checked_messages(messages, "messages")]

    assert weights == [None, 0.0, None, None]


def test_text_parts_are_joined_and_reasoning_becomes_thoughts() -> None:
    texts = [{"type": "text", "text": "Weather"}, {"type": "text", "text": "in Oslo?"}]
    reasoned = {**ANSWER, "reasoning_content": "Cold, then."}

    user, assistant = checked_messages([{"role": "user", "content": texts}, reasoned], "messages")

    assert user["content"] == "Weather\nin Oslo?"
    assert assistant["content"] == "<think>\nCold, then.\n</think>\n\n4 degrees."


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, ANSWER],
            r"messages\[0\].content must hold only text, got a part of type 'image_url'",
        ),
        ([{**QUESTION, "images": ["a.png"]}, ANSWER], r"messages\[0\] must hold only text, got im"),
        ([QUESTION, {**ANSWER, "weight": 0.5}], r"messages\[1\].weight must be 0 or 1, got 0.5"),
        (
            [QUESTION, {**ANSWER, "weight": 0}],
            "must have an assistant turn .* only turns of weight",
        ),
        (
            [QUESTION, {**CALLING, "tool_calls": [{"id": "1"}]}],
            "tool_calls must be a list of calls",
        ),
        ([QUESTION, {"role": "assistant"}], r"messages\[1\] must have content"),
    ],
)
def test_what_is_no_text_is_named(messages: list[Any], reason: str) -> None:
    with pytest.raises(SampleError, match=reason):
        checked_messages(messages, "messages")


def test_texts_in_calls_are_changed_where_they_are() -> None:
    calls = json.dumps([{"function": {"name": "call", "arguments": {"to": 491701234567, "n": 3}}}])

    changed = map_texts({"role": "assistant", "content": "hi", "tool_calls": calls}, str.upper)

    assert changed["content"] == "HI" and '"name": "CALL"' in changed["tool_calls"]
    masked = map_json_texts(calls, lambda text: "[PHONE]" if text.startswith("49") else text)
    assert masked == calls.replace("491701234567", '"[PHONE]"')


def test_absent_keys_of_a_table_are_left_out() -> None:
    turns = [{**QUESTION, "tool_calls": None, "weight": None}, ANSWER]
    assert without_absent(turns) == [QUESTION, ANSWER]


def test_samples_without_any_of_this_keep_their_digest() -> None:
    chat = parse_sample({"messages": [QUESTION, ANSWER]}, SampleKind.LLM)
    assert chat.content == {"messages": [QUESTION, ANSWER]}
    assert (
        chat.digest == parse_sample({"messages": [QUESTION, ANSWER], "tools": None}, "llm").digest
    )


@pytest.mark.parametrize(
    ("prompt", "repeats"), [("Hi", []), ([{"role": "user", "content": "Hi"}], []), (None, ["Hi"])]
)
def test_a_preference_of_one_turn_is_the_same_as_texts_or_messages(
    prompt: Any, repeats: list[str]
) -> None:
    first = [{"role": "user", "content": text} for text in repeats]
    row = {"prompt": prompt, "chosen": [*first, ANSWER], "rejected": [*first, QUESTION | ANSWER]}
    row["rejected"][-1] = {"role": "assistant", "content": "No."}

    sample = parse_sample(row, SampleKind.LLM)

    texts = {"prompt": "Hi", "chosen": "4 degrees.", "rejected": "No."}
    assert sample == parse_sample(texts, SampleKind.LLM)


def test_a_preference_after_several_turns_keeps_them() -> None:
    system = {"role": "system", "content": "Be brief."}
    prompt = [system, QUESTION, CALLING, {"role": "tool", "content": "4"}]
    row = {"prompt": prompt, "chosen": "4 degrees.", "rejected": [{**ANSWER, "content": "No."}]}

    sample = parse_sample({**row, "tools": [{"name": "weather"}]}, SampleKind.LLM)

    assert sample.shape == "preference_chat"
    roles = [turn["role"] for turn in sample.content["prompt_messages"]]
    assert roles == ["system", "user", "assistant", "tool"]
    assert (sample.content["chosen"], sample.content["rejected"]) == ("4 degrees.", "No.")
    assert is_tool_list(sample.content["tools"])


@pytest.mark.parametrize(
    ("chosen", "reason"),
    [
        ([ANSWER, QUESTION], "chosen and rejected must differ in their last answer only"),
        ([CALLING], "chosen must be text, got an answer that calls a tool"),
    ],
)
def test_answers_that_cannot_be_compared_are_refused(chosen: list[Any], reason: str) -> None:
    row = {"prompt": "Hi", "chosen": chosen, "rejected": [{**ANSWER, "content": "No."}]}
    with pytest.raises(SampleError, match=reason):
        parse_sample(row, SampleKind.LLM)
