"""The rules that a row is checked by, from what `samples.values` says of one value.

The rules of a column say which check a value fails, and why; the oddities concern whole rows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from tunetrail.config import ValidationConfig
from tunetrail.data.checks.catalog import is_active
from tunetrail.data.rows import texts_of
from tunetrail.data.texts import encoding
from tunetrail.samples import ColumnType, column_type, shape_named
from tunetrail.samples.messages import has_answer, is_conversation, turn_text
from tunetrail.samples.timestamps import is_timestamp
from tunetrail.samples.tool_calls import is_tool_list
from tunetrail.samples.values import (
    is_finite_number,
    is_text,
    is_vector,
    is_verdict,
    is_weight,
)

Test = Callable[[Any], object]
"""Returns something true for a value that passes."""

# A text of few words may well be one word: "no, no".
_FEWEST_REPETITIONS = 4

# Roles that may follow a role; a conversation without a system turn begins as if it had one.
_NEXT_ROLES = {
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}


@dataclass(frozen=True, slots=True)
class ValueRule:
    """A test of a value, the check that a value fails with it, and what is wrong with the value."""

    check: str
    reason: str
    test: Test


def turns_in_order(messages: Sequence[Mapping[str, str]]) -> bool:
    """Tell whether the turns of a conversation come in an order that a chat template can follow.

    A system turn comes first or not at all, then the user begins; user and assistant take turns,
    and a tool turn follows an assistant's or another tool's. Some models' templates refuse
    anything else.
    """
    roles = [message["role"] for message in messages]
    if roles[:1] == ["system"]:
        roles = roles[1:]
    return all(role in _NEXT_ROLES[previous] for previous, role in pairwise(["system", *roles]))


# Why a value has the wrong type, and the test that tells; tried before all other rules.
_TYPE_RULES: dict[ColumnType, tuple[str, Test]] = {
    ColumnType.TEXT: ("is not a string of valid Unicode", is_text),
    ColumnType.LABEL: ("is not a string of valid Unicode", is_text),
    ColumnType.NUMBER: ("is not a finite number", is_finite_number),
    ColumnType.VECTOR: ("is not a non-empty list of numbers", is_vector),
    ColumnType.MESSAGES: ("is not a list of {role, content}", is_conversation),
    ColumnType.TURNS: ("is not a list of {role, content}", is_conversation),
    ColumnType.TOOLS: ("is not a list of tools as JSON", is_tool_list),
    ColumnType.GROUP: ("is not a string", is_text),
    ColumnType.TIMESTAMP: ("is not a time in ISO 8601", is_timestamp),
    ColumnType.WEIGHT: ("is not a number above 0", is_weight),
    ColumnType.VERDICT: ("is neither true nor false", is_verdict),
}
_NOT_EMPTY: tuple[str, str, Test] = ("rows.empty", "is empty", str.strip)
# The checks of a value that has the right type.
_CONTENT_RULES: dict[ColumnType, tuple[tuple[str, str, Test], ...]] = {
    ColumnType.TEXT: (_NOT_EMPTY,),
    ColumnType.LABEL: (_NOT_EMPTY,),
    ColumnType.VECTOR: (
        (
            "vectors.not_finite",
            "holds numbers that are not finite",
            lambda vector: all(map(is_finite_number, vector)),
        ),
        ("vectors.zero_norm", "has a norm of zero", np.any),
    ),
    ColumnType.MESSAGES: (
        ("rows.empty", "has no assistant turn with text", has_answer),
        ("conversations.turn_order", "has turns out of order", turns_in_order),
    ),
    ColumnType.TURNS: (("conversations.turn_order", "has turns out of order", turns_in_order),),
}


class ColumnRules:
    """The rules for the values of one column, as configured."""

    def __init__(self, column: str, config: ValidationConfig) -> None:
        """Collect the rules of the checks that are on."""
        values = column_type(column)
        type_reason, type_test = _TYPE_RULES[values]
        self._type_rule = ValueRule("rows.wrong_type", f"{column} {type_reason}", type_test)

        rules = [
            ValueRule(check, f"{column} {reason}", test)
            for check, reason, test in _CONTENT_RULES.get(values, ())
        ]
        if values in (ColumnType.TEXT, ColumnType.MESSAGES, ColumnType.TURNS):
            rules += _length_rules(column, config)
        self._content_rules = [rule for rule in rules if is_active(rule.check, config)]
        self._checks_type = is_active("rows.wrong_type", config)

    def broken_by(self, value: Any) -> list[ValueRule]:
        """Return the rules that a value breaks; a value of the wrong type breaks only that rule."""
        if not self._type_rule.test(value):
            return [self._type_rule] if self._checks_type else []
        return [rule for rule in self._content_rules if not rule.test(value)]


def _length_rules(column: str, config: ValidationConfig) -> list[ValueRule]:
    shortest, longest = config.min_characters, config.max_characters

    def is_long_enough(value: Any) -> bool:
        text = _text_of(value).strip()
        # An empty text is another check's concern.
        return not text or len(text) >= shortest

    def is_short_enough(value: Any) -> bool:
        return len(_text_of(value)) <= longest

    too_short = f"{column} is shorter than {shortest} characters"
    too_long = f"{column} is longer than {longest} characters"
    return [
        ValueRule("rows.too_short", too_short, is_long_enough),
        ValueRule("rows.too_long", too_long, is_short_enough),
    ]


def _text_of(value: Any) -> str:
    return value if isinstance(value, str) else "\n".join(map(turn_text, value))


def oddities(row: Mapping[str, Any], config: ValidationConfig) -> Iterator[tuple[str, str]]:
    """Yield (check, reason) for everything odd in a row that can be learnt from."""
    if is_active("rows.constant", config):
        reason = _why_constant(row)
        if reason is not None:
            yield "rows.constant", reason

    if is_active("rows.encoding", config):
        damage = next(filter(None, map(encoding.damage, texts_of(row))), None)
        if damage is not None:
            yield "rows.encoding", damage


def _why_constant(row: Mapping[str, Any]) -> str | None:
    """Return why a row teaches nothing, or None if it does teach something.

    Two texts that should differ are equal, or a text is one word again and again.
    """
    shape = shape_named(row["shape"])
    if shape.distinct is not None:
        first, second = shape.distinct
        if row[first].strip() == row[second].strip():
            return f"{first} equals {second}"

    # An answer may well be rejected for being one word again and again.
    rejected = {}
    if shape.is_preference:
        rejected = {shape.target[1]: None}
    elif row.get("accepted") is False:
        rejected = {shape.target[0]: None}
    for text in texts_of({**row, **rejected}):
        # Nearly all texts begin with two different words, which is quicker to tell.
        beginning = text.split(maxsplit=2)
        if len(beginning) < 2 or beginning[0] != beginning[1]:
            continue
        words = text.split()
        if len(words) >= _FEWEST_REPETITIONS and len(set(words)) == 1:
            return f"a text is one word, {len(words)} times"
    return None
