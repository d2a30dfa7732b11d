"""Takes a row apart: texts that connect it to other rows, texts to compare it by, and the rest.

Knows the shapes of samples; compares nothing itself.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunetrail.data.twins.shingles import encoded
from tunetrail.samples import TOOLS_COLUMN, holds_turns, shape_named
from tunetrail.samples.messages import turn_text

_OPTIONAL_KEYS = ("tool_calls", "tool_call_id", "name", "weight")
TEXTS_PER_ROW = 3
"""Most texts that a row is compared by: a pair has an anchor, a positive and perhaps a negative."""

# A number with all that belongs to it: 3.5, 12*4, 10:30, 2nd, 1/2.
_NUMBER = re.compile(r"\d(?:[\w.,:/*^\u00d7\u00f7+-]*\w)?")
_OPERATORS = frozenset("-+*/^=<>\u2212\u00d7\u00f7")


@dataclass(frozen=True, kw_only=True, slots=True)
class RowParts:
    """The parts of one row.

    Attributes:
        twins: Texts that connect the row to other rows; the first one names it.
        compared: Texts that the row is compared by, None for an absent one.
        whole: The text of the whole row, or None if it is the texts of `compared`, joined.
        setting: Values that rows must have in common to be compared: shape, system turns, roles.
        answer: Label, score, vector or verdict.
        answered_by_text: Whether the second text of `compared` answers the first.
        answered_by_choice: Whether the second text of `compared` is preferred to the third, as an
            answer to the first.
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
    if any(map(holds_turns, shape.required)):
        return _parts_of_conversation(record)

    twins = list(map(record.get, shape.input_texts))
    # A written target is one of the texts; a label, score, vector or verdict is none.
    answer = None if shape.judged_by is None else record.get(shape.judged_by)
    is_written = shape.target_is_written and shape.judged_by is None

    return RowParts(
        twins=[text for text in twins if text is not None],
        compared=list(map(record.get, shape.texts)),
        whole=None,
        setting=(shape.name,),
        answer=answer,
        answered_by_text=is_written and not shape.is_preference,
        answered_by_choice=shape.is_preference,
    )


def _parts_of_conversation(record: Mapping[Any, Any]) -> RowParts:
    """Return what makes conversations copies: their questions, answers and settings."""
    shape = shape_named(record["shape"])
    messages = next(filter(None, (record.get(name) for name in shape.required)), None)
    turns = [] if messages is None else list(messages)
    roles = [turn["role"] for turn in turns]
    contents = list(map(turn_text, turns))
    spoken = [index for index, role in enumerate(roles) if role != "system"]

    # A log that is ingested repeatedly holds the same conversation at several lengths: its first
    # question stays the same.
    opening = contents[roles.index("user")] if "user" in roles else None
    answer = max((index for index in spoken if roles[index] == "assistant"), default=None)
    is_prompt = shape.is_preference or shape.judged_by is not None
    if is_prompt:
        answer = None
    question = "\n".join(contents[index] for index in spoken if index != answer)
    conversation = "\n".join(contents[index] for index in spoken)

    # Under another system prompt or with other tools, the same words may ask for another answer.
    system_turns = [turn["content"] for turn in turns if turn["role"] == "system"]
    tools = [record[TOOLS_COLUMN]] if record.get(TOOLS_COLUMN) else []
    name = shape.name if is_prompt else "chat"
    answers = [record.get(column) for column in shape.target if column in shape.texts]
    if not is_prompt:
        answers = [None if answer is None else contents[answer]]

    return RowParts(
        twins=[conversation] if opening is None else [opening, conversation],
        compared=[question, *answers],
        whole=None if is_prompt else conversation,
        setting=(name, *system_turns, *tools, roles),
        answer=None if shape.judged_by is None else record.get(shape.judged_by),
        answered_by_text=answer is not None,
        answered_by_choice=shape.is_preference,
    )


def numbers_of(text: str) -> list[str]:
    """Return the numbers of a text, in their order, with their signs and operators.

    Punctuation is ignored between words, but 3.5 isn't 35, and 12 * 4 isn't 12 / 4.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    numbers = []
    for number in _NUMBER.finditer(text):
        # The sign, or the operator, stands before the number, perhaps with a blank between them.
        before = text[max(0, number.start() - 2) : number.start()].rstrip()[-1:]
        sign = before if before in _OPERATORS else ""
        numbers.append(sign + number[0].casefold())
    return numbers


def identity(record: Mapping[Any, Any]) -> bytes:
    """Return 16 bytes that are equal for rows of equal shape and unchanged content."""
    shape = shape_named(record["shape"])
    # Rows without tools have the identity that they had before there were any.
    columns = [name for name in shape.columns if name != TOOLS_COLUMN or record.get(name)]
    return hash_of([record["shape"], *map(record.get, columns)], 16)


def hash_of(values: Iterable[Any], size: int = 8) -> bytes:
    """Return `size` bytes of the hash of texts, numbers, vectors and lists of them.

    `1` and `"1"` have different hashes.
    """
    state = hashlib.blake2b(digest_size=size)
    for value in values:
        encoding = _encode_value(value)
        # With the length in front, ("ab", "c") and ("a", "bc") have different hashes.
        state.update(len(encoding).to_bytes(8, "little"))
        state.update(encoding)
    return state.digest()


def _encode_value(value: Any) -> bytes:
    """Return the value as bytes that begin with its type."""
    if value is None:
        return b"none"
    if isinstance(value, str):
        return b"text" + encoded(value)
    if isinstance(value, bytes):
        return b"hash" + value

    if isinstance(value, int | float | np.number | np.bool_):
        # Adding 0.0 turns -0.0 into 0.0.
        return b"number" + repr(float(value) + 0.0).encode()

    if isinstance(value, Mapping):
        optional = [text for key in _OPTIONAL_KEYS if (text := value.get(key)) is not None]
        return b"turn" + hash_of((value["role"], value["content"], *optional), 32)
    if isinstance(value, list | tuple | np.ndarray):
        # A sequence of texts or turns; numbers are a vector, whatever container they came in.
        if len(value) and isinstance(value[0], str | Mapping):
            return b"list" + hash_of(value, 32)
        return b"vector" + np.asarray(value, dtype=np.float64).tobytes()
    return b"other" + repr(value).encode()
