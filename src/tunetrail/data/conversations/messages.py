"""Messages as applications log them, in OpenAI's or ShareGPT's notation, read as turns of text. Derives no samples.

The text of a message is its `content` (or `value`): a string, or a list of parts, whose texts are joined by line
breaks. An assistant's tool calls become text as well, a line of JSON each: `{"name": ..., "arguments": ...}`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

from tunetrail.data.conversations.feedback import Verdict, verdict_of
from tunetrail.errors import SampleError, did_you_mean

MESSAGE_COLUMNS = ("messages", "conversation", "conversations")
_JOINED_ROLES = ("system", "user", "assistant")
_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
_TEXT_PARTS = ("text", "input_text", "output_text")
_SHOWN_CHARACTERS = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What one side says before another does.

    Attributes:
        role: system, user, assistant or tool.
        text: What is said; tool calls included.
        messages: The messages as they were logged.
        calls: Whether a tool is called.
        problem: Why nothing can be learnt from it; empty where something can.
        rejected: Whether that is feedback.
    """

    role: str
    text: str
    messages: tuple[Mapping[str, Any], ...]
    calls: bool = False
    problem: str = ""
    rejected: bool = False


def messages_of(row: Mapping[str, Any]) -> list[Any]:
    """Return the messages of a logged conversation, unread; in a CSV file they are JSON.

    Raises:
        SampleError: No column holds a list of messages.
    """
    column = next((column for column in MESSAGE_COLUMNS if row.get(column) is not None), None)
    if column is None:
        given = sorted(map(str, row))
        hint = next((hint for name in given if (hint := did_you_mean(name, MESSAGE_COLUMNS))), "")
        wanted = "; ".join(MESSAGE_COLUMNS)
        raise SampleError(
            f"columns must hold one of [{wanted}] for a conversation, got [{', '.join(given)}].{hint}"
        )
    value = row[column]
    if isinstance(value, str):
        value = _json_or_text(value)
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, list | tuple) or not value:
        raise SampleError(
            f"{column} must be a non-empty list of {{role, content}}, got {_shortened(value)}."
        )
    return list(value)


def read_turns(messages: Sequence[Any], verdict: Verdict | None = None) -> list[Turn]:
    """Return the turns of a conversation; the system's and the user's messages in a row are one turn.

    Args:
        messages: As `messages_of` returns them.
        verdict: What feedback says of the conversation; it counts for the answers without feedback of their own.

    Raises:
        SampleError: A message is malformed.
    """
    turns, answer = [], 0
    for number, message in enumerate(messages):
        role = _role(number, message)
        answer += role == "assistant"
        turns.append(_turn(number, role, answer, message, verdict))
    return joined(turns, ("system", "user"))


def joined(turns: Iterable[Turn], roles: Sequence[str] = _JOINED_ROLES) -> list[Turn]:
    """Return the turns with neighbours of one of these roles made one, their texts in paragraphs."""
    result: list[Turn] = []
    for role, neighbours in groupby(turns, key=lambda turn: turn.role):
        several = list(neighbours)
        if len(several) == 1 or role not in roles:
            result.extend(several)
            continue
        result.append(
            Turn(
                role=role,
                text="\n\n".join(turn.text for turn in several if turn.text),
                messages=tuple(chain.from_iterable(turn.messages for turn in several)),
                calls=any(turn.calls for turn in several),
                problem=next((turn.problem for turn in several if turn.problem), ""),
            )
        )
    return result


def _role(number: int, message: Any) -> str:
    name = (message.get("role") or message.get("from")) if isinstance(message, Mapping) else None
    if name is None:
        raise SampleError(
            f"messages[{number}] must have role and content, got {_outline(message)}."
        )
    role = _ROLES.get(name.casefold()) if isinstance(name, str) else None
    if role is None:
        raise SampleError(
            f"messages[{number}].role must be one of {', '.join(_ROLES)}, got {_shortened(name)}."
        )
    return role


