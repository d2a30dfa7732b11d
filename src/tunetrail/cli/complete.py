"""`tunetrail complete`: what the Tab key offers. The scripts of `tunetrail completion` call it.

It imports neither Hydra nor torch nor MLflow, and no command whose options aren't asked for.
"""

import contextlib
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from tunetrail.cli.conf_groups import EXPERIMENTS, SWEEP, groups, option_comment
from tunetrail.cli.spellings import COMPOSED_COMMANDS, as_overrides, help_of, options_of
from tunetrail.config import default_database_url
from tunetrail.config.keys import Setting, all_settings, extension_settings
from tunetrail.errors import ConfigError
from tunetrail.extensions import FAMILIES
from tunetrail.samples import sample_kinds
from tunetrail.stores.quick_names import quick_names

_BASH, _ZSH, _FISH = SHELLS = ("bash", "zsh", "fish")
# Characters of what is said about a candidate.
_LONGEST = 80
_HYDRA_OPTIONS = {
    "--help": "explain the command, or the keys next to it",
    "--cfg": "print the composed configuration",
    "-m": "sweep over comma-separated values",
    "--debug": "show tracebacks",
}
# Commands that take a run, by the kind of names that they take, and their options.
_CONTINUED = {
    "resume": ("resumable", ("--last", "--force")),
    "repro": ("runs", ("--force", "--json")),
}
# What can be changed of a run.
_CHANGEABLE = ("database", "tracking", "model_dir")
# The names that the arguments of a command are, by the kinds of `stores.quick_names`.
_POSITIONALS = {
    "root log": "families",
    "root show": "versions",
    "root diff": "versions",
    "root rollback": "families versions",
    "root promote": "versions",
    "root forbid": "versions",
    "serve": "families",
    "export": "families",
    "sweep show": "sweeps",
    "report": "runs versions",
    "compare": "runs versions",
    "show": "runs versions",
    "watch": "sessions",
}


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A word that the Tab key offers, and what it stands for."""

    word: str
    meaning: str = ""


def complete(arguments: list[str]) -> int:
    """Print the candidates for the last word, one a line; zsh and fish get meanings, too.

    Args:
        arguments: The shell and the words after `tunetrail`; for bash, the line up to the cursor
            and the characters at which bash divides words.
    """
    shell, *words = arguments
    breaks = ""
    if shell == _BASH:
        line, breaks = words
        words = _words_of(line)

    for candidate in candidates(words):
        word = _after_break(candidate.word, words[-1], breaks)
        meaning = " ".join(candidate.meaning.split())[:_LONGEST]
        print(f"{word}\t{meaning}" if meaning and shell != _BASH else word)
    return 0


def _words_of(line: str) -> list[str]:
    """Return the words after the program's name; the last one is empty after a blank."""
    try:
        words = shlex.split(line)
    except ValueError:
        # A quote that is still open.
        words = line.split()
    return [*words[1:], ""] if line[-1:].isspace() else words[1:] or [""]


def _after_break(word: str, typed: str, breaks: str) -> str:
    """Return what follows the last character at which bash divides what was typed."""
    # bash replaces only what follows the last of these characters, so only that is offered.
    divided = max((typed.rfind(character) for character in breaks if character in "=:"), default=-1)
    return word[divided + 1 :]


def candidates(words: Sequence[str]) -> list[Completion]:
    """Return the candidates for the last of the words after `tunetrail`."""
    *before, current = words
    offered = _commands() if not before else _of_command(before[0], before[1:], current)
    return [candidate for candidate in offered if candidate.word.startswith(current)]


def _commands() -> Iterator[Completion]:
    from tunetrail.cli import _USAGE

    # The help lists the commands with what they do: a second list would drift from it.
    for name, meaning in re.findall(r"^  (\w+)\s+(\S.*)$", _USAGE, re.MULTILINE):
        yield Completion(word=name, meaning=meaning)
    yield from (Completion(word=option) for option in ("--help", "--version", "--debug"))


def _of_command(command: str, before: Sequence[str], current: str) -> Iterator[Completion]:
    previous = before[-1] if before else ""
    url = _database_url(before)
    values = _VALUES_OF_OPTIONS.get(previous)
    if values is not None:
        yield from values(url)
        return
    if command == "completion":
        yield from (Completion(word=shell) for shell in SHELLS)
        return

    if command in COMPOSED_COMMANDS:
        if command in _CONTINUED and "=" not in current:
            kind, options = _CONTINUED[command]
            yield from _names(url, kind)
            yield from (Completion(word=option) for option in options)
        yield from _of_composed(command, before, current, url)
    else:
        yield from _of_parsed(command, before, current, url)


def _of_composed(
    command: str, before: Sequence[str], current: str, url: str
) -> Iterator[Completion]:
    """Yield keys, groups, their values and options of a command that reads overrides."""
    if current.startswith("-"):
        own = dict.fromkeys(options_of(command), "") if command == "config" else _HYDRA_OPTIONS
        yield from (Completion(word=option, meaning=own[option]) for option in own)
        return
    if "=" in current:
        yield from _values(current, url)
        return

    sign = re.match(r"[+~]*", current)
    prefix = sign[0] if sign else ""
    # `--help KEY` and `config KEY` take keys without a value.
    is_bare = command == "config" or bool({"-h", "--help"} & set(before))
    for candidate in _keys(current.removeprefix(prefix), "" if is_bare else "="):
        top = re.split(r"[.=]", candidate.word)[0]
        if command not in _CONTINUED or top in _CHANGEABLE:
            word = candidate.word.removeprefix(prefix)
            yield Completion(word=f"{prefix}{word}", meaning=candidate.meaning)


