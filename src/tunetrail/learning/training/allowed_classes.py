"""Find and check the classes of Lightning that a configuration names.

A configuration may come from elsewhere and must not run code of its choice. So no name is imported
unless it is listed, by the caller or by an installed package as an entry point.
"""

import importlib
import inspect
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any, Literal, Union, get_args, get_origin

from tunetrail.config.checks import Rule
from tunetrail.config.trainer import TARGET
from tunetrail.errors import ConfigError, did_you_mean, one_line

_TYPE_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "a mapping",
    type(None): "null",
}
"""The types of values that a configuration can hold, in words."""

# Not `tokens` or `keys`, which count something.
_SECRET = re.compile(r"(?i)(^|_)(api_?key|key|token|password|secret)$")


@dataclass(frozen=True, kw_only=True)
class AllowedClass:
    """A class that a configuration may name, and the arguments that it may give.

    Attributes:
        arguments: The arguments that can be set. A rule may narrow the type in the signature; for
            an argument that is passed on by `**kwargs`, the rule is all there is.
        fixed: Arguments with a value that the training decides.
        packages: Modules of which one must be installed; none is needed if empty.
    """

    arguments: Mapping[str, Rule | None] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AllowList:
    """The classes of one kind, such as callbacks.

    Attributes:
        section: Key of the configuration under which they are named.
        base: The class that all of them derive from.
        module: Lightning's module of them, below `pytorch_lightning`.
        classes: Lightning's classes that are allowed, by name.
        instead: What to set in place of a class that would clash with the training.
        entry_points: The group of entry points in which packages name further classes.
        provided: Arguments that `build` is called with, for the classes that have them.
    """

    section: str
    base: type[Any]
    module: str
    classes: Mapping[str, AllowedClass]
    instead: Mapping[str, str]
    entry_points: str
    provided: tuple[str, ...] = ()

    def find(self, name: str, target: str) -> tuple[type[Any], AllowedClass]:
        """Return the class that `target` names, and the arguments that it may get.

        Args:
            name: Name of the entry in the section, for messages.
            target: Name of a class or of an entry point, or the full path of either.

        Raises:
            ConfigError: It isn't allowed, or a package is missing or broken.
        """
        key = f"{self.section}.{name}.{TARGET}"
        short_name = target
        # Lightning is published as two packages with the same content.
        for package in ("pytorch_lightning", "lightning.pytorch"):
            short_name = short_name.removeprefix(f"{package}.{self.module}.")

        if short_name in self.classes:
            allowed = self.classes[short_name]
            _check_installed(key, target, allowed.packages)
            module = importlib.import_module(f"pytorch_lightning.{self.module}")
            return getattr(module, short_name), allowed

        # The metadata tells the names: only a package that is asked for gets imported.
        further = entry_points(group=self.entry_points)
        for entry_point in further:
            if target in (entry_point.name, entry_point.value.replace(":", ".")):
                return self._load(key, entry_point)

        known = [*self.classes, *sorted(further.names)]
        advice = did_you_mean(short_name, known)
        if short_name in self.instead:
            advice = f" Use {self.instead[short_name]} instead."
        raise ConfigError(f"{key} must be one of {', '.join(known)}, got {target!r}.{advice}")

    def _load(self, key: str, entry_point: EntryPoint) -> tuple[type[Any], AllowedClass]:
        """Import the class of an entry point; all arguments of its signature can be set."""
        try:
            entry_class = entry_point.load()
            parameters = _parameters(entry_class)
        # The import runs the package's own code, which may raise anything.
        except Exception as error:
            raise ConfigError(
                f"{key} must be a class that can be imported, got {entry_point.name!r}: "
                f"{one_line(error)}. Update its package."
            ) from error

        if not (isinstance(entry_class, type) and issubclass(entry_class, self.base)):
            raise ConfigError(
                f"{key} must be a {self.base.__name__} of Lightning, got {entry_point.name!r}, "
                f"which is {entry_class!r}. Update its package."
            )
        arguments = (argument for argument in parameters if argument not in self.provided)
        return entry_class, AllowedClass(arguments=dict.fromkeys(arguments))

    def checked(
        self, name: str, values: Mapping[str, Any]
    ) -> tuple[type[Any], AllowedClass, dict[str, Any]]:
        """Return the class of an entry, the arguments that it may get, and those that it gets.

        Raises:
            ConfigError: The class isn't allowed, or an argument is unknown, missing or wrong.
        """
        target, arguments = values[TARGET], dict(values)
        del arguments[TARGET]
        named_class, allowed = self.find(name, target)
        parameters = _parameters(named_class)

        for argument, value in arguments.items():
            key = f"{self.section}.{name}.{argument}"
            _check_argument(key, argument, named_class.__name__, allowed)
            parameter = parameters.get(argument)
            _check_value(key, value, parameter, allowed.arguments[argument])

        settled = {*arguments, *allowed.fixed, *self.provided}
        for argument, parameter in parameters.items():
            if parameter.default is parameter.empty and argument not in settled:
                raise ConfigError(
                    f"{self.section}.{name}.{argument} must be given, since "
                    f"{named_class.__name__} has no default for it."
                )
        return named_class, allowed, arguments

    def build(self, name: str, values: Mapping[str, Any], **provided: Any) -> Any:
        """Return an instance of the class of an entry.

        Args:
            name: Name of the entry in the section.
            values: `_target_` and arguments.
            provided: Arguments that the caller decides, for a class that has them.

        Raises:
            ConfigError: As for `checked`, or the class refuses an argument.
        """
        named_class, allowed, arguments = self.checked(name, values)
        # Neither kind is among the arguments that can be set, so nothing is overwritten.
        arguments |= allowed.fixed
        for argument in _parameters(named_class):
            if argument in provided:
                arguments[argument] = provided[argument]

        try:
            return named_class(**arguments)
        # What a constructor raises is its own affair: Lightning's have several kinds of errors.
        except Exception as error:
            message = " ".join(str(error).split())
            raise ConfigError(
                f"{self.section}.{name} must have arguments that {named_class.__name__} accepts, "
                f"got {dict(values)!r}. {message}"
            ) from error


