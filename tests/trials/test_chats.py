"""What must hold of conversations that people bring, from a file to the tokens that are learnt."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.commands import CallMain

from tunetrail.learning.language_model.module import load_tokenizer
from tunetrail.learning.tokens.chat import label_record
from tunetrail.samples import Sample, SampleKind
from tunetrail.stores.database.manager import DatabaseManager

pytestmark = pytest.mark.usefixtures("empty_database")

CALL = {"name": "weather", "arguments": '{"town": "Oslo"}'}
WITH_CALL = [
    {"role": "user", "content": "Weather in Oslo?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "1", "type": "function", "function": CALL}],
    },
    {"role": "tool", "tool_call_id": "1", "content": "4"},
    {"role": "assistant", "content": "4 degrees."},
]
FRENCH = [{"from": "human", "value": "Number 3 in French?"}, {"from": "gpt", "value": "trois"}]
TOOLS = '[{"name": "count"}]'


def stored(call_main: CallMain, rows: list[dict[str, Any]], kind: str = "llm") -> list[Sample]:
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = call_main("ingest", "rows.jsonl", "--session", "s", "--kind", kind)
    assert result.exit_code == 0, result.err
    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        chunks = list(manager.read_samples("s", SampleKind.LLM))
    return [row.sample for chunk in chunks for row in chunk]


@pytest.mark.parametrize("kind", ["llm", "conversation"])
@pytest.mark.parametrize(
    "messages",
    [
        WITH_CALL,
        [WITH_CALL[0], {"role": "assistant", "function_call": CALL}, *WITH_CALL[2:]],
        [
            {"from": "human", "value": "Weather in Oslo?"},
            {"from": "function_call", "value": json.dumps(CALL)},
            {"from": "observation", "value": "4"},
            {"from": "gpt", "value": "4 degrees."},
        ],
    ],
)
def test_tool_calls_are_kept_as_calls(call_main: CallMain, messages: Any, kind: str) -> None:
    (sample,) = stored(call_main, [{"messages": messages}], kind)

    (call,) = json.loads(sample.content["messages"][1]["tool_calls"])
    assert call["function"] == {"name": "weather", "arguments": {"town": "Oslo"}}
    assert sample.content["messages"][3] == {"role": "assistant", "content": "4 degrees."}


@pytest.mark.parametrize("kind", ["llm", "conversation"])
@pytest.mark.parametrize("column", ["messages", "conversations", "conversation"])
def test_system_and_tools_next_to_a_conversation_belong_to_it(
    call_main: CallMain, column: str, kind: str
) -> None:
    row = {column: FRENCH, "system": "Answer in French only.", "tools": TOOLS}

    (sample,) = stored(call_main, [row], kind)

    contents = [turn["content"] for turn in sample.content["messages"]]
    assert contents == ["Answer in French only.", "Number 3 in French?", "trois"]
    assert json.loads(sample.content["tools"])[0]["function"] == {"name": "count"}


@pytest.mark.parametrize("kind", ["llm", "conversation"])
@pytest.mark.parametrize("mark", [{"weight": 0}, {"weight": 0.0}, {"weight": False}])
def test_an_answer_of_weight_0_is_read_and_never_learnt(
    call_main: CallMain, tiny_language_model: str, mark: dict[str, Any], kind: str
) -> None:
    messages = [
        {"role": "user", "content": "Capital of Peru?"},
        {"role": "assistant", "content": "Quito", **mark},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "No: Lima.", "weight": 1},
    ]

    (sample,) = stored(call_main, [{"messages": messages}], kind)

    whole = label_record(load_tokenizer(tiny_language_model), sample.content)
    learnt = [whole.text[begin:end] for begin, end in whole.spans]
    assert learnt == ["No: Lima.<|end|>"] and "Quito" in whole.text


@pytest.mark.parametrize("kind", ["llm", "conversation"])
def test_content_may_be_a_list_of_text_parts(call_main: CallMain, kind: str) -> None:
    texts = [{"type": "text", "text": "Number 3"}, {"type": "text", "text": "in French?"}]
    messages = [
        {"role": "user", "content": texts},
        {"role": "assistant", "content": [{"type": "output_text", "text": "trois"}]},
    ]
    (sample,) = stored(call_main, [{"messages": messages}], kind)
    contents = [turn["content"] for turn in sample.content["messages"]]
    assert contents == ["Number 3\nin French?", "trois"]


@pytest.mark.parametrize("part_type", ["image_url", "input_audio", "file"])
def test_a_part_that_is_no_text_is_the_reason(call_main: CallMain, part_type: str) -> None:
    messages = [
        {"role": "user", "content": [{"type": part_type, part_type: {}}]},
        {"role": "assistant", "content": "A cat."},
    ]
    Path("rows.jsonl").write_text(json.dumps({"messages": messages}) + "\n")

    result = call_main("ingest", "rows.jsonl", "--session", "s", "--kind", "llm")

    assert result.exit_code == 2
    assert f"got a part of type '{part_type}'" in result.err


@pytest.mark.parametrize("column", ["prompt", "question"])
def test_a_preference_after_several_turns_keeps_all_of_them(
    call_main: CallMain, tiny_language_model: str, column: str
) -> None:
    prompt = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Cold in Oslo?"},
        {"role": "assistant", "content": "Today?"},
        {"role": "user", "content": "Yes."},
    ]
    row: dict[str, Any] = {column: prompt}
    for answer, text in (("chosen", "Very."), ("rejected", "No idea.")):
        row[answer] = [{"role": "assistant", "content": text}]

    (sample,) = stored(call_main, [row])

    assert sample.content["prompt_messages"] == prompt
    assert (sample.content["chosen"], sample.content["rejected"]) == ("Very.", "No idea.")


def test_personal_data_in_calls_is_replaced_and_unlearnable_rows_are_listed(
    call_main: CallMain, tiny_language_model: str
) -> None:
    mail = {"name": "mail", "arguments": {"to": "ann.lee@example.com"}}
    calling = {"role": "assistant", "content": "Done.", "tool_calls": [{"function": mail}]}
    rows: list[dict[str, Any]] = []
    for index in range(40):
        answer = f"The answer to question {index} is {index * 7}."
        rows.append({"input": f"What is {index} times seven, please?", "output": answer})
    rows.append({"messages": [{"role": "user", "content": "Write to Ann Lee."}, calling]})
    rows.append(
        {"messages": [rows[-1]["messages"][0], {"role": "assistant", "content": "I can't."}]}
        | {"tools": TOOLS}
    )
    stored(call_main, rows)

    result = call_main(
        "prepare",
        "session_id=s",
        "model_type=llm",
        f"llm.model={tiny_language_model}",
        "output_dir=look",
    )

    assert result.exit_code == 0, result.err
    assert "conversations.unlearnable" in result.out
    set_aside = pd.read_parquet(next(Path("look").rglob("set_aside.parquet")))
    reasons = set_aside["reason"].tolist()
    # This template has neither calls nor tools.
    assert any("(assistant) is changed or dropped" in reason for reason in reasons)
    assert any("tools must be written by" in reason for reason in reasons)
    assert "ann.lee@example.com" not in " ".join(set_aside["before"])
