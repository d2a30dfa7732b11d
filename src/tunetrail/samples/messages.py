"""What the messages of a conversation may hold, and how they are stored.

A stored message has `role` and `content` and, only if there is something to say, `tool_calls` (the
calls as JSON text, in OpenAI's notation), `tool_call_id` and `name` of a tool's turn, and `weight`
(0: the model reads the answer and doesn't learn it). Other messages have none of these.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from tunetrail.errors import SampleError
from tunetrail.samples.tool_calls import checked_json, is_filled, read_calls
from tunetrail.samples.values import ROLES, as_list, checked_text, is_text, shortened

ROLE_NAMES = {
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
"""The role of a message by OpenAI's and ShareGPT's names for it."""
THOUGHTS_BEGIN, THOUGHTS_END = "<think>", "</think>"
"""The tags around the thoughts of an answer, as reasoning models write them."""

_TEXT_TYPES = ("text", "input_text", "output_text")
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
_MEDIA_KEYS = ("audio", "image", "images", "video", "videos")
_PLAIN_KEYS = {"role", "content"}
_OPTIONAL_KEYS = ("tool_calls", "tool_call_id", "name")
# From as many digits on, a number in the arguments of a call may be a telephone or card number.
_PERSONAL_NUMBER = 1_000_000


def is_conversation(value: Any) -> bool:
    """Tell whether a value is a non-empty list of turns, each with a known role and a text."""
    turns = as_list(value)
    return bool(turns) and all(map(_is_turn, turns))


def has_answer(conversation: Any) -> bool:
    """Tell whether an assistant's turn of a conversation has something to learn: text or calls."""
    return any(map(is_learnt, conversation))


def is_learnt(turn: Mapping[str, Any]) -> bool:
    """Tell whether a turn is an assistant's that isn't empty and isn't context only."""
    is_answer = turn["role"] == "assistant" and turn.get("weight") != 0
    return is_answer and bool(turn["content"].strip() or turn.get("tool_calls"))


def turn_text(turn: Mapping[str, Any]) -> str:
    """Return what a turn says: its content, and its tool calls as JSON on the next line."""
    calls = turn.get("tool_calls")
    return f"{turn['content']}\n{calls}" if calls else str(turn["content"])


