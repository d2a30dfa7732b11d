"""Whether plain values have the types that a signature or a dataclass asks for."""

import inspect
import types
from dataclasses import is_dataclass
from typing import Any, Literal, Union, get_args, get_origin

from tunetrail.errors import ConfigError

# The types of values that a configuration can hold, in words.
_TYPE_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "a mapping",
    type(None): "null",
}


def check_type(key: str, value: Any, hint: Any) -> None:
    """Raise `ConfigError` if a value doesn't have a type; any will do without an annotation."""
    if hint is not inspect.Parameter.empty and not has_type(value, hint):
        expected = " or ".join(dict.fromkeys(_words(hint)))
        raise ConfigError(f"{key} must be {expected}, got {value!r}.")


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """Return the types that a union stands for; the type itself if it is none."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def has_type(value: Any, hint: Any) -> bool:
    """Tell whether a value of a configuration has a type; unknown types accept no value."""
    for alternative in _alternatives(hint):
        plain = get_origin(alternative) or alternative
        # An annotation that is still a text can't be checked.
        matches = plain is Any or isinstance(plain, str)
        if plain is Literal:
            matches = value in get_args(alternative)
        # To Python, True is an integer, and a whole number is no float.
        elif isinstance(value, bool):
            matches = matches or plain is bool
        elif plain is float:
            matches = isinstance(value, int | float)
        elif plain in _TYPE_WORDS:
            matches = isinstance(value, plain)

        if matches:
            return True
    return False


def _words(hint: Any) -> list[str]:
    """Return what a value may be, in words."""
    words: list[str] = []
    for alternative in _alternatives(hint):
        plain = get_origin(alternative) or alternative
        if plain is Literal:
            words += map(repr, get_args(alternative))
        elif plain in _TYPE_WORDS:
            words.append(_TYPE_WORDS[plain])
        elif is_dataclass(plain):
            words.append("a section")
    return words or ["left out"]
