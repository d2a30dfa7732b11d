"""Read messages as applications log them, in OpenAI's or ShareGPT's notation, as turns of text.

The text of a message is its `content` (or `value`): a string, or a list of parts, whose texts are
joined by line breaks. To read a turn and to compare it, an assistant's tool calls are text as well,
a line of JSON for each call: `{"name": ..., "arguments": ...}`. A chat keeps them as calls, which
the model's chat template writes in its own form: `chat_message`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from tunetrail.data.conversations.feedback import Verdict, verdict_of
from tunetrail.errors import SampleError, did_you_mean
from tunetrail.samples.messages import ROLE_NAMES, checked_turns
from tunetrail.samples.values import shortened

MESSAGE_COLUMNS = ("messages", "conversation", "conversations")
# Tool results stay apart: each answers one call.
_MERGED_ROLES = ("system", "user", "assistant")
_TEXT_TYPES = ("text", "input_text", "output_text")
_SHOWN_CHARACTERS = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What one side says before another side speaks.

    Attributes:
        role: system, user, assistant or tool.
        text: What is said, including tool calls.
        messages: The messages as they were logged.
        calls: Whether a tool is called.
        problem: Why nothing can be learnt from the turn; empty if something can.
        rejected: Whether the problem is feedback that rejects the answer.
        context_only: Whether a weight of 0 says that the answer is read and not learnt.
        accepted: The verdict on an answer of text alone; None if there is none.
    """

    role: str
    text: str
    messages: tuple[Mapping[str, Any], ...]
    calls: bool = False
    problem: str = ""
    rejected: bool = False
    context_only: bool = False
    accepted: bool | None = None


def messages_of(row: Mapping[str, Any]) -> list[Any]:
    """Return the messages of a logged conversation as they were logged; in CSV they are JSON.

    Raises:
        SampleError: No column holds a list of messages.
    """
    column = next((name for name in MESSAGE_COLUMNS if row.get(name) is not None), None)
    if column is None:
        names = sorted(map(str, row))
        hints = (did_you_mean(name, MESSAGE_COLUMNS) for name in names)
        raise SampleError(
            f"columns must hold one of [{'; '.join(MESSAGE_COLUMNS)}] for a conversation, "
            f"got [{', '.join(names)}].{next(filter(None, hints), '')}"
        )

    value = row[column]
    if isinstance(value, str):
        value = _json_or_text(value)
    messages = _without_numpy(value)

    if not isinstance(messages, list | tuple) or not messages:
        raise SampleError(
            f"{column} must be a non-empty list of {{role, content}}, got "
            f"{shortened(messages, _SHOWN_CHARACTERS)}."
        )
    return list(messages)


def read_turns(messages: Sequence[Any], verdict: Verdict | None = None) -> list[Turn]:
    """Return the turns of a conversation.

    Consecutive messages of the system, and of the user, are one turn.

    Args:
        messages: As `messages_of` returns them.
        verdict: The feedback on the conversation; it counts for the answers that have no feedback
            of their own.

    Raises:
        SampleError: A message is malformed.
    """
    turns = []
    # Answers are counted from 1, as people count them when they read the reason of a problem.
    answer_number = 0
    for index, message in enumerate(messages):
        role = _read_role(index, message)
        answer_number += role == "assistant"
        turns.append(_read_turn(index, role, answer_number, message, verdict))
    return joined(turns, ("system", "user"))


def joined(turns: Iterable[Turn], roles: Sequence[str] = _MERGED_ROLES) -> list[Turn]:
    """Return the turns with neighbours of one of these roles merged, their texts as paragraphs."""
    merged: list[Turn] = []
    for role, group in groupby(turns, key=lambda turn: turn.role):
        neighbours = list(group)
        if len(neighbours) == 1 or role not in roles:
            merged.extend(neighbours)
            continue

        messages: list[Mapping[str, Any]] = []
        problem = ""
        for turn in neighbours:
            messages.extend(turn.messages)
            problem = problem or turn.problem
        merged.append(
            Turn(
                role=role,
                text="\n\n".join(turn.text for turn in neighbours if turn.text),
                messages=tuple(messages),
                calls=any(turn.calls for turn in neighbours),
                problem=problem,
                context_only=any(turn.context_only for turn in neighbours),
            )
        )
    return merged


def chat_message(turn: Turn) -> dict[str, Any]:
    """Return a turn without a problem as one message of a chat, with its tool calls as calls.

    Raises:
        SampleError: A tool call has no name, or a weight is neither 0 nor 1.
    """
    messages = checked_turns(turn.messages, "messages")
    message = {**messages[0], "content": "\n\n".join(filter(None, map(_content, messages)))}

    calls: list[Any] = []
    for neighbour in messages:
        calls += json.loads(neighbour.get("tool_calls", "[]"))
    if calls:
        message["tool_calls"] = json.dumps(calls, ensure_ascii=False)
    if turn.context_only:
        message["weight"] = 0.0
    return message


def _content(message: Mapping[str, Any]) -> str:
    return str(message["content"])