def without_absent(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return turns without keys of None, which a table adds for the keys of other turns."""
    plain = []
    for turn in turns:
        absent = [key for key, value in turn.items() if value is None]
        plain.append({key: turn[key] for key in turn if key not in absent} if absent else turn)
    return plain


def map_texts(turn: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """Return a turn with its content, and each text within its tool calls, changed."""
    changed = {**turn, "content": change(turn["content"])}
    if turn.get("tool_calls"):
        changed["tool_calls"] = map_json_texts(turn["tool_calls"], change)
    return changed


def map_json_texts(text: str, change: Callable[[str], str]) -> str:
    """Return JSON with each text in it changed by itself, as escapes would hide what it says.

    A long integer is changed like a text, since it may be a telephone number.
    """
    return _json_text(_mapped(json.loads(text), change))


def checked_messages(value: Any, column: str) -> list[dict[str, Any]]:
    """Return the turns of a conversation as they are stored.

    Raises:
        SampleError: A turn has no known role or no text, or there is no assistant turn to learn
            from.
    """
    messages = checked_turns(value, column)
    is_answered = False
    for message in messages:
        if message["role"] == "assistant":
            if message.get("weight") != 0:
                return messages
            is_answered = True

    got = "only turns of weight 0" if is_answered else "none"
    raise SampleError(f"{column} must have an assistant turn to learn from, got {got}.")


def checked_turns(value: Any, column: str) -> list[dict[str, Any]]:
    """Return turns as they are stored, whether the assistant speaks or not.

    Turns are read in OpenAI's notation and in ShareGPT's. Content may be a list of text parts,
    joined by line breaks; reasoning that is logged next to an answer becomes its thoughts.

    Raises:
        SampleError: A turn has no known role, or holds more than text.
    """
    turns = as_list(value)
    if not turns:
        raise SampleError(
            f"{column} must be a non-empty list of {{role, content}}, got {shortened(value)}."
        )
    return [
        _plain_turn(turn) or _checked_turn(turn, f"{column}[{index}]")
        for index, turn in enumerate(turns)
    ]


def preference_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a preference whose prompt or answers are lists of messages in a shape's columns.

    A prompt of one user's turn is a text again; a longer one is in `prompt_messages`. The answers
    may repeat the prompt, or share the first of their own turns, which then belong to the prompt.

    Raises:
        SampleError: What differs between the answers isn't one assistant's text each.
    """
    prompt = _turns_of(row.get("prompt"), "prompt", "user")
    chosen = _turns_of(row["chosen"], "chosen", "assistant")
    rejected = _turns_of(row["rejected"], "rejected", "assistant")
    # Repeated in both answers, the prompt is found again by the turns that both begin with.
    if prompt and all(answer[: len(prompt)] == prompt for answer in (chosen, rejected)):
        prompt = []
    # Turns that both answers begin with were no choice between them.
    while chosen and rejected and chosen[0] == rejected[0]:
        prompt.append(chosen.pop(0))
        rejected.pop(0)

    answers = {"chosen": chosen, "rejected": rejected}
    texts = {column: _only_answer(turns, column) for column, turns in answers.items()}
    if not prompt:
        raise SampleError("prompt must have a turn before the answers, got none.")

    other_columns = {name: value for name, value in row.items() if name not in ("prompt", *texts)}
    is_plain = len(prompt) == 1 and prompt[0].keys() == {"role", "content"}
    if is_plain and prompt[0]["role"] == "user" and "tools" not in row:
        return {"prompt": prompt[0]["content"], **texts, **other_columns}
    return {"prompt_messages": prompt, **texts, **other_columns}


def _turns_of(value: Any, column: str, role: str) -> list[dict[str, Any]]:
    if value is None or (isinstance(value, list) and not value):
        return []
    if isinstance(value, str):
        return [{"role": role, "content": checked_text(value, column)}]
    turn = [value] if isinstance(value, Mapping) else value
    return checked_turns(turn, column)


def _only_answer(turns: list[dict[str, Any]], column: str) -> str:
    if len(turns) != 1 or turns[0]["role"] != "assistant":
        roles = ", ".join(turn["role"] for turn in turns) or "no turn"
        raise SampleError(
            f"chosen and rejected must differ in their last answer only, got {roles} in {column}. "
            "Leave out the turns after the answer."
        )
    if "tool_calls" in turns[0]:
        raise SampleError(
            f"{column} must be text, got an answer that calls a tool. Calls can't be compared yet: "
            "leave the row out."
        )
    return str(turns[0]["content"])


def _is_turn(turn: Any) -> bool:
    if not isinstance(turn, Mapping) or turn.get("role") not in ROLES:
        return False
    optional = (turn.get(key) for key in _OPTIONAL_KEYS)
    return is_text(turn.get("content")) and all(text is None or is_text(text) for text in optional)


def _plain_turn(turn: Any) -> dict[str, Any] | None:
    """Return a turn that is stored as it is; None for any other turn."""
    # Most turns have a role and a text only, and millions of rows are read.
    if type(turn) is not dict or turn.keys() != _PLAIN_KEYS or turn["role"] not in ROLES:
        return None
    content = turn["content"]
    if type(content) is not str or not (content.isascii() or is_text(content)):
        return None
    return {"role": turn["role"], "content": content}


def _checked_turn(turn: Any, place: str) -> dict[str, Any]:
    """Return a message in the form of samples, whichever keys it was written with."""
    name = (turn.get("role") or turn.get("from")) if isinstance(turn, Mapping) else None
    if name is None:
        raise SampleError(f"{place} must have role and content, got {shortened(turn)}.")
    role = ROLE_NAMES.get(name.casefold()) if isinstance(name, str) else None
    if role is None:
        raise SampleError(f"{place}.role must be one of {', '.join(ROLES)}, got {name!r}.")

    media = next((key for key in _MEDIA_KEYS if is_filled(turn.get(key))), None)
    if media is not None:
        raise SampleError(f"{place} must hold only text, got {media}. Leave the row out.")

    calls = read_calls(turn, place) if role == "assistant" else []
    content = "" if name == "function_call" and calls else _read_content(turn, role, place)
    message: dict[str, Any] = {"role": role, "content": content}
    if calls:
        message["tool_calls"] = checked_json(calls, f"{place}.tool_calls")
    for key in ("tool_call_id", "name") if role == "tool" else ():
        if is_filled(turn.get(key)):
            message[key] = checked_text(turn[key], f"{place}.{key}")
    if role == "assistant" and not _has_weight(turn, place):
        message["weight"] = 0.0
    return message


def _has_weight(turn: Mapping[str, Any], place: str) -> bool:
    """Tell whether an answer is to be learnt: OpenAI's `weight`, or Axolotl's `train`."""
    for key in ("weight", "train"):
        weight = turn.get(key)
        if weight is None:
            continue
        if weight not in (0, 1):
            raise SampleError(f"{place}.{key} must be 0 or 1, got {shortened(weight)}.")
        return bool(weight)
    return True


def _read_content(turn: Mapping[str, Any], role: str, place: str) -> str:
    """Return the text of a message, with its thoughts before it if it has some."""
    content = turn.get("content")
    if content is None:
        content = turn.get("value")
    # OpenAI's refusals stand in a key of their own: they are answers like others.
    if content is None and is_filled(turn.get("refusal")):
        content = turn["refusal"]
    # Neither an assistant that only calls a tool nor a tool without output says anything.
    has_calls = is_filled(turn.get("tool_calls")) or is_filled(turn.get("function_call"))
    if content is None and (role == "tool" or (role == "assistant" and has_calls)):
        content = ""
    if content is None:
        raise SampleError(
            f"{place} must have content, got {shortened(turn)}. Add it, or leave the turn out."
        )

    content_parts = as_list(content)
    is_parts = not isinstance(content, str) and bool(content_parts)
    text = _joined_parts(content_parts, place) if is_parts else checked_text(content, _field(place))
    if role == "assistant":
        for key in _REASONING_KEYS:
            if is_filled(turn.get(key)) and THOUGHTS_END not in text:
                thoughts = checked_text(turn[key], f"{place}.{key}").strip("\n")
                return f"{THOUGHTS_BEGIN}\n{thoughts}\n{THOUGHTS_END}\n\n{text}"
    return text


def _field(place: str) -> str:
    return f"{place.partition('[')[0]}[].content"


def _joined_parts(content_parts: list[Any], place: str) -> str:
    texts = []
    for content_part in content_parts:
        if isinstance(content_part, str):
            texts.append(checked_text(content_part, _field(place)))
            continue

        part_type = "nothing with a type"
        if isinstance(content_part, Mapping):
            part_type = str(content_part.get("type") or "text")

        key = "refusal" if part_type == "refusal" else "text"
        if part_type not in (*_TEXT_TYPES, "refusal"):
            raise SampleError(
                f"{place}.content must hold only text, got a part of type {shortened(part_type)}. "
                "Leave the row out."
            )
        texts.append(checked_text(content_part.get(key), _field(place)))
    return "\n".join(texts)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= _PERSONAL_NUMBER:
        # Still a number unless it was replaced.
        changed = change(str(value))
        return value if changed == str(value) else changed
    if isinstance(value, list):
        return [_mapped(element, change) for element in value]
    if isinstance(value, dict):
        return {key: _mapped(element, change) for key, element in value.items()}
    return value


def _json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
