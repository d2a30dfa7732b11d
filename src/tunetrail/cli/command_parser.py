"""Parses a command's options, and says of a wrong one in one line what it must be."""

import argparse
import re
from typing import NoReturn

from tunetrail.errors import UserError, did_you_mean

_TYPES = {"int": "a whole number", "float": "a number"}


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