def _keys(typed: str, equals: str) -> Iterator[Completion]:
    """Yield the groups, and the keys and sections of the section that was typed so far."""
    section = typed.rpartition(".")[0]
    known_groups = groups()
    if not section:
        for group in known_groups:
            sign = "+" if group in (SWEEP, EXPERIMENTS) else ""
            options = ", ".join(known_groups[group])
            yield Completion(word=f"{sign}{group}=", meaning=f"one of {options}")

    for key, setting in all_settings().items():
        if key == section and setting.is_mapping and setting.point is not None:
            for name in setting.point.names():
                package = setting.point.packages(name)
                yield Completion(
                    word=f"{key}.{name}.", meaning=f"{setting.point.noun} of {package}"
                )
        if key.rpartition(".")[0] == section:
            yield _key(setting, equals)
    for setting in _options_of_extension(section).values():
        if setting.key.rpartition(".")[0] == section:
            yield _key(setting, equals)


def _key(setting: Setting, equals: str) -> Completion:
    end = "." if setting.is_section or setting.is_mapping else equals
    return Completion(word=f"{setting.key}{end}", meaning=setting.meaning)


def _options_of_extension(key: str) -> dict[str, Setting]:
    """Return the options of the extension that a key names; none if its package is broken."""
    with contextlib.suppress(ConfigError):
        return extension_settings(key)
    return {}


def _values(override: str, url: str) -> Iterator[Completion]:
    """Yield the override with each value that its key may have."""
    key, _, typed = override.partition("=")
    # The values of a sweep are separated by commas: only the last one is completed.
    # Values that stand before it are repeated in each candidate, as the shell replaces the word.
    typed_before = typed[: typed.rfind(",") + 1]
    beginning = f"{key}={typed_before}"
    name = key.lstrip("+~")
    options = groups().get(name, [])

    for option in options:
        yield Completion(word=f"{beginning}{option}", meaning=option_comment(name, option))
    if name == "session_id":
        for candidate in _names(url, "sessions"):
            yield Completion(word=f"{beginning}{candidate.word}")
    elif name == "model_type":
        yield from (Completion(word=f"{beginning}{word}") for word in _model_types())
    elif not options:
        setting = all_settings().get(name) or _options_of_extension(name).get(name)
        known_words = [] if setting is None else _words(setting)
        yield from (Completion(word=f"{beginning}{word}") for word in known_words)


def _words(setting: Setting) -> Iterable[str]:
    """Return the words that a setting may be, or else its default."""
    if setting.is_section or setting.is_mapping:
        return ()
    if setting.is_list:
        return [f"[{choice}]" for choice in setting.choices] or [setting.shown_default]
    return setting.choices or filter(None, [setting.shown_default])


def _model_types() -> tuple[str, ...]:
    return ("embedding", "llm", *FAMILIES.names(), "all")


def _of_parsed(command: str, before: Sequence[str], current: str, url: str) -> Iterator[Completion]:
    """Yield subcommands, names and options of a command that reads options."""
    subcommands = _subcommands(command)
    chosen = next((word for word in before if word in subcommands), "")
    if current.startswith("-"):
        options = options_of(command, *filter(None, [chosen]))
        yield from (Completion(word=option) for option in options)
        return
    if not chosen:
        yield from (Completion(word=word) for word in subcommands)

    for kind in _POSITIONALS.get(f"{command} {chosen}".strip(), "").split():
        yield from _names(url, kind)
    if command in ("report", "compare", "show"):
        for family in _names(url, "families"):
            yield Completion(word=f"{family.word}@root", meaning="the version in use")


def _subcommands(command: str) -> list[str]:
    """Return the commands below a command, as the examples in its help name them."""
    known = [name.split()[1] for name in _POSITIONALS if name.startswith(f"{command} ")]
    named = re.findall(rf"^  (?:tunetrail )?{command} ([a-z]+)\b", help_of(command), re.MULTILINE)
    return list(dict.fromkeys([*known, *named]) if known else [])


def _database_url(before: Sequence[str]) -> str:
    """Return the database that the words before name, by either spelling."""
    for override in reversed(as_overrides(before)):
        if override.startswith("database.url="):
            return override.partition("=")[2]
    return default_database_url()


def _names(url: str, kind: str) -> Iterator[Completion]:
    for name, meaning in quick_names(url, kind):
        yield Completion(word=name, meaning=meaning)


def _kinds(url: str) -> Iterator[Completion]:
    yield from (Completion(word=str(kind)) for kind in (*sample_kinds(), "conversation"))


# What follows an option, given the database.
_VALUES_OF_OPTIONS: dict[str, Callable[[str], Iterator[Completion]]] = {
    "--session": lambda url: _names(url, "sessions"),
    "--kind": _kinds,
    "--cfg": lambda url: (Completion(word=word) for word in ("job", "hydra", "all")),
    "-c": lambda url: (Completion(word=word) for word in ("job", "hydra", "all")),
    "--model-type": lambda url: (Completion(word=word) for word in _model_types()),
}
