"""Tools of a chat, and the calls of them, in OpenAI's notation."""

import json
from collections.abc import Mapping
from typing import Any

from tunetrail.errors import SampleError
from tunetrail.samples.values import as_list, checked_text, is_text, shortened


def is_tool_list(value: Any) -> bool:
    """Tell whether a value is the JSON text of a non-empty list, as `checked_tools` returns it."""
    return is_text(value) and isinstance(_json_or_none(value), list)


def checked_tools(value: Any, column: str) -> str:
    """Return tools that a model may call as JSON text: a non-empty list of their schemas.

    Raises:
        SampleError: The value isn't a list of objects, each with a name.
    """
    tools = _json_or_none(value) if isinstance(value, str) else value
    schemas = as_list(tools)
    if not schemas or not all(map(_tool_name, schemas)):
        raise SampleError(
            f"{column} must be a non-empty list of tools, each an object with a name, got "
            f"{shortened(value)}. Remove the column if there are no tools."
        )
    return checked_json([_plain_tool(schema) for schema in schemas], column)


def read_calls(turn: Mapping[str, Any], place: str) -> list[dict[str, Any]]:
    """Return the calls of a turn, in whichever of three notations it has them.

    Raises:
        SampleError: They aren't a list of calls with names.
    """
    calls = turn.get("tool_calls")
    if isinstance(calls, str) and calls.strip():
        calls = _json_or_none(calls)
    if is_filled(turn.get("function_call")):  # OpenAI's older notation
        calls = [turn["function_call"]]
    elif turn.get("from") == "function_call":  # ShareGPT's
        calls = _json_or_none(turn.get("value"))
        # Text that isn't JSON stays text.
        if calls is None:
            return []
        calls = calls if isinstance(calls, list) else [calls]
    if not is_filled(calls):
        return []

    plain = [_plain_call(call) for call in as_list(calls)]
    if not plain or None in plain:
        raise SampleError(
            f"{place}.tool_calls must be a list of calls, each with the name of a function, got "
            f"{shortened(calls)}."
        )
    return [call for call in plain if call is not None]


def _plain_call(call: Any) -> dict[str, Any] | None:
    """Return a call in OpenAI's notation with its arguments as an object, None if it is none."""
    if not isinstance(call, Mapping):
        return None
    # Older logs put the name and the arguments into the call itself.
    nested = call.get("function")
    function = nested if isinstance(nested, Mapping) else call
    name = function.get("name")
    if not isinstance(name, str) or not name:
        return None

    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        # Chat templates write objects themselves; a text would be quoted twice.
        parsed = _json_or_none(arguments)
        arguments = parsed if isinstance(parsed, dict) else arguments
    plain = {
        "type": "function",
        "function": {"name": name, "arguments": {} if arguments is None else arguments},
    }
    return {"id": str(call["id"]), **plain} if call.get("id") is not None else plain


def _tool_name(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return None
    function = schema.get("function")
    return (function if isinstance(function, Mapping) else schema).get("name")


def _plain_tool(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool in OpenAI's notation, which chat templates expect."""
    if isinstance(schema.get("function"), Mapping):
        return {"type": "function", **schema}
    return {"type": "function", "function": dict(schema)}


def is_filled(value: Any) -> bool:
    """Tell whether a value says something: logs have empty texts and lists in unused columns."""
    return value is not None and str(value).strip() not in ("", "[]", "{}", "nan")


def _json_or_none(text: Any) -> Any:
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None


def checked_json(value: Any, place: str) -> str:
    """Return a value as JSON text.

    Raises:
        SampleError: It can't be written as JSON.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (RecursionError, ValueError, TypeError) as error:
        raise SampleError(
            f"{place} must be plain JSON that isn't nested too deeply, but can't be written as "
            "JSON. Leave the row out."
        ) from error
    return checked_text(text, place)
