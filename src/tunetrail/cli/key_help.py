"""`--help KEY`: what a key, a section or a group of the configuration means, from its docstring."""

import inspect
import shutil
import textwrap
from collections.abc import Iterator, Sequence

from tunetrail.cli.conf_groups import EXPERIMENTS, SWEEP, default_options, groups, option_comment
from tunetrail.config.key_suggestions import did_you_mean_key
from tunetrail.config.keys import Setting, all_settings, allowed_values, extension_settings
from tunetrail.config.validation import CheckConfig
from tunetrail.errors import UserError
from tunetrail.extensions import ExtensionPoint

_HELP = {"-h", "--help"}
_WIDEST = 100
_NO_LIMIT = 1_000


def asks_for_help(arguments: Sequence[str], text: str) -> bool:
    """Print the help that arguments ask for, and tell whether they do.

    Args:
        arguments: The arguments; words next to `--help` are keys, sections or groups.
        text: The help of the command itself.

    Raises:
        UserError: There is no such key.
    """
    if not _HELP & set(arguments):
        return False
    words = [argument for argument in arguments if not argument.startswith("-")]
    # Next to overrides, --help is about the command.
    keys = [word for word in words if "=" not in word]
    print("\n\n".join(map(key_help, keys)) if keys else text)
    return True


def key_help(key: str) -> str:
    """Return what a key means, or the keys of a section and the options of a group.

    Raises:
        UserError: There is no such key.
    """
    name = key.lstrip("+")
    setting = all_settings().get(name)
    options = groups().get(name, [])
    of_extension = [] if setting else _extension_lines(name)
    if setting is None and not options and not of_extension:
        raise UserError(
            f"--help must be followed by a key, a section or a group, got {key!r}."
            f"{did_you_mean_key(name, tuple(groups()))} "
            "`tunetrail train --help` lists the groups."
        )

    lines: list[str] = list(of_extension)
    if setting is not None:
        lines += _section_lines(setting) if setting.is_section else _setting_lines(setting)
    if options:
        lines += ["", *_option_lines(name, options)] if lines else _option_lines(name, options)
    return "\n".join(lines)


def _section_lines(section: Setting) -> Iterator[str]:
    """Yield the settings directly in a section, and the sections in it."""
    # All checks have the same keys: what one looks for is said where it is a field.
    is_check = section.hint is CheckConfig
    meaning = section.meaning if is_check else (inspect.getdoc(section.hint) or "").split("\n")[0]
    yield from wrapped(f"{section.key}: {meaning}", "", "    ")

    inner = []
    for setting in all_settings().values():
        if setting.key.rpartition(".")[0] != section.key:
            continue
        if setting.is_section and setting.hint is not CheckConfig:
            inner.append(setting)
        else:
            yield ""
            yield from _setting_lines(setting)

    if inner:
        yield ""
        yield "sections in it, each with its own --help:"
        width = max(len(setting.key) for setting in inner)
        for setting in inner:
            yield f"  {setting.key:{width}}  {setting.meaning}"


def _setting_lines(setting: Setting) -> Iterator[str]:
    """Yield the key with its type, its choices and its default, and what it means."""
    values = allowed_values(setting, most_choices=_NO_LIMIT)
    default = f"default: {setting.shown_default}" if setting.shown_default else "required"
    yield from wrapped(f"{setting.key}  ({values}; {default})", "", "    ")
    yield from wrapped(setting.meaning, "    ", "    ")
    if setting.point is not None:
        yield from wrapped(_installed_line(setting.point), "    ", "    ")


def _installed_line(point: ExtensionPoint) -> str:
    """Return what installed packages add at a point; empty if nothing."""
    names = [f"{name} ({point.packages(name)})" for name in point.names()]
    return f"of installed packages: {', '.join(names)}" if names else ""


def _extension_lines(key: str) -> list[str]:
    """Return the help for all options of an installed extension, or for the option of the key."""
    settings = extension_settings(key).values()
    chosen = [option for option in settings if f"{option.key}.".startswith(f"{key}.")]
    lines: list[str] = []
    for option in chosen:
        if not option.is_section:
            lines += [*([""] if lines else []), *_setting_lines(option)]
    return lines


def _option_lines(group: str, options: Sequence[str]) -> list[str]:
    """Return the options of a group, its default first, each with the comment of its file."""
    default = default_options().get(group)
    sign = "+" if group in (SWEEP, EXPERIMENTS) else ""
    lines = [f"options of the group {group}:"]
    for option in sorted(options, key=lambda option: option != default):
        note = " (default)" if option == default else ""
        lines += wrapped(
            f"{sign}{group}={option}{note}: {option_comment(group, option)}", "  ", "      "
        )
    return lines


def wrapped(text: str, first: str, others: str) -> list[str]:
    """Return a text in lines that fit the terminal, with these indents."""
    width = min(_WIDEST, shutil.get_terminal_size().columns)
    # Addresses and values stay in one piece, so that they can be copied.
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )
