"""Plain values: frozen results as dicts that JSON can hold.

The one way from a result to the ledger, the database, MLflow and the API's return value.
"""

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime
from enum import Enum
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any

NOT_PLAIN = {"plain": False}
"""Metadata of a dataclass field that plain values leave out: `field(metadata=NOT_PLAIN)`."""
_CHAT, _TURN = {"messages"}, ("role", "content")
json_string = encode_basestring_ascii
"""Quotes a text as JSON, in C: an encoder would look at its type first, for each text again."""


def plain_values(result: Any, *properties: str) -> dict[str, Any]:
    """Return the fields of a dataclass, by name, as values that `json.dumps` accepts.

    Nested dataclasses become dicts (by their own `to_dict`, if they have one), sequences and
    arrays become lists, NumPy scalars Python numbers, infinities None, enums their values, paths
    strings, and dates ISO 8601.

    Args:
        result: An instance of a dataclass.
        properties: Names of properties to add to the fields.
    """
    shown = [field.name for field in fields(result) if field.metadata.get("plain", True)]
    return {name: _plain(getattr(result, name)) for name in (*shown, *properties)}


def _plain(value: Any) -> Any:
    """Return a value, and what is within it, as JSON knows it."""
    if is_dataclass(value):
        return value.to_dict() if hasattr(value, "to_dict") else plain_values(value)

    if isinstance(value, Mapping):
        return {key: _plain(content) for key, content in value.items()}

    if isinstance(value, list | tuple):
        return list(map(_plain, value))

    # NumPy's arrays and scalars, recognised without importing NumPy into the lowest layer.
    if hasattr(value, "tolist"):
        return _plain(value.tolist())

    if isinstance(value, Enum):
        return value.value

    if isinstance(value, Path):
        return str(value)

    if isinstance(value, date):
        return value.isoformat()

    # JSON has no infinity: an unbounded interval's bounds are null.
    if isinstance(value, float) and math.isinf(value):
        return None

    return value


def plain_moment(moment: datetime) -> str:
    """Return a moment as ISO 8601 to the second, such as `2026-11-24T12:00:00+00:00`."""
    return moment.isoformat(timespec="seconds")


def plain_chat_as_json(content: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return what `json.dumps` makes of `{"messages": [...]}`, without and with sorted keys.

    None unless all messages have a role and a content, in this order, and nothing else.
    """
    if content.keys() != _CHAT:
        return None

    turns, sorted_turns = [], []
    for turn in content["messages"]:
        if tuple(turn) != _TURN:
            return None
        role, text = map(json_string, turn.values())
        turns.append(f'{{"role": {role}, "content": {text}}}')
        sorted_turns.append(f'{{"content": {text}, "role": {role}}}')
    start, end = '{"messages": [', "]}"
    return start + ", ".join(turns) + end, start + ", ".join(sorted_turns) + end


def texts_as_json(texts: Mapping[str, Any]) -> str | None:
    """Return what `json.dumps` makes of a mapping of texts; None if it holds other values.

    Most samples hold a few short texts, for which setting up an encoder takes most of the time.
    """
    pairs = []
    for name, text in texts.items():
        if type(text) is not str:
            return None
        pairs.append(f"{json_string(name)}: {json_string(text)}")
    return "{" + ", ".join(pairs) + "}"