def _parameters(of_class: Any) -> dict[str, inspect.Parameter]:
    """Return the parameters of a constructor that have names of their own."""
    try:
        # Modules may postpone their annotations, which are texts until then.
        signature = inspect.signature(of_class, eval_str=True)
    except NameError:  # a type that is imported for type checkers only
        signature = inspect.signature(of_class)

    unnamed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = signature.parameters.items()
    return {name: parameter for name, parameter in named if parameter.kind not in unnamed}


def _check_installed(key: str, target: str, packages: tuple[str, ...]) -> None:
    """Raise `ConfigError` if the class needs packages and none of them is installed."""
    if packages and not any(map(find_spec, packages)):
        raise ConfigError(
            f"{key} must name a class whose package is installed, got {target!r}. "
            f"Install it: pip install {packages[0]}"
        )


def _check_argument(key: str, argument: str, class_name: str, allowed: AllowedClass) -> None:
    """Raise `ConfigError` for an argument that can't be set."""
    # Runs record their configuration, in MLflow too.
    if _SECRET.search(argument):
        raise ConfigError(
            f"{key} must not be set, since runs record their configuration. "
            "Put the secret into the environment variable that the package reads."
        )
    if argument not in allowed.arguments:
        known = ", ".join(allowed.arguments) or "there is none"
        raise ConfigError(
            f"{key} must be an argument of {class_name} that can be set ({known}), got "
            f"{argument!r}.{did_you_mean(argument, allowed.arguments)}"
        )


def _check_value(
    key: str, value: Any, parameter: inspect.Parameter | None, rule: Rule | None
) -> None:
    """Raise `ConfigError` if a value doesn't have the type of its argument or breaks the rule."""
    hint = Any if parameter is None else parameter.annotation
    if hint is not inspect.Parameter.empty and not _has_type(value, hint):
        expected = " or ".join(dict.fromkeys(_words(hint)))
        raise ConfigError(f"{key} must be {expected}, got {value!r}.")

    if rule is not None and not rule.allows(value):
        raise ConfigError(f"{key} must be {rule.text}, got {value!r}.")


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """Return the types that a union stands for; the type itself if it is none."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _has_type(value: Any, hint: Any) -> bool:
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
    return words or ["left out"]
