"""Parts of a row: which of its texts connect it to others, which it is compared by, and what must be equal besides.

Knows the shapes of samples; compares nothing itself.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunetrail.data.twins.shingles import encoded
from tunetrail.samples import ColumnType, shape_named

TEXTS_PER_ROW = 3
"""Texts at most that a row is compared by: a pair has an anchor, a positive and perhaps a negative."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowParts:
    """One row, taken apart.

    Attributes: twins: Texts that connect the row to others; the first one names it. compared: Texts
        that it is compared by, None for an absent one. whole: The text of the whole row, where it
        isn't just `compared`, one behind the other. setting: What rows must have in common to be
        compared at all: shape, system turns, roles. answer: Label, score or vector.
        answered_by_text: Whether the second of `compared` answers the first. answered_by_choice:
        Whether the second of `compared` is preferred to the third, as an answer to the first.
    """

    twins: Sequence[str]
    compared: Sequence[str | None]
    whole: str | None
    setting: Sequence[Any]
    answer: Any
    answered_by_text: bool
    answered_by_choice: bool = False


def parts_of(record: Mapping[Any, Any]) -> RowParts:
    """Return the parts of one row."""
    shape = shape_named(record["shape"])
    if ColumnType.MESSAGES in shape.types.values():
        return _parts_of_conversation(record)
    twins = [record.get(column) for column in shape.identifying_texts]
    answer = shape.target[0] if shape.target and not shape.target_is_written else None
    return RowParts(
        twins=[text for text in twins if text is not None],
        compared=[record.get(column) for column in shape.texts],
        whole=None,
        setting=(shape.name,),
        answer=record.get(answer),
        answered_by_text=shape.target_is_written and not shape.is_preference,
        answered_by_choice=shape.is_preference,
    )


def _parts_of_conversation(record: Mapping[Any, Any]) -> RowParts:
    messages = record.get("messages")
    turns = [(turn["role"], turn["content"]) for turn in ([] if messages is None else messages)]
    spoken = [content for role, content in turns if role != "system"]
    # a log that is ingested again and again holds the same conversation at several lengths: its
    # opening stays
    opening = [content for role, content in turns if role == "user"][:1]
    last = max(
        (place for place, (role, _) in enumerate(turns) if role == "assistant"), default=None
    )
    before = [
        content for place, (role, content) in enumerate(turns) if role != "system" and place != last
    ]
    conversation = "\n".join(spoken)
    return RowParts(
        twins=[*opening, conversation],
        compared=["\n".join(before), None if last is None else turns[last][1]],
        whole=conversation,
        setting=(
            "chat",
            *(content for role, content in turns if role == "system"),
            [role for role, _ in turns],
        ),
        answer=None,
        answered_by_text=last is not None,
    )


def identity(record: Mapping[Any, Any]) -> bytes:
    """Return 16 bytes that are equal for rows of equal shape and content, as it is written, whatever their group."""
    columns = shape_named(record["shape"]).columns
    return hash_of([record["shape"], *(record.get(column) for column in columns)], 16)


def hash_of(values: Iterable[Any], size: int = 8) -> bytes:
    """Return `size` bytes of the hash of texts, numbers, vectors and lists of them; knows `1` and `"1"` apart."""
    state = hashlib.blake2b(digest_size=size)
    for value in values:
        data = _encoded_value(value)
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.digest()


def _encoded_value(value: Any) -> bytes:
    if value is None:
        return b"none"
    if isinstance(value, str):
        return b"text" + encoded(value)
    if isinstance(value, bytes):
        return b"hash" + value
    if isinstance(value, int | float | np.number):
        return b"number" + repr(float(value) + 0.0).encode()
    if isinstance(value, Mapping):
        return b"turn" + hash_of((value["role"], value["content"]), 32)
    if isinstance(value, list | tuple | np.ndarray):
        if len(value) and isinstance(value[0], str | Mapping):
            return b"list" + hash_of(value, 32)
        return b"vector" + np.asarray(value, dtype=np.float64).tobytes()
    return b"other" + repr(value).encode()
