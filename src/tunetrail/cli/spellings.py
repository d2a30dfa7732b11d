"""Take `--session ID` where a command reads `session_id=ID`, and the other way round."""

import contextlib
import importlib
import io
import re
from collections.abc import Sequence

from tunetrail.config.key_suggestions import did_you_mean_key
from tunetrail.errors import UserError

COMPOSED_COMMANDS = (
    *("train", "watch", "resume", "repro", "sync", "plan", "prepare", "config", "demo"),
)
"""Commands that read overrides; the others read options."""
PARSED_COMPOSED = ("config",)
"""Commands that read overrides next to options of their own."""
PARSED_BELOW_MAIN = ("ingest", "sessions")
"""Commands whose options the command line itself parses."""

# The key that says the same as an option.
_KEYS = {
    "--session": "session_id",
    "--session-id": "session_id",
    "--model-type": "model_type",
    "--database": "database.url",
    "--uri": "tracking.uri",
    "--experiment": "tracking.experiment",
    "--model-dir": "model_dir",
    "--output-dir": "output_dir",
}
_OPTIONS = {key: option for option, key in reversed(_KEYS.items())}
_HYDRA_OPTION = re.compile(
    r"-(h|c|p|r|m|sc|cp|cn|cd|i)(=.*)?$|--(help|hydra-help|version|cfg|resolve|package|run"
    r"|multirun|shell-completion|config-path|config-name|config-dir|experimental-rerun|info)(=.*)?$"
)


def as_overrides(words: Sequence[str]) -> list[str]:
    """Return words in which `--session ID` and `--session=ID` are overrides."""
    overrides = []
    remaining = iter(words)
    for word in remaining:
        option, equals, value = word.partition("=")
        if option in _KEYS:
            value = value if equals else next(remaining, "")
            overrides.append(f"{_KEYS[option]}={value}")
        else:
            overrides.append(word)
    return overrides


def as_options(command: str, words: Sequence[str]) -> list[str]:
    """Return words in which `session_id=ID` and the like are options, if the command has them."""
    options = []
    for previous, word in zip(["", *words], words, strict=False):
        key, equals, value = word.partition("=")
        # After an option it is that option's value: `--where session_id=s1`.
        is_override = bool(equals) and key in _OPTIONS and not previous.startswith("-")
        if is_override and _OPTIONS[key] in options_of(command):
            options += [_OPTIONS[key], value]
        else:
            options.append(word)
    return options


def options_of(command: str, *subcommands: str) -> list[str]:
    """Return the options of a command, as its help names them."""
    return list(
        dict.fromkeys(re.findall(r"(?<![\w-])--[a-z][a-z-]*", help_of(command, *subcommands)))
    )


def help_of(command: str, *subcommands: str) -> str:
    """Return the help of a command; empty if there is no such command."""
    output = io.StringIO()
    ignored = contextlib.suppress(SystemExit, UserError, ModuleNotFoundError)
    with ignored, contextlib.redirect_stdout(output):
        if command in PARSED_BELOW_MAIN:
            from tunetrail.cli import _run_parsed_command

            _run_parsed_command(command, ["--help"])
        else:
            module = importlib.import_module(f"tunetrail.cli.{command}")
            getattr(module, command)([*subcommands, "--help"])
    return output.getvalue()


def check_hydra_options(options: Sequence[str]) -> None:
    """Raise `UserError` for the first option that Hydra doesn't have, such as `--learning-rate`."""
    for option in options:
        if option.startswith("-") and not _HYDRA_OPTION.match(option):
            name = option.partition("=")[0]
            raise UserError(
                f"there is no option {name}: settings are written KEY=VALUE."
                f"{did_you_mean_key(name.strip('-'))} `tunetrail train --help KEY` explains a key."
            )