def _turn(
    number: int, role: str, answer: int, message: Mapping[str, Any], default: Verdict | None
) -> Turn:
    text, foreign = _content(number, role, message)
    calls = _calls(number, message) if role == "assistant" else []
    own = verdict_of(message)
    if own is not None and role != "assistant":
        raise SampleError(
            f"messages[{number}] must have no feedback, as it's the {role}'s, got {own.given}. Move it."
        )
    verdict = own or default
    problem, rejected = "", False
    if role == "assistant" and verdict is not None and not verdict.accepted:
        whose = "feedback" if own else "the conversation's feedback"
        problem, rejected = (
            f"assistant answer {answer} was rejected by {whose}: {verdict.given}",
            True,
        )
    elif foreign:
        problem = f"messages[{number}] ({role}) holds more than text ({foreign})"
    elif role == "assistant" and not calls and not text.strip():
        problem = f"assistant answer {answer} is empty"
    return Turn(
        role=role,
        text="\n".join([*([text] if text else []), *calls]),
        messages=(message,),
        calls=bool(calls) or message.get("from") == "function_call",
        problem=problem,
        rejected=rejected,
    )


def _content(number: int, role: str, message: Mapping[str, Any]) -> tuple[str, str]:
    """Return a message's text, and the type of the first part of it that is no text."""
    content: Any = message.get("content")
    if content is None:
        content = message.get("value")
    if isinstance(content, str):
        return content, ""
    if content is None and role in ("assistant", "tool"):
        return "", ""
    if hasattr(content, "tolist"):
        content = content.tolist()
    if not isinstance(content, list | tuple):
        raise SampleError(
            f"messages[{number}].content must be text or a list of parts, got {type(content).__name__}."
        )
    texts, foreign = [], ""
    for position, part in enumerate(content):
        text, kind = _part(part)
        if text is not None:
            texts.append(text)
        elif kind is None:
            raise SampleError(
                f"messages[{number}].content[{position}] must be a text or a part with a type, got {_outline(part)}."
            )
        foreign = foreign or (kind if text is None and kind is not None else "")
    return "\n".join(texts), foreign


def _part(part: Any) -> tuple[str | None, str | None]:
    """Return the text of a part of a message, or what else it is; (None, None) for what is no part."""
    if isinstance(part, str):
        return part, None
    if not isinstance(part, Mapping):
        return None, None
    kind = part.get("type") or "text"
    if not isinstance(kind, str):
        return None, None
    text = part.get("refusal" if kind == "refusal" else "text")
    if kind == "refusal" or kind in _TEXT_PARTS:
        return (text, None) if isinstance(text, str) else (None, None)
    return None, kind[:_SHOWN_CHARACTERS]


def _calls(number: int, message: Mapping[str, Any]) -> list[str]:
    calls: Any = message.get("tool_calls")
    if calls is None:
        calls = []
    if hasattr(calls, "tolist"):
        calls = calls.tolist()
    if message.get("function_call") is not None:  # OpenAI's older notation
        calls = [message["function_call"]]
    if not isinstance(calls, list | tuple) or not all(isinstance(call, Mapping) for call in calls):
        raise SampleError(
            f"messages[{number}].tool_calls must be a list of calls, got {_outline(calls)}."
        )
    try:
        return [json.dumps(_plain_call(call), ensure_ascii=False, default=str) for call in calls]
    except (RecursionError, ValueError, TypeError) as error:
        raise SampleError(
            f"messages[{number}].tool_calls must be plain JSON, not too deep, got more."
        ) from error


def _plain_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, Mapping):
        return {
            str(name): value
            for name, value in call.items()
            if name not in ("id", "type") and value is not None
        }
    arguments = function.get("arguments")
    return {
        "name": function.get("name"),
        "arguments": _json_or_text(arguments) if isinstance(arguments, str) else arguments,
    }


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _outline(value: Any) -> str:
    """Return what a value looks like, without what people wrote in it."""
    return (
        f"one with {_shortened(sorted(map(str, value)))}"
        if isinstance(value, Mapping)
        else type(value).__name__
    )


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."
