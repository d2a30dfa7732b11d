"""Arguments of the commands that take the id of a run, options and overrides."""

from collections.abc import Sequence
from typing import NamedTuple


class RunArguments(NamedTuple):
    """The arguments of a command by what they are."""

    overrides: list[str]
    options: list[str]
    run_ids: list[str]


def split_run_arguments(arguments: Sequence[str]) -> RunArguments:
    """Return the arguments by what they are, each in the order of the command."""
    # Neither a run's id nor an option has an equals sign.
    overrides = [argument for argument in arguments if "=" in argument]
    words = [argument for argument in arguments if "=" not in argument]
    options = [word for word in words if word.startswith("-")]
    run_ids = [word for word in words if not word.startswith("-")]
    return RunArguments(overrides, options, run_ids)
