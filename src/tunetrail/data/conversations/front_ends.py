"""Read the exports of chat front ends as logged conversations: Open WebUI's and Chatbot UI's.

Open WebUI keeps a chat as a tree of messages, because an answer can be generated again and a
question edited. The branch that was shown last is a conversation. An answer with a verdict on
another branch is one of its own: what stands before that answer is read and not learnt again.
"""

import html
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tunetrail.errors import SampleError
from tunetrail.samples import BrokenRow, SourceRow
from tunetrail.samples.values import shortened

Row = Mapping[str, Any]
_Messages = Mapping[str, Mapping[str, Any]]

# What Open WebUI shows folded in an answer: thoughts, calls of tools, code that it ran.
_BLOCK = re.compile(
    r'<details type="(?P<type>\w+)"[^>]*>\s*(?:<summary>.*?</summary>)?(?P<text>.*?)</details>\s*',
    re.DOTALL,
)
_THOUGHTS = "reasoning"


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontEnd:
    """An application whose exports are read.

    Attributes:
        name: What people call it.
        exports: Tells whether a row is one of its exports.
        conversations: Returns the conversations of such a row as chat logs hold them.
    """

    name: str
    exports: Callable[[Row], bool]
    conversations: Callable[[Row], list[dict[str, Any]]]


def front_end_of(row: Row) -> FrontEnd | None:
    """Return the front end that a row is an export of, None for any other row."""
    return next((front_end for front_end in _FRONT_ENDS if front_end.exports(row)), None)


def without_front_ends(rows: Iterable[Any], read_as: Counter[str] | None = None) -> Iterator[Any]:
    """Yield the conversations of exports in place of the exports, and other rows as they are.

    Args:
        rows: Rows of a file.
        read_as: Counts the conversations by the name of their front end.
    """
    for row in rows:
        front_end = front_end_of(row) if isinstance(row, Mapping) else None
        if front_end is None:
            yield row
            continue

        try:
            conversations = front_end.conversations(row)
        except SampleError as error:
            yield _broken(row, str(error))
            continue
        if read_as is not None:
            read_as[front_end.name] += len(conversations)
        for conversation in conversations:
            if isinstance(row, SourceRow):
                yield SourceRow(conversation, row.source, row.position)
            else:
                yield conversation


def _broken(row: Row, reason: str) -> BrokenRow:
    source, position = (row.source, row.position) if isinstance(row, SourceRow) else ("", None)
    text = json.dumps(row, default=str)
    return BrokenRow(text=text, reason=reason, source=source, position=position)


def _is_open_webui(row: Row) -> bool:
    chat = row.get("chat")
    if not isinstance(chat, Mapping):
        return False
    return _tree_of(chat) is not None or isinstance(chat.get("messages"), list)


def _tree_of(chat: Mapping[str, Any]) -> _Messages | None:
    """Return the messages of a chat by name; None if it has no branches, as in old versions."""
    history = chat.get("history")
    messages = history.get("messages") if isinstance(history, Mapping) else None
    return messages if isinstance(messages, Mapping) else None


def _open_webui_conversations(row: Row) -> list[dict[str, Any]]:
    chat = row["chat"]
    # The time of its beginning is read, and one time is enough.
    columns = {name: row[name] for name in row if name not in ("chat", "updated_at")}
    parameters = chat.get("params")
    system = parameters.get("system") if isinstance(parameters, Mapping) else None
    system = system or chat.get("system")
    if system:
        columns["system"] = system

    messages = _tree_of(chat)
    if messages is None:
        turns = list(map(_plain_message, _mappings(chat["messages"])))
        return [{**columns, "messages": turns}]

    shown = _branch_to(chat["history"].get("currentId"), messages)
    conversations = [{**columns, "messages": list(map(_plain_message, shown))}]
    shown_ids = {message.get("id") for message in shown}
    for name, message in messages.items():
        if _is_judged(message) and message.get("id", name) not in shown_ids:
            *context, answer = map(_plain_message, _branch_to(name, messages))
            turns = [*map(_context_only, context), answer]
            conversations.append({**columns, "messages": turns})
    return conversations


def _branch_to(name: Any, messages: _Messages) -> list[Mapping[str, Any]]:
    """Return the messages from the first one to the named one."""
    branch: list[Mapping[str, Any]] = []
    while name is not None:
        message = messages.get(name) if isinstance(name, str) else None
        # More than there are messages: they name each other in a circle.
        if not isinstance(message, Mapping) or len(branch) == len(messages):
            raise SampleError(
                f"chat.history.messages must lead from each message to the first, got "
                f"{shortened(name)}, which doesn't. Export the chat again."
            )
        branch.append(message)
        name = message.get("parentId")

    if not branch:
        raise SampleError(
            "chat.history.currentId must name a message, got none. Leave the row out."
        )
    return branch[::-1]


def _is_judged(message: Any) -> bool:
    is_answer = isinstance(message, Mapping) and message.get("role") == "assistant"
    return is_answer and bool(message.get("annotation"))


def _plain_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message of Open WebUI as logs hold it, with its thoughts apart from its text."""
    content = message.get("content")
    plain: dict[str, Any] = {"role": message.get("role"), "content": content}
    if message.get("annotation"):
        plain["annotation"] = message["annotation"]

    # Their content was part of what the model read.
    attached = [str(file.get("type") or "file") for file in _mappings(message.get("files"))]
    if plain["role"] == "assistant" and isinstance(content, str):
        blocks = list(_BLOCK.finditer(content))
        thoughts = [_unquoted(block["text"]) for block in blocks if block["type"] == _THOUGHTS]
        attached += [block["type"] for block in blocks if block["type"] != _THOUGHTS]
        plain["content"] = _BLOCK.sub("", content) if blocks else content
        if thoughts:
            plain["reasoning_content"] = "\n\n".join(thoughts)

    if attached:
        # A part that is no text: nothing can be learnt from the turn.
        text = {"type": "text", "text": str(plain["content"] or "")}
        plain["content"] = [text, *({"type": kind} for kind in attached)]
    return plain


def _unquoted(text: str) -> str:
    """Return thoughts without the marks of a quotation before each line, escaped or not."""
    lines = html.unescape(text).strip().splitlines()
    return "\n".join(line.removeprefix(">").removeprefix(" ") for line in lines)


def _context_only(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message that is read and not learnt."""
    if message["role"] != "assistant":
        return message
    unjudged = {name: value for name, value in message.items() if name != "annotation"}
    return {**unjudged, "weight": 0}


def _is_chatbot_ui(row: Row) -> bool:
    history = row.get("history")
    if not isinstance(history, list) or not history or "messages" in row:
        return False
    return all(isinstance(chat, Mapping) and "messages" in chat for chat in history)


def _chatbot_ui_conversations(row: Row) -> list[dict[str, Any]]:
    conversations = []
    for chat in row["history"]:
        columns = {name: value for name, value in chat.items() if name != "prompt"}
        if chat.get("prompt"):
            columns["system"] = chat["prompt"]
        conversations.append(columns)
    return conversations


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    elements = value if isinstance(value, list) else []
    return [element for element in elements if isinstance(element, Mapping)]


_FRONT_ENDS = (
    FrontEnd(name="Open WebUI", exports=_is_open_webui, conversations=_open_webui_conversations),
    FrontEnd(name="Chatbot UI", exports=_is_chatbot_ui, conversations=_chatbot_ui_conversations),
)
