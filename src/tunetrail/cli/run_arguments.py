"""Arguments of the commands that take the id of a run, options and overrides."""

from collections.abc import Sequence
from typing import NamedTuple

from tunetrail.cli.output import COMMON_OPTIONS
from tunetrail.errors import ConfigError, UserError


class RunArguments(NamedTuple):
    """The arguments of a command by what they are."""

    overrides: list[str]
    options: list[str]
    run_ids: list[str]


def read_run_arguments(
    command: str, arguments: Sequence[str], *, options: Sequence[str], changeable: Sequence[str]
) -> RunArguments:
    """Return the arguments by what they are, each in the order of the command.

    Args:
        command: Name of the command.
        arguments: Its arguments.
        options: Its own options; every command has `COMMON_OPTIONS`, too.
        changeable: The sections and keys that its overrides may set, as everything else stays what
            the run began with.

    Raises:
        UserError: The command has no such option.
        ConfigError: An override sets something else.
    """
    # Neither a run's id nor an option has an equals sign.
    overrides = [argument for argument in arguments if "=" in argument]
    words = [argument for argument in arguments if "=" not in argument]
    chosen_options = [word for word in words if word.startswith("-")]
    run_ids = [word for word in words if not word.startswith("-")]

    for option in chosen_options:
        if option not in options:
            *first_options, last_option = [*options, *COMMON_OPTIONS]
            raise UserError(
                f"{command} has no option {option}; "
                f"it has {', '.join(first_options)} and {last_option}. "
                f"See `tunetrail {command} --help`."
            )

    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        if key.partition(".")[0] not in changeable:
            raise ConfigError(
                f"{command} takes a run with the configuration that it began with, got {override}. "
                f"Only these can be set: {', '.join(changeable)}."
            )
    return RunArguments(overrides, chosen_options, run_ids)
