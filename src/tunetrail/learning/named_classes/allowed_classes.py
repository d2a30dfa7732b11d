"""Find and check the classes of Lightning that a configuration names.

A configuration may come from elsewhere and must not run code of its choice. So no name is imported
unless it is listed, by the caller or by an installed package as an entry point.
"""

import importlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from tunetrail.config.argument_types import check_type
from tunetrail.config.checks import Rule
from tunetrail.config.trainer import TARGET
from tunetrail.errors import ConfigError, did_you_mean
from tunetrail.extensions import Extension, ExtensionPoint
from tunetrail.paths import conf_dir

Named = Mapping[str, Mapping[str, Any]]
"""The section of a configuration: `_target_` and arguments by name."""

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
        point: The extensions by which packages add further classes.
        provided: Arguments that `build` is called with, for the classes that have them.
    """

    section: str
    base: type[Any]
    module: str
    classes: Mapping[str, AllowedClass]
    instead: Mapping[str, str]
    point: ExtensionPoint
    provided: tuple[str, ...] = ()

    def is_built_in(self, name: str) -> bool:
        """Tell whether a name is a class of Lightning that is allowed, or an option of conf/."""
        group = conf_dir() / self.section.removeprefix("trainer.")
        return name in self.classes or (group / f"{name}.yaml").exists()

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
            self.point.check_unique(short_name)
            allowed = self.classes[short_name]
            _check_installed(key, target, allowed.packages)
            module = importlib.import_module(f"pytorch_lightning.{self.module}")
            return getattr(module, short_name), allowed

        # The metadata tells the names: only a package that is asked for gets imported.
        for extension in self.point.extensions():
            path = extension.entry_point.value.replace(":", ".")
            if target in (extension.name, path):
                return self._load(key, extension)

        known = [*self.classes, *self.point.names()]
        advice = did_you_mean(short_name, known)
        if short_name in self.instead:
            advice = f" Use {self.instead[short_name]} instead."
        raise ConfigError(f"{key} must be one of {', '.join(known)}, got {target!r}.{advice}")

    def _load(self, key: str, extension: Extension) -> tuple[type[Any], AllowedClass]:
        """Import the class of an extension; all arguments of its signature can be set."""
        extension_class = self.point.load(extension.name)
        arguments = [name for name in _parameters(extension_class) if name not in self.provided]
        return extension_class, AllowedClass(arguments=dict.fromkeys(arguments))

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
    if parameter is not None:
        check_type(key, value, parameter.annotation)
    if rule is not None and not rule.allows(value):
        raise ConfigError(f"{key} must be {rule.text}, got {value!r}.")