def _read_role(index: int, message: Any) -> str:
    # OpenAI names the speaker `role`, ShareGPT `from`.
    name = (message.get("role") or message.get("from")) if isinstance(message, Mapping) else None
    if name is None:
        raise SampleError(f"messages[{index}] must have role and content, got {_outline(message)}.")

    role = ROLE_NAMES.get(name.casefold()) if isinstance(name, str) else None
    if role is None:
        raise SampleError(
            f"messages[{index}].role must be one of {', '.join(ROLE_NAMES)}, "
            f"got {shortened(name, _SHOWN_CHARACTERS)}."
        )
    return role


def _read_turn(
    index: int,
    role: str,
    answer_number: int,
    message: Mapping[str, Any],
    verdict_on_conversation: Verdict | None,
) -> Turn:
    """Return a message as a turn, with the reason why it can't be learnt if there is one."""
    text, other_type = _read_content(index, role, message)
    calls = _read_calls(index, message) if role == "assistant" else []
    verdict = verdict_of(message)
    if verdict is not None and role != "assistant":
        raise SampleError(
            f"messages[{index}] must have no feedback, as its role is {role}, got "
            f"{verdict.wording}. Move it to the assistant's message."
        )

    # Feedback weighs most: a rejected answer stays rejected whatever it holds.
    problem, is_rejected = "", False
    effective = verdict or verdict_on_conversation
    if role == "assistant" and effective is not None and not effective.accepted:
        source = "feedback" if verdict else "the conversation's feedback"
        problem = f"assistant answer {answer_number} was rejected by {source}: {effective.wording}"
        is_rejected = True
    elif other_type:
        problem = f"messages[{index}] ({role}) holds more than text ({other_type})"
    elif role == "assistant" and not calls and not text.strip():
        problem = f"assistant answer {answer_number} is empty"

    return Turn(
        role=role,
        text="\n".join([text, *calls] if text else calls),
        messages=(message,),
        calls=bool(calls) or message.get("from") == "function_call",
        problem=problem,
        rejected=is_rejected,
        context_only=role == "assistant" and message.get("weight") == 0,
        accepted=None if effective is None or other_type or calls else effective.accepted,
    )


def _read_content(index: int, role: str, message: Mapping[str, Any]) -> tuple[str, str]:
    """Return a message's text, and the type of its first part that isn't text ("" if all are)."""
    # An assistant that only calls a tool, and a tool without output, have no content at all.
    content = message.get("content")
    if content is None:
        content = message.get("value")
    content = _without_numpy(content)

    if isinstance(content, str):
        return content, ""
    if content is None and role in ("assistant", "tool"):
        return "", ""
    if not isinstance(content, list | tuple):
        raise SampleError(
            f"messages[{index}].content must be text or a list of parts, "
            f"got {type(content).__name__}."
        )

    texts: list[str] = []
    other_types: list[str] = []
    for position, content_part in enumerate(content):
        text, other_type = _read_part(content_part)
        if text is not None:
            texts.append(text)
        elif other_type is not None:
            other_types.append(other_type)
        else:
            raise SampleError(
                f"messages[{index}].content[{position}] must be a text or a part with text or "
                f"another type, got {_outline(content_part)}."
            )
    return "\n".join(texts), next(filter(None, other_types), "")


def _read_part(content_part: Any) -> tuple[str | None, str | None]:
    """Return the text of a part, or its type if it isn't text; neither if it is malformed."""
    if isinstance(content_part, str):
        return content_part, None
    if not isinstance(content_part, Mapping):
        return None, None
    part_type = content_part.get("type") or "text"
    if not isinstance(part_type, str):
        return None, None

    if part_type != "refusal" and part_type not in _TEXT_TYPES:
        return None, part_type[:_SHOWN_CHARACTERS]
    text = content_part.get("refusal" if part_type == "refusal" else "text")
    return (text, None) if isinstance(text, str) else (None, None)


def _read_calls(index: int, message: Mapping[str, Any]) -> list[str]:
    """Return the tool calls of a message as JSON, one string for each call."""
    calls = _without_numpy(message.get("tool_calls"))
    if message.get("function_call") is not None:  # OpenAI's older notation
        calls = [message["function_call"]]
    if calls is None:
        return []

    if not isinstance(calls, list | tuple) or not all(isinstance(call, Mapping) for call in calls):
        raise SampleError(
            f"messages[{index}].tool_calls must be a list of calls, got {_outline(calls)}."
        )

    try:
        return [json.dumps(_plain_call(call), ensure_ascii=False, default=str) for call in calls]
    except (RecursionError, ValueError, TypeError) as error:
        raise SampleError(
            f"messages[{index}].tool_calls must be plain JSON that isn't nested too deeply, but "
            "can't be written as JSON. Leave the conversation out."
        ) from error


def _plain_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return the name and the arguments of a tool call, without ids and empty values."""
    function = call.get("function")
    if isinstance(function, Mapping):
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            arguments = _json_or_text(arguments)
        return {"name": function.get("name"), "arguments": arguments}

    # ShareGPT and older logs put the name and the arguments into the call itself.

    plain = {}
    for name, value in call.items():
        if name not in ("id", "type") and value is not None:
            plain[str(name)] = value
    return plain


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _without_numpy(value: Any) -> Any:
    """Return an array of a Parquet file as a list, any other value as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def _outline(value: Any) -> str:
    """Return what a value looks like, without what people wrote in it."""
    if isinstance(value, Mapping):
        return f"one with {shortened(sorted(map(str, value)), _SHOWN_CHARACTERS)}"
    return type(value).__name__
