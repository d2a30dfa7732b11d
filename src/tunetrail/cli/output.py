"""What a command prints on stdout: text, one JSON object (`--json`) or nothing (`--quiet`)."""

import argparse
import contextlib
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, TextIO

from tunetrail.cli.spellings import COMPOSED_COMMANDS, PARSED_COMPOSED
from tunetrail.errors import UserError
from tunetrail.verbosity import WARNINGS, saying

_JSON, _QUIET = "--json", "--quiet"
COMMON_OPTIONS = (_JSON, _QUIET)
"""The options that every command has."""
# Commands that programs call: what they print is for these programs.
_INTERNAL = ("job", "complete")
_JSON_STREAM: ContextVar[TextIO | None] = ContextVar("json_stream", default=None)

HELP = [
    "  --json      print one JSON object on stdout, and text on stderr (docs/python.md)",
    "  --quiet     print warnings and errors only, on stderr; and JSON with --json",
]
"""Lines about both options for the help of a command."""


def options_last(words: Sequence[str]) -> list[str]:
    """Return the words of the command line with both options after the command."""
    leading = list(itertools.takewhile(COMMON_OPTIONS.__contains__, words))
    return [*words[len(leading) :], *leading]


@contextlib.contextmanager
def printing(command: str, arguments: Sequence[str]) -> Iterator[list[str]]:
    """Print in the block as the options say, and yield the arguments without these options.

    With `--json`, all that isn't the result goes to stderr, so that stdout can be parsed.
    """
    if command in _INTERNAL:
        yield list(arguments)
        return

    remaining = [argument for argument in arguments if argument != _QUIET]
    is_quiet = len(remaining) < len(arguments)
    is_json = _JSON in remaining
    # Hydra parses the arguments of these, and has no such option.
    if command in COMPOSED_COMMANDS and command not in PARSED_COMPOSED:
        remaining = [argument for argument in remaining if argument != _JSON]

    with contextlib.ExitStack() as stack:
        token = _JSON_STREAM.set(sys.stdout if is_json else None)
        stack.callback(_JSON_STREAM.reset, token)
        # Libraries stay quiet with every command, whatever it imports.
        stack.enter_context(saying(WARNINGS if is_quiet else None, shows_lines=False))
        if is_quiet:
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        elif is_json:
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield remaining


def prints_json() -> bool:
    """Tell whether the command was asked for one JSON object."""
    return _JSON_STREAM.get() is not None


def show(result: Callable[[], Any], print_text: Callable[[], None] | None = None) -> None:
    """Print a command's result: as one JSON object with `--json`, else as text.

    Args:
        result: Returns the result as values that JSON can hold.
        print_text: Prints the result for people; None if that is printed already.
    """
    stream = _JSON_STREAM.get()
    if stream is None:
        if print_text is not None:
            print_text()
        return
    print(json.dumps(result(), indent=2, allow_nan=False, default=str), file=stream, flush=True)


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for what is printed to the parser of a command that prints by `show`."""
    json_help = "print one JSON object on stdout, and text on stderr (docs/python.md)"
    parser.add_argument(_JSON, action="store_true", help=json_help)
    # `printing` has taken it out of the arguments: here it is for the help.
    quiet_help = "print warnings and errors only, on stderr; and JSON with --json"
    parser.add_argument(_QUIET, action="store_true", help=quiet_help)


def take_value(option: str, choices: Sequence[str], words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the value of an option of a command that Hydra parses, and the other words.

    The value is empty if the option isn't there.

    Raises:
        UserError: The value is none of the choices.
    """
    value, remaining = "", []
    following = iter(words)
    for word in following:
        name, equals, text = word.partition("=")
        if name != option:
            remaining.append(word)
            continue
        value = text if equals else next(following, "")
        if value not in choices:
            raise UserError(f"{option} must be {' or '.join(choices)}, got {value!r}.")
    return value, remaining
