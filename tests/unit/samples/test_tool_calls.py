import json
from typing import Any

import pytest

from tunetrail.errors import SampleError
from tunetrail.samples.messages import (
    checked_messages,
)
from tunetrail.samples.tool_calls import checked_tools, is_tool_list

QUESTION = {"role": "user", "content": "Weather in Oslo?"}


CALL = {
    "id": "1",
    "type": "function",
    "function": {"name": "weather", "arguments": {"town": "Oslo"}},
}


CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}


ANSWER = {"role": "assistant", "content": "4 degrees."}


@pytest.mark.parametrize(
    "calling",
    [
        CALLING,
        {**CALLING, "content": None},
        {"role": "assistant", "tool_calls": json.dumps([CALL])},
        {**CALLING, "tool_calls": [{"id": "1", "name": "weather", "arguments": {"town": "Oslo"}}]},
        {
            **CALLING,
            "tool_calls": [
                {**CALL, "function": {"name": "weather", "arguments": '{"town": "Oslo"}'}}
            ],
        },
    ],
)
def test_calls_in_every_notation_are_stored_as_openai_writes_them(calling: dict[str, Any]) -> None:
    tool = {"role": "tool", "tool_call_id": "1", "name": "weather", "content": "4"}

    messages = checked_messages([QUESTION, calling, tool, ANSWER], "messages")

    assert json.loads(messages[1].pop("tool_calls")) == [CALL]
    assert messages == [QUESTION, {"role": "assistant", "content": ""}, tool, ANSWER]


def test_tools_are_stored_in_openais_notation() -> None:
    schema = {"name": "weather", "parameters": {"type": "object"}}
    stored = json.dumps([{"type": "function", "function": schema}])

    assert checked_tools([schema], "tools") == stored == checked_tools(stored, "tools")
    assert is_tool_list(stored) and not is_tool_list("weather")
    for value in ("weather", [], ["weather"], [{}], 5):
        with pytest.raises(SampleError, match="tools must be a non-empty list of tools"):
            checked_tools(value, "tools")
