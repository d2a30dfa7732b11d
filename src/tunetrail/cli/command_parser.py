"""Parses a command's options, and says of a wrong one in one line what it must be."""

import argparse
import dataclasses
import re
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from tunetrail.errors import UserError, did_you_mean

_Value = TypeVar("_Value", int, str)

_TYPES = {"int": "a whole number", "float": "a number"}


def like_setting(
    section: type, name: str, convert: Callable[[str], _Value]
) -> Callable[[str], _Value]:
    """Return the type of an option whose values have to satisfy the rule of a setting.

    Its error names the option, which is what was typed, and not the setting.

    Args:
        section: The section of the settings, a dataclass.
        name: The name of the setting in it.
        convert: Turns the text into a value, such as `int`.
    """
    (field,) = (field for field in dataclasses.fields(section) if field.name == name)
    rule = field.metadata["rule"]

    def checked(text: str) -> Any:
        value = convert(text)
        if not rule.allows(value):
            raise argparse.ArgumentTypeError(f"must be {rule.text}, got {value!r}")
        return value

    # argparse names the type of a text that can't be converted.
    checked.__name__ = getattr(convert, "__name__", "")
    return checked


class CommandParser(argparse.ArgumentParser):
    """Raises `UserError`, where argparse prints its usage in several lines and exits."""

    def error(self, message: str) -> NoReturn:
        """Raise `UserError` for a message of argparse."""
        raise UserError(f"{self._explained(message)} `{self.prog} --help` shows the arguments.")

    def _explained(self, message: str) -> str:
        """Return what an argument must be, from argparse's words for it."""
        name, _, problem = message.removeprefix("argument ").partition(": ")

        if match := re.fullmatch(r"invalid choice: (.+) \(choose from (.+)\)", problem):
            choices = match[2].replace("'", "")
            return f"{name} must be one of {choices}, got {match[1]}."
        if match := re.fullmatch(r"invalid (\w+) value: (.+)", problem):
            return f"{name} must be {_TYPES.get(match[1], match[1])}, got {match[2]}."
        if problem in ("expected one argument", "expected at least one argument"):
            return f"{name} must have a value, got none."
        # From a type of our own.
        if problem.startswith("must "):
            return f"{name} {problem}."

        if name == "the following arguments are required":
            return f"{problem} must be given."
        if name == "unrecognized arguments":
            unknown, known = problem.split()[0], list(self._option_string_actions)
            return f"there is no argument {unknown}.{did_you_mean(unknown, known)}"
        return f"{message}."
